"""Your own table from CSV, TSV, JSONL or Parquet files: features by column, the target by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprop.config.schema.data import Table as Section
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.readers.table.columns import Column, Features, encode, inputs_of, learn, sort_columns
from jaxprop.data.readers.table.files import Table, content_of
from jaxprop.data.readers.table.formats import open_table
from jaxprop.data.readers.table.rows import Rows, Wanted, check_columns, read_rows
from jaxprop.data.readers.table.targets import Learned, answers_of, check_target, names_of, order_classes
from jaxprop.data.readers.table.values import look
from jaxprop.data.splits import held_out, subset
from jaxprop.errors import DataError, did_you_mean
from jaxprop.types import Reader, Source

__all__ = ["TABLE", "open_splits", "open_table", "rows_to_predict"]


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
    names_of(section, task)
    for path in (section.validation, section.test):
        if isinstance(path, str):
            content_of(path)  # one that is missing is told before the training file is read
    fractions = {name: part for name in ("test", "validation") if isinstance(part := getattr(section, name), float)}
    splits: dict[str, Source] = {}
    learned = None if prepared is None else Learned.restored(prepared)
    if learned is None or fractions:
        table = open_table(section.train, section.delimiter)
        rows, sorted_columns, notes = _training_rows(table, section, task, learned)
        parts = _divided(rows, fractions, section)
        if learned is None:
            learned, more = _learn(rows, parts["train"], sorted_columns, section, task)
            notes += more
        whole = _source(rows, learned, notes)
        # The notes are on the file, so that the splits made of it do not repeat them.
        quiet = whole._replace(info={name: value for name, value in whole.info.items() if name != "notes"})
        splits = {name: subset(whole if name == "train" else quiet, indices) for name, indices in parts.items()}
    assert learned is not None
    for name in ("validation", "test"):
        path = getattr(section, name)
        if isinstance(path, str):
            splits[name] = _source(
                read_rows(open_table(path, section.delimiter), learned.wanted(section), section.max_bad_fraction),
                learned,
                [],
            )
    return {name: splits[name] for name in ("train", "validation", "test") if name in splits}


def rows_to_predict(section: Section, task: str, prepared: Mapping[str, Any], paths: Sequence[str]) -> Source:
    """Opens rows of files or of standard input, with or without their target, as a run's own were prepared.

    Args:
      section: the config's `data` section.
      task: not looked at; what was prepared knows it.
      prepared: what the run has stored.
      paths: CSV, TSV, JSONL and Parquet files; `-` is standard input, CSV with a header or JSONL.

    Returns:
      Records without labels. `info["names"]` is the `file:line` of each.

    Raises:
      DataError: as for `open_splits`.

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
    files = [
        read_rows(open_table(path, section.delimiter, fixed=False), wanted, section.max_bad_fraction) for path in paths
    ]
    encoded = [encode(rows, learned.columns) for rows in files]
    features = Features(*(np.concatenate(parts) for parts in zip(*(found for found, _ in encoded), strict=True)))
    taking = inputs_of(learned.columns, one_hot=learned.one_hot)
    notes = [note for rows, (_, more) in zip(files, encoded, strict=True) for note in (*rows.notes, *more)]
    names = [f"{rows.name}:{line}" for rows in files for line in rows.lines.tolist()]
    return Source(
        length=len(names),
        take=lambda indices: taking(features, indices),
        info=learned.info() | {"names": names, "notes": notes},
        fingerprint=fingerprint("table inputs", features.numbers, features.codes),
        prepared=prepared,
    )


def _training_rows(
    table: Table, section: Section, task: str, learned: Learned | None
) -> tuple[Rows, list[Column], list[str]]:
    """The rows of the training file, its columns by sort, and what there is to tell of them."""
    if learned is not None:
        return read_rows(table, learned.wanted(section), section.max_bad_fraction), [], []
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
    rows = read_rows(table, wanted, section.max_bad_fraction)
    return (order_classes(rows, targets[0]) if task == "classify" else rows), columns, notes


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


def _learn(
    rows: Rows, train: np.ndarray, columns: list[Column], section: Section, task: str
) -> tuple[Learned, list[str]]:
    told, notes = learn(rows, train, columns, section)
    answers, more = answers_of(rows, train, section, task)
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
    )


TABLE = Reader(open=open_splits, inputs=rows_to_predict)
