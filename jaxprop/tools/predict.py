"""Predicts new data with a trained run: files in, one answer for each record out, batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop.data import READERS
from jaxprop.data.bad import BadInput
from jaxprop.data.standard_input import STDIN
from jaxprop.errors import DataError, UsageError
from jaxprop.run.loaded import LoadedRun
from jaxprop.types import Source

TOP = 3  # likeliest classes that an answer names
LIKELY = 0.5  # probability from which a label of a multi-label classification is told


class Answer(NamedTuple):
    """What is said of one record.

    Args:
      input: where the record comes from, such as `wine.csv:3`.
      values: what is predicted, as JSON values by name; empty where nothing could be.
      error: why nothing could be predicted, or None.
    """

    input: str
    values: dict[str, Any]
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns a flat object for one line of JSON."""
        return {"input": self.input, **({"error": self.error} if self.error else self.values)}


def predict_inputs(
    run: LoadedRun, paths: Sequence[str], *, batch_size: int | None = None, top: int = TOP, **options: Any
) -> Iterator[list[Answer]]:
    """Predicts what lies in files, as the run's own data were read and prepared.

    Args:
      run: from `jaxprop.load`.
      paths: files, folders, or `-` for standard input, as the run's kind of data takes them.
      batch_size: records predicted at a time; default: that of the run's evaluations.
      top: likeliest classes that an answer names.
      **options: of the task, such as `beams=4` where it writes text.

    Yields:
      The answers of one batch. A record that cannot be used has an answer with its error, and the others go on.

    Raises:
      UsageError: the run's kind of data has no files, or a path is given twice.
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
    opened = inputs(config.data, config.task.name, run.opened.prepared.prepared, list(paths))
    blocks: Iterable[Source] = [opened] if isinstance(opened, Source) else opened
    size = batch_size or run.predictor.batch_size
    answered = False
    try:
        for block in blocks:
            for answers in _answers(run, block, size, top, options):
                yield answers
                answered = True
    except DataError as error:  # of an input that cannot be read to its end
        if not answered:
            raise
        yield [Answer("", {}, str(error))]


def _answers(run: LoadedRun, block: Source, size: int, top: int, options: Mapping[str, Any]) -> Iterator[list[Answer]]:
    """The answers of a source in batches, with its bad records where they belong."""
    names = block.info.get("names") or [str(i) for i in range(block.length)]
    bad = deque(sorted(block.info.get("bad", ()), key=lambda one: one.before))
    for rows in _batches(block.length, size):
        answers = []
        for row, answer in zip(rows.tolist(), _predicted(run, block, rows, names, top, options), strict=True):
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
    run: LoadedRun, source: Source, rows: np.ndarray, names: Sequence[str], top: int, options: Mapping[str, Any]
) -> list[Answer]:
    batch, errors = _taken(source, rows)
    good = [row for row in rows.tolist() if row not in errors]
    found = run.predict(batch, **options) if good else {}
    of_task = run.opened.experiment.task.describe
    say = partial(describe, info=run.info, top=top) if of_task is None else of_task
    place = {row: i for i, row in enumerate(good)}
    return [
        Answer(str(names[row]), {}, errors[row].removeprefix(f"{names[row]}: "))
        if row in errors
        else Answer(str(names[row]), say(found, place[row]))
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


def describe(found: Mapping[str, np.ndarray], i: int, info: Mapping[str, Any], top: int = TOP) -> dict[str, Any]:
    """Says one example's prediction in words and numbers.

    Args:
      found: predictions of a batch, `[N, ...]` each.
      i: the example.
      info: of the training data: `class_names`, `target_names`.
      top: likeliest classes to name.

    Returns:
      For a class: `label`, `probability` and, likeliest first, `top`. For several labels: `labels` and all
      `probabilities`. For numbers: each by the name of its target. Everything else as it is.

    Example:
      >>> found = {"class": np.array([1]), "probability": np.array([0.75]), "probabilities": np.array([[0.25, 0.75]])}
      >>> describe(found, 0, {"class_names": ["cat", "dog"]})
      {'label': 'dog', 'probability': 0.75, 'top': {'dog': 0.75, 'cat': 0.25}}
      >>> describe({"value": np.array([[1.5, 2.0]])}, 0, {"target_names": ["price", "weight"]})
      {'price': 1.5, 'weight': 2.0}
    """
    classes, targets = info.get("class_names") or (), info.get("target_names") or ()
    if "class" in found and "probabilities" in found:
        shares = found["probabilities"][i]
        order = np.argsort(-shares, kind="stable")[:top].tolist()
        said = {"label": _name(classes, int(found["class"][i])), "probability": _number(found["probability"][i])}
        return said | {"top": {str(_name(classes, c)): _number(shares[c]) for c in order}}
    if set(found) == {"probability"} and found["probability"].ndim == 2:
        shares = found["probability"][i]
        told = [_name(classes, c) for c in np.flatnonzero(shares > LIKELY).tolist()]
        return {"labels": told, "probabilities": {str(_name(classes, c)): _number(p) for c, p in enumerate(shares)}}
    if set(found) == {"value"}:
        values = np.ravel(found["value"][i])
        names = list(targets) if len(targets) == len(values) else [f"value_{k}" for k in range(len(values))]
        names = ["value"] if len(values) == 1 and not targets else names
        return {name: _number(value) for name, value in zip(names, values, strict=True)}
    return {name: _plain(values[i]) for name, values in found.items()}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of an answer as cells of a table.

    Example:
      >>> flat({"label": "dog", "probability": 0.75, "top": {"dog": 0.75, "cat": 0.25}})
      {'label': 'dog', 'probability': 0.75, 'label_2': 'cat', 'probability_2': 0.25}
      >>> flat({"labels": ["a", "b"], "probabilities": {"a": 0.9, "b": 0.8}})
      {'labels': 'a b', 'probability_a': 0.9, 'probability_b': 0.8}
    """
    cells: dict[str, Any] = {}
    for name, value in values.items():
        if name == "top":
            for rank, (label, share) in list(enumerate(value.items(), 1))[1:]:
                cells |= {f"label_{rank}": label, f"probability_{rank}": share}
        elif name == "probabilities":
            cells |= {f"probability_{label}": share for label, share in value.items()}
        else:
            cells[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    return cells


def _name(names: Sequence[str], index: int) -> str | int:
    return names[index] if index < len(names) else index


def _number(value: Any) -> float:
    """A float32 with the digits that it has, so that 0.1 is not printed as 0.10000000149."""
    return float(f"{float(value):.7g}")


def _plain(value: Any) -> Any:
    value = np.asarray(value)
    if value.dtype.kind == "f":
        return [_plain(item) for item in value] if value.ndim else _number(value)
    return value.tolist()
