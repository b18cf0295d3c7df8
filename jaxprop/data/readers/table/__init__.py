"""Your own table from CSV, TSV, JSONL or Parquet files: features by column, the target by name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.schema.data import Table as Section
from jaxprop.data.bad import BadInputs, BadRecords
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.readers.table.columns import (
    Column,
    Features,
    check_alike,
    encode,
    inputs_of,
    learn,
    sort_columns,
)
from jaxprop.data.readers.table.files import Table, content_of
from jaxprop.data.readers.table.formats import open_table
from jaxprop.data.readers.table.piped import piped_tables
from jaxprop.data.readers.table.rows import Rows, Wanted, check_columns, read_rows
from jaxprop.data.readers.table.targets import Learned, answers_of, check_target, names_of, order_classes
from jaxprop.data.readers.table.values import look
from jaxprop.data.splits import held_out, subset
from jaxprop.data.standard_input import STDIN
from jaxprop.errors import DataError, did_you_mean
from jaxprop.types import Reader, Source

__all__ = ["TABLE", "open_splits", "open_table", "open_together", "rows_to_predict"]


def open_splits(section: Section, task: str, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Opens a table for training, or for evaluation as an earlier run has prepared its own.

    A file is read once, into float64 for numbers and int32 for categories; beyond 512 MiB these lie in a mapped
    temporary file. Numbers are standardized and categories one-hot when a batch is taken. The mean, the standard
    deviation and the categories are those of the training rows, without any row held out. Which columns hold numbers
    is decided by all rows of the training file, and the names of the classes are all that it holds.

    Args:
      section: the config's `data` section; paths are relative to the current directory.
      task: `"classify"` (one target, text or integers), `"multilabel"` (targets of zeros and ones) or `"regress"`
        (targets of numbers, which are standardized).
      prepared: what an earlier run has stored; None to learn it.

    Returns:
      `train`, and `validation` and `test` where the section has them. Batches have inputs float32 `[B, F]` and labels
      int32 `[B]` or float32 `[B, K]`. `info` holds `classes` and `class_names`, or `targets`, `target_names` and
      `target_scale`. With `prepared`, `train` is left out where no split is a part of it.

    Raises:
      DataError: a file is missing, unreadable or damaged, has not the columns that are needed, or too many bad rows.
      ConfigError: the targets do not fit the task.

    Example:
      >>> section = Section(name="table", train="sklearn:iris.csv", target="species", test=0.2)
      >>> sources = open_splits(section, "classify")
      >>> {split: source.length for split, source in sources.items()}, sources["train"].info["class_names"]
      ({'train': 120, 'test': 30}, ['setosa', 'versicolor', 'virginica'])
    """
    if prepared is None:
        return open_together([section], task)[0]
    _check_paths(section, task)
    learned, fractions = Learned.restored(prepared), _fractions(section)
    opened = {}
    if fractions:
        rows = read_rows(open_table(section.train, section.delimiter), learned.wanted(section), _bad(section))
        opened = _splits_of(_Training(rows, _divided(rows, fractions, section), [], []), learned)
    return _with_files(section, opened, learned)


def open_together(sections: Sequence[Section], task: str) -> list[dict[str, Source]]:
    """Opens tables whose rows are prepared alike, as if the training rows of all stood in one file.

    Args:
      sections: as for `open_splits`; they name the same columns.
      task: as for `open_splits`.

    Raises:
      DataError: as for `open_splits`, or the columns of two files differ.
      ConfigError: the targets do not fit the task.
    """
    for section in sections:
        _check_paths(section, task)
    read = [_training_rows(open_table(one.train, one.delimiter), one, task) for one in sections]
    check_alike([one.rows.name for one in read], [one.columns for one in read])
    if task == "classify":
        ordered = order_classes([one.rows for one in read], names_of(sections[0], task)[0])
        read = [one._replace(rows=rows) for one, rows in zip(read, ordered, strict=True)]
    read = [
        one._replace(parts=_divided(one.rows, _fractions(section), section))
        for one, section in zip(read, sections, strict=True)
    ]
    learned, notes = _learn(read, sections[0], task)
    read[0] = read[0]._replace(notes=[*read[0].notes, *notes])
    return [
        _with_files(section, _splits_of(one, learned), learned) for one, section in zip(read, sections, strict=True)
    ]


class _Training(NamedTuple):
    """What is read of a training file.

    Args:
      rows: all of them.
      parts: indices of the rows of each split that is a part of it.
      columns: by sort, without their statistics.
      notes: on the columns.
    """

    rows: Rows
    parts: dict[str, np.ndarray]
    columns: list[Column]
    notes: list[str]


def _check_paths(section: Section, task: str) -> None:
    names_of(section, task)
    for path in (section.validation, section.test):
        if isinstance(path, str):
            content_of(path)  # one that is missing is told before the training file is read


def _fractions(section: Section) -> dict[str, float]:
    return {name: part for name in ("test", "validation") if isinstance(part := getattr(section, name), float)}


def _splits_of(training: _Training, learned: Learned) -> dict[str, Source]:
    whole = _source(training.rows, learned, training.notes)
    # The notes are on the file, so that the splits made of it do not repeat them.
    quiet = whole._replace(info={name: value for name, value in whole.info.items() if name != "notes"})
    return {name: subset(whole if name == "train" else quiet, rows) for name, rows in training.parts.items()}


def _with_files(section: Section, opened: dict[str, Source], learned: Learned) -> dict[str, Source]:
    """The splits of a training file, and those that have a file of their own."""
    splits = dict(opened)
    for name in ("validation", "test"):
        path = getattr(section, name)
        if isinstance(path, str):
            table = open_table(path, section.delimiter)
            splits[name] = _source(read_rows(table, learned.wanted(section), _bad(section)), learned, [])
    return {name: splits[name] for name in ("train", "validation", "test") if name in splits}


def rows_to_predict(
    section: Section, task: str, prepared: Mapping[str, Any], paths: Sequence[str]
) -> Source | Iterator[Source]:
    """Opens rows of files or of standard input, with or without their target, as a run's own were prepared.

    Args:
      section: the config's `data` section.
      task: not looked at; what was prepared knows it.
      prepared: what the run has stored.
      paths: CSV, TSV, JSONL and Parquet files; `-` is standard input, CSV with a header or JSONL.

    Returns:
      Records without labels. `info["names"]` is the `file:line` of each, and `info["bad"]` holds the rows that cannot
      be used. With standard input among the paths, sources of rows as they come.

    Raises:
      DataError: the only file is missing or unreadable, or has not the columns that are needed.

    Example:
      >>> section = Section(name="table", train="sklearn:iris.csv", target="species")
      >>> prepared = open_splits(section, "classify")["train"].prepared
      >>> found = rows_to_predict(section, "classify", prepared, ["sklearn:iris.csv"])
      >>> found.length, found.info["names"][0], found.take(np.array([0]))["inputs"].shape
      (150, 'sklearn:iris.csv:2', (1, 4))
    """
    del task
    learned = Learned.restored(prepared)
    wanted = learned.wanted(section)._replace(targets=())
    needed = (*wanted.numbers, *wanted.texts)

    def of_files(files: Sequence[str]) -> Source:
        bad, read = BadInputs(files), []
        for path in files:
            with bad.reading(path):
                read.append(read_rows(open_table(path, section.delimiter, needed=needed), wanted, bad))
                bad.good += len(read[-1].lines)
        return _to_predict(read, bad, learned, prepared)

    def of_table(table: Table) -> Source:
        bad = BadInputs()
        try:
            return _to_predict([read_rows(table, wanted, bad)], bad, learned, prepared)
        except DataError as error:
            if table.delimiter is not None:  # the columns of all rows
                raise
            return _to_predict([], _all_bad(table, error), learned, prepared)

    if STDIN not in paths:
        return of_files(paths)
    groups = itertools.groupby(paths, key=lambda path: path == STDIN)
    return itertools.chain.from_iterable(
        map(of_table, piped_tables(section.delimiter, needed)) if piped else iter([of_files(list(group))])
        for piped, group in groups
    )


def _all_bad(table: Table, error: DataError) -> BadInputs:
    """The lines of JSONL that lack a column, which none before them has had."""
    bad, why = BadInputs(), str(error).removeprefix(f"{table.name}: ")
    for block in table.blocks():
        for line, said in sorted([*block.bad, *((int(line), why) for line in block.lines)]):
            bad.add(f"{table.name}:{line}", said)
    return bad


def _to_predict(files: Sequence[Rows], bad: BadInputs, learned: Learned, prepared: Mapping[str, Any]) -> Source:
    if not files:
        return Source(0, lambda _: {}, learned.info() | {"names": [], "bad": bad.found}, "", prepared)
    encoded = [encode(rows, learned.columns) for rows in files]
    features = Features(*(np.concatenate(parts) for parts in zip(*(found for found, _ in encoded), strict=True)))
    taking = inputs_of(learned.columns, one_hot=learned.one_hot)
    notes = [note for rows, (_, more) in zip(files, encoded, strict=True) for note in (*rows.notes, *more)]
    names = [f"{rows.name}:{line}" for rows in files for line in rows.lines.tolist()]
    return Source(
        length=len(names),
        take=lambda indices: taking(features, indices),
        info=learned.info() | {"names": names, "notes": notes, "bad": bad.found},
        fingerprint=fingerprint("table inputs", features.numbers, features.codes),
        prepared=prepared,
    )


def _bad(section: Section) -> BadRecords:
    return BadRecords(section.max_bad_fraction, unit="row")


def _training_rows(table: Table, section: Section, task: str) -> _Training:
    """The rows of a training file, not yet divided, and its columns by sort."""
    targets = names_of(section, task)
    names = _feature_names(table, section, targets)
    check_columns(table, Wanted((), tuple(names), targets, task))
    seen = look(table, [*names, *targets])
    for name in targets:
        check_target(table, name, seen.pop(name), task)
    columns, notes = sort_columns(table, seen, section)
    if not columns:
        raise DataError(f"{table.name}: has no column to learn from beside the target {', '.join(targets)}")
    numbers = tuple(column.name for column in columns if column.kind == "number")
    texts = tuple(column.name for column in columns if column.kind == "category")
    wanted = Wanted(numbers, texts, targets, task, complete=section.missing == "refuse")
    return _Training(read_rows(table, wanted, _bad(section)), {}, columns, notes)


def _feature_names(table: Table, section: Section, targets: Sequence[str]) -> list[str]:
    for key in ("ignore", "features", "categorical"):
        for name in getattr(section, key) or ():
            if name not in table.columns:
                raise DataError(f"data.{key}: {table.name} has no column {name!r}{did_you_mean(name, table.columns)}")
    chosen = section.features or [name for name in table.columns if name not in section.ignore]
    return [name for name in chosen if name not in targets]


def _divided(rows: Rows, fractions: Mapping[str, float], section: Section) -> dict[str, np.ndarray]:
    """Indices of each split: first the test rows are held out, then the validation rows of what is left."""
    left = np.arange(len(rows.lines))
    parts = {}
    for name, fraction in fractions.items():
        stays, held = held_out(rows.targets[left], fraction, section.split_seed)
        parts[name], left = left[held], left[stays]
        if not len(left):
            raise DataError(
                f"data.{name}: {fraction:g} of the {len(held)} rows of {rows.name} leaves none to train on; "
                "use a smaller fraction, or more rows"
            )
    return {"train": left, **parts}


def _learn(read: Sequence[_Training], section: Section, task: str) -> tuple[Learned, list[str]]:
    training = [(one.rows, one.parts["train"]) for one in read]
    told, notes = learn(training, read[0].columns, section)
    answers, more = answers_of(training, section, task)
    one_hot = section.categories == "one_hot"
    return Learned(task, tuple(told), names_of(section, task), one_hot=one_hot, **answers), notes + more


def _source(rows: Rows, learned: Learned, notes: Sequence[str]) -> Source:
    features, more = encode(rows, learned.columns)
    taking, labels = inputs_of(learned.columns, one_hot=learned.one_hot), learned.labels(rows)
    prepared, said = learned.stored(), [*rows.notes, *notes, *more]
    return Source(
        length=len(labels),
        take=lambda indices: {**taking(features, indices), "labels": labels[indices]},
        info=learned.info() | ({"notes": said} if said else {}),
        fingerprint=fingerprint("table", json.dumps(prepared), features.numbers, features.codes, labels),
        prepared=prepared,
        labels=lambda: labels,
        names=lambda indices: [f"{rows.name}:{line}" for line in rows.lines[indices].tolist()],
    )


TABLE = Reader(open=open_splits, inputs=rows_to_predict, together=open_together)
