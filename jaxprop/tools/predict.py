"""Predicts new data with a trained run: files in, one answer for each record out, batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop.data import READERS
from jaxprop.data.bad import BadInput
from jaxprop.data.standard_input import STDIN
from jaxprop.errors import DataError, UsageError
from jaxprop.run.loaded import LoadedRun
from jaxprop.tasks.task import options_of
from jaxprop.types import Source


class Answer(NamedTuple):
    """What is said of one record.

    Args:
      input: where the record comes from, such as `wine.csv:3`.
      values: what is predicted, as JSON values by name; empty where nothing could be.
      error: why nothing could be predicted, or None.
      pixels: returns the image that boxes were found in, uint8 `[H, W, C]`; None where the task finds none.
    """

    input: str
    values: dict[str, Any]
    error: str | None = None
    pixels: Callable[[], np.ndarray] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns a flat object for one line of JSON."""
        return {"input": self.input, **({"error": self.error} if self.error else self.values)}


def predict_inputs(
    run: LoadedRun, paths: Sequence[str], *, batch_size: int | None = None, **options: Any
) -> Iterator[list[Answer]]:
    """Predicts what lies in files, as the run's own data were read and prepared.

    Args:
      run: from `jaxprop.load`.
      paths: files, folders, or `-` for standard input, as the run's kind of data takes them.
      batch_size: records predicted at a time; default: that of the run's evaluations.
      **options: of the task: `top=5`, likeliest classes to name; `beams=4` where it writes text; `score=0.5`, lowest of
        a box to tell.

    Yields:
      The answers of one batch. A record that cannot be used has an answer with its error, and the others go on.

    Raises:
      UsageError: the run's kind of data has no files, a path is given twice, or the task has no such option.
      DataError: an input cannot be read at all.
    """
    config = run.opened.config
    kind = config.data.name
    inputs = READERS[kind].inputs if kind in READERS else None
    if inputs is None:
        raise UsageError(
            f"{run.folder.name} was trained on data.name: {kind}, which is not read from files of records; predict "
            "from Python instead: jaxprop.load(RUN).predict(arrays)"
        )
    if list(paths).count(STDIN) > 1:
        raise UsageError("standard input can be read once; give '-' once")
    task = run.opened.experiment.task
    known = {*options_of(task.answer), *options_of(task.describe)}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UsageError(f"{', '.join(unknown)}: no option of the task {config.task.name}; remove it")
    opened = inputs(config.data, config.task.name, run.opened.prepared.prepared, list(paths))
    blocks: Iterable[Source] = [opened] if isinstance(opened, Source) else opened
    size = batch_size or run.predictor.batch_size
    answered = False
    try:
        for block in blocks:
            for answers in _answers(run, block, size, options):
                yield answers
                answered = True
    except DataError as error:  # of an input that cannot be read to its end
        if not answered:
            raise
        yield [Answer("", {}, str(error))]


def _answers(run: LoadedRun, block: Source, size: int, options: Mapping[str, Any]) -> Iterator[list[Answer]]:
    """The answers of a source in batches, with its bad records where they belong."""
    names = block.info.get("names") or [str(i) for i in range(block.length)]
    bad = deque(sorted(block.info.get("bad", ()), key=lambda one: one.before))
    for rows in _batches(block.length, size):
        answers = []
        for row, answer in zip(rows.tolist(), _predicted(run, block, rows, names, options), strict=True):
            while bad and bad[0].before <= row:
                answers.append(_refused(bad.popleft()))
            answers.append(answer)
        yield answers
    if bad:
        yield [_refused(one) for one in bad]


def _refused(bad: BadInput) -> Answer:
    return Answer(bad.name, {}, bad.why)


def _batches(length: int, size: int) -> Iterator[np.ndarray]:
    for first in range(0, length, size):
        yield np.arange(first, min(first + size, length))


def _predicted(
    run: LoadedRun, source: Source, rows: np.ndarray, names: Sequence[str], options: Mapping[str, Any]
) -> list[Answer]:
    batch, errors = _taken(source, rows)
    good = [row for row in rows.tolist() if row not in errors]
    task = run.opened.experiment.task
    telling = {name: value for name, value in options.items() if name in options_of(task.describe)}
    asking = {name: value for name, value in options.items() if name not in telling}
    found = run.predict(batch, **asking) if good else {}
    say = partial(task.describe, found, info=run.info, **telling)
    place, pixels = {row: i for i, row in enumerate(good)}, source.info.get("pixels")
    return [
        Answer(str(names[row]), {}, errors[row].removeprefix(f"{names[row]}: "))
        if row in errors
        else Answer(str(names[row]), say(place[row]), pixels=None if pixels is None else partial(pixels, row))
        for row in rows.tolist()
    ]


def _taken(source: Source, rows: np.ndarray) -> tuple[dict[str, Any], dict[int, str]]:
    """Takes the records of a batch; where that fails, one by one, to leave out those that cannot be read."""
    try:
        return source.take(rows), {}
    except (DataError, OSError):
        taken, errors = [], {}
        for row in rows.tolist():
            try:
                taken.append(source.take(np.asarray([row])))
            except (DataError, OSError) as error:
                errors[row] = str(error)
        batch = jax.tree.map(lambda *pieces: np.concatenate(pieces), *taken) if taken else {}
        return batch, errors


def rows_of(answer: Answer) -> list[dict[str, Any]]:
    """Returns an answer as rows of a table: one for each box, and otherwise one.

    Example:
      >>> box = {"class": "cat", "score": 0.9, "box": [1.0, 2.0, 3.0, 4.0]}
      >>> rows_of(Answer("a.png", {"boxes": [box]}))
      [{'input': 'a.png', 'class': 'cat', 'score': 0.9, 'x0': 1.0, 'y0': 2.0, 'x1': 3.0, 'y1': 4.0}]
      >>> rows_of(Answer("b.png", {"boxes": []}))[0]["class"]
      ''
    """
    if "boxes" not in answer.values:
        return [{"input": answer.input, **flat(answer.values)}]
    edges = ("x0", "y0", "x1", "y1")
    # An image without any has a row of its own, so that none is missing.
    return [
        {
            "input": answer.input,
            "class": box["class"],
            "score": box["score"],
            **dict(zip(edges, box["box"], strict=True)),
        }
        for box in answer.values["boxes"]
    ] or [{"input": answer.input, **dict.fromkeys(("class", "score", *edges), "")}]


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of an answer as cells of a table.

    Example:
      >>> flat({"label": "dog", "probability": 0.75, "top": {"dog": 0.75, "cat": 0.25}})
      {'label': 'dog', 'probability': 0.75, 'label_2': 'cat', 'probability_2': 0.25}
      >>> flat({"labels": ["a", "b"], "probabilities": {"a": 0.9, "b": 0.8}})
      {'labels': 'a b', 'probability_a': 0.9, 'probability_b': 0.8}
      >>> flat({"words": [{"word": "one", "start": 0.1, "end": 0.35}]})
      {'words': 'one 0.10-0.35'}
    """
    cells: dict[str, Any] = {}
    for name, value in values.items():
        if name == "top":
            for rank, (label, share) in list(enumerate(value.items(), 1))[1:]:
                cells |= {f"label_{rank}": label, f"probability_{rank}": share}
        elif name == "words":
            cells[name] = "  ".join(f"{one['word']} {one['start']:.2f}-{one['end']:.2f}" for one in value)
        elif name == "probabilities":
            cells |= {f"probability_{label}": share for label, share in value.items()}
        else:
            cells[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    return cells
