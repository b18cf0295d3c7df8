"""The targets of a table: classes by name, numbers in units of their standard deviation, or zeros and ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.schema.data import Table as Section
from jaxprop.data.readers.table.columns import Column, Training, is_numeric, moments, restored, stored
from jaxprop.data.readers.table.files import Table
from jaxprop.data.readers.table.rows import Rows, Wanted
from jaxprop.data.readers.table.values import Seen
from jaxprop.errors import ConfigError, DataError

_INTEGER = re.compile(r"-?\d+", re.ASCII)
_FRACTION = re.compile(r"-?\d*\.\d+(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_FEW_ROWS = 10  # a table with fewer may have a class a row


class Learned(NamedTuple):
    """What was learned of a training table: everything that other rows need to be prepared alike.

    Args:
      task: that it was prepared for.
      columns: the features.
      targets: names of the target columns.
      one_hot: whether categories are one-hot features.
      classes: names of the classes; of classify.
      scale: mean and standard deviation of each target over the training rows; of regress.
    """

    task: str
    columns: tuple[Column, ...]
    targets: tuple[str, ...]
    one_hot: bool = True
    classes: tuple[str, ...] = ()
    scale: tuple[tuple[float, float], ...] = ()

    def stored(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return {
            "task": self.task,
            "columns": stored(self.columns),
            "targets": list(self.targets),
            "one_hot": self.one_hot,
            "classes": list(self.classes),
            "scale": [list(pair) for pair in self.scale],
        }

    @classmethod
    def restored(cls, held: Mapping[str, Any]) -> Learned:
        """Returns what `stored` has written.

        Raises:
          DataError: something else has.
        """
        try:
            return cls(
                task=held["task"],
                columns=tuple(restored(held["columns"])),
                targets=tuple(held["targets"]),
                one_hot=held["one_hot"],
                classes=tuple(held["classes"]),
                scale=tuple((mean, std) for mean, std in held["scale"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"what this run has kept of its table is damaged or of another version ({type(error).__name__}); "
                "train it again"
            ) from error

    def wanted(self, section: Section) -> Wanted:
        """Returns what to read of another file."""
        return Wanted(
            numbers=tuple(column.name for column in self.columns if column.kind == "number"),
            texts=tuple(column.name for column in self.columns if column.kind == "category"),
            targets=self.targets,
            task=self.task,
            classes=self.classes if self.task == "classify" else None,
            complete=section.missing == "refuse",
        )

    def info(self) -> dict[str, Any]:
        """Returns what a task needs to know."""
        found: dict[str, Any] = {"target_names": list(self.targets)}
        if self.task == "classify":
            found |= {"classes": len(self.classes), "class_names": list(self.classes)}
        elif self.task == "multilabel":
            found |= {"classes": len(self.targets), "class_names": list(self.targets)}
        else:
            found |= {"targets": len(self.targets), "target_scale": [list(pair) for pair in self.scale]}
        categories = [column for column in self.columns if column.kind == "category"]
        if categories and not self.one_hot:
            found["categories"] = [column.width + 1 for column in categories]
        return found

    def labels(self, rows: Rows) -> np.ndarray:
        """Returns the labels of rows: int32 `[N]`, or float32 `[N, K]`, standardized for regress."""
        if self.task == "classify":
            return rows.targets
        if self.task == "multilabel":
            return rows.targets.astype(np.float32)
        mean, std = np.array(self.scale).T
        return ((rows.targets - mean) / std).astype(np.float32)


def names_of(section: Section, task: str) -> tuple[str, ...]:
    """Returns the names of the targets.

    Raises:
      ConfigError: their number does not fit the task.

    Example:
      >>> names_of(Section(name="table", train="wine.csv", target="quality"), "classify")
      ('quality',)
    """
    names = (section.target,) if isinstance(section.target, str) else section.target
    if task == "classify" and len(names) != 1:
        raise ConfigError(
            f"data.target: classify has one target, got {len(names)}; name one, or set task.name: multilabel where "
            "each is 0 or 1"
        )
    return names


def check_target(table: Table, name: str, found: Seen, task: str) -> None:
    """Checks that the target of a training file is what the task learns, before its rows are read.

    Args:
      table: the file.
      name: of the target.
      found: what it holds.
      task: the task.

    Raises:
      DataError: it is not.
    """
    if not found.present:
        raise DataError(f"{table.name}: the target {name!r} has no value in any row; name another data.target")
    if task == "regress" and not is_numeric(table, name, found):
        example = next(value for sort, value in found.examples.items() if sort not in ("number", "missing"))
        raise DataError(
            f"{table.name}: the target {name!r} holds texts such as {example!r}, not numbers; set task.name: classify"
        )


def order_classes(files: Sequence[Rows], target: str) -> list[Rows]:
    """Numbers the classes of training files in the order of their names, integers by value.

    Args:
      files: with the classes of each in the order in which they occur.
      target: name of the target.

    Returns:
      The files, with the classes of all.

    Raises:
      DataError: there is one class, or there are nearly as many as rows.
    """
    where, number = files[0].name, sum(len(rows.targets) for rows in files)
    held = [np.bincount(rows.targets, minlength=len(rows.classes)).tolist() for rows in files]
    there = list(
        dict.fromkeys(
            name
            for rows, counts in zip(files, held, strict=True)
            for name, n in zip(rows.classes, counts, strict=True)
            if n
        )
    )
    if len(there) == 1:
        raise DataError(
            f"{where}: the target {target!r} is {there[0]!r} in every row, so that there is nothing to learn; "
            "use rows of at least two classes"
        )
    fraction = next((name for name in there if _FRACTION.fullmatch(name)), None)
    if fraction is not None and all(_INTEGER.fullmatch(name) or _FRACTION.fullmatch(name) for name in there):
        raise DataError(
            f"{where}: the target {target!r} holds numbers such as {fraction}, which are no classes; "
            "set task.name: regress"
        )
    if number >= _FEW_ROWS and 2 * len(there) > number:
        fix = "set task.name: regress" if _INTEGER.fullmatch(there[0]) else "name another data.target"
        raise DataError(
            f"{where}: the target {target!r} has {len(there)} different values in {number} rows, such "
            f"as {there[0]!r}, which are no classes; {fix}"
        )
    integers = all(_INTEGER.fullmatch(name) for name in there)
    names = sorted(there, key=lambda name: (int(name), name)) if integers else sorted(there)
    place = {name: i for i, name in enumerate(names)}
    tables = [np.array([place.get(name, -1) for name in rows.classes], np.int32) for rows in files]
    return [
        rows._replace(targets=table[rows.targets], classes=names) for rows, table in zip(files, tables, strict=True)
    ]


def answers_of(training: Training, section: Section, task: str) -> tuple[dict[str, Any], list[str]]:
    """Learns the classes, or mean and standard deviation of the targets; returns them and notes.

    Args:
      training: the training rows, which may be of several files.
      section: the config's `data` section.
      task: the task.

    Raises:
      DataError: a target is the same number in every training row.
    """
    names, where = names_of(section, task), training[0][0].name
    if task == "multilabel":
        return {}, []
    if task == "classify":
        classes = training[0][0].classes
        counts = sum(np.bincount(rows.targets[train], minlength=len(classes)) for rows, train in training)
        rare = [name for name, n in zip(classes, np.asarray(counts).tolist(), strict=True) if not n]
        notes = [f"{where}: all rows of the class {name!r} are held out, so that it cannot be learned" for name in rare]
        return {"classes": tuple(classes)}, notes
    for column, name in enumerate(names):
        first = training[0][0].targets[training[0][1][0], column]
        if all(np.all(rows.targets[train, column] == first) for rows, train in training):
            raise DataError(
                f"{where}: the target {name!r} is {first:g} in every training row, so that there is nothing to learn"
            )
    mean, std, _ = moments([(rows.targets, train) for rows, train in training])
    return {"scale": tuple(zip(mean, std, strict=True))}, []
