"""Labels as they stand in files: checked one by one, and turned into what each task takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.errors import ConfigError, DataError

SEPARATOR = ";"  # between the classes of a text in one column of a CSV file
_LISTED = 12  # classes that a message names
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


class Labels(NamedTuple):
    """How the labels of a task are read.

    Args:
      columns: whose values are a label; None for the folder that a file lies in.
      read: values of the columns -> the label and None, or None and why it is none, as a clause.
      learned: `(labels, path) -> Labels` that know the classes of the training data.
      encoded: labels -> an array as the task takes it.
      info: of the source: `classes` and `class_names`, or `targets` and `target_names`.
      stored: JSON values that `labels_for` makes the same of.
    """

    columns: tuple[str, ...] | None
    read: Callable[[Sequence[Any]], tuple[Any, str | None]]
    learned: Callable[[Sequence[Any], str], Labels]
    encoded: Callable[[Sequence[Any]], np.ndarray]
    info: Mapping[str, Any]
    stored: Mapping[str, Any]


def labels_for(
    task: str,
    columns: tuple[str, ...] | None,
    prepared: Mapping[str, Any] | None = None,
    order: Sequence[str] = (),
) -> Labels:
    """Returns how the labels of a task are read.

    Args:
      task: `classify`, `multilabel` or `regress`.
      columns: names of their columns; None for classes that are folders.
      prepared: what a run has stored; None for a new one, whose classes are learned.
      order: names of classes in the order that the files give them; others are sorted.

    Raises:
      ConfigError: the task takes another number of columns.

    Example:
      >>> labels = labels_for("classify", ("mood",)).learned(["good", "bad"], "a.csv")
      >>> labels.read(["good"]), labels.encoded(["good", "bad"]).tolist()
      (('good', None), [1, 0])
    """
    names = None if prepared is None else tuple(prepared["class_names"]) if "class_names" in prepared else None
    if task == "classify":
        if columns is not None and len(columns) != 1:
            raise ConfigError(
                f"data.label: classify takes one column, got {', '.join(columns)}; use multilabel for several"
            )
        return _classes(columns, names, order)
    assert columns is not None
    if task == "regress":
        return _numbers(columns)
    return _switches(columns) if len(columns) > 1 else _sets(columns, names, order)


# -- classify -------------------------------------------------------------------------------------


def _classes(columns: tuple[str, ...] | None, names: tuple[str, ...] | None, order: Sequence[str] = ()) -> Labels:
    places = {name: i for i, name in enumerate(names or ())}

    def read(values: Sequence[Any]) -> tuple[Any, str | None]:
        name, why = _class_name(values[0])
        return (name, why) if why is not None else _known(name, names)

    def learned(labels: Sequence[Any], path: str) -> Labels:
        found = _ordered(set(labels), order)
        if len(found) < 2:
            raise DataError(f"{path}: has one class only, {found[0]!r}; there is nothing to tell apart")
        return _classes(columns, found)

    return Labels(
        columns=columns,
        read=read,
        learned=learned,
        encoded=lambda labels: np.array([places[name] for name in labels], np.int32),
        info={"classes": len(names), "class_names": list(names)} if names else {},
        stored={"class_names": list(names)} if names else {},
    )


def _class_name(value: Any) -> tuple[Any, str | None]:
    if isinstance(value, bool):
        return str(value).lower(), None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value), None
    if isinstance(value, str) and value.strip():
        return value.strip(), None
    if value is None or value == "":
        return None, "has no label"
    if isinstance(value, float):
        return None, f"its label {value} is no class; for numbers set task.name: regress"
    return None, "its label is no class" if not isinstance(value, str) else "has no label"


def _known(name: str, names: tuple[str, ...] | None) -> tuple[Any, str | None]:
    if names is None or name in names:
        return name, None
    more = ", ..." if len(names) > _LISTED else ""
    return None, f"its label {name!r} is no class of the training data ({', '.join(names[:_LISTED])}{more})"


def _ordered(names: set[str], order: Sequence[str]) -> tuple[str, ...]:
    """As they are ordered, if all are; else sorted, by value where all are integers."""
    if names <= set(order):
        return tuple(name for name in order if name in names)
    try:
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(names))


# -- multilabel -----------------------------------------------------------------------------------


def _sets(columns: tuple[str, ...], names: tuple[str, ...] | None, order: Sequence[str] = ()) -> Labels:
    """One column that lists the classes of a text."""
    places = {name: i for i, name in enumerate(names or ())}

    def read(values: Sequence[Any]) -> tuple[Any, str | None]:
        value = values[0]
        if value is None:
            return None, "has no label; an empty list says that there is none"
        parts = value.split(SEPARATOR) if isinstance(value, str) else value
        if not isinstance(parts, list):
            parts = [parts]
        held = []
        for part in parts:
            if isinstance(part, str) and not part.strip():
                continue
            name, why = _class_name(part)
            if why is None:
                name, why = _known(name, names)
            if why is not None:
                return None, why
            held.append(name)
        return tuple(held), None

    def learned(labels: Sequence[Any], path: str) -> Labels:
        found = _ordered({name for held in labels for name in held}, order)
        if not found:
            raise DataError(f"{path}: no text has a label in the column {columns[0]!r}")
        return _sets(columns, found)

    def encoded(labels: Sequence[Any]) -> np.ndarray:
        out = np.zeros((len(labels), len(places)), np.float32)
        for row, held in enumerate(labels):
            out[row, [places[name] for name in held]] = 1
        return out

    return Labels(
        columns=columns,
        read=read,
        learned=learned,
        encoded=encoded,
        info={"classes": len(names), "class_names": list(names)} if names else {},
        stored={"class_names": list(names)} if names else {},
    )


def _switches(columns: tuple[str, ...]) -> Labels:
    """One column a class, with 0 or 1 in it."""

    def read(values: Sequence[Any]) -> tuple[Any, str | None]:
        row = []
        for name, value in zip(columns, values, strict=True):
            text = str(value).strip().lower()
            if value is None or text not in _YES + _NO:
                return None, f"its {name!r} is {value!r}, expected 0 or 1"
            row.append(float(text in _YES))
        return row, None

    labels = Labels(
        columns=columns,
        read=read,
        learned=lambda _labels, _path: labels,
        encoded=lambda rows: np.array(rows, np.float32).reshape(len(rows), len(columns)),
        info={"classes": len(columns), "class_names": list(columns)},
        stored={"class_names": list(columns)},
    )
    return labels


# -- regress --------------------------------------------------------------------------------------


def _numbers(columns: tuple[str, ...]) -> Labels:
    def read(values: Sequence[Any]) -> tuple[Any, str | None]:
        row = []
        for name, value in zip(columns, values, strict=True):
            number, why = _number(name, value)
            if why is not None:
                return None, why
            row.append(number)
        return row, None

    labels = Labels(
        columns=columns,
        read=read,
        learned=lambda _labels, _path: labels,
        encoded=lambda rows: np.array(rows, np.float32).reshape(len(rows), len(columns)),
        info={"targets": len(columns), "target_names": list(columns)},
        stored={},
    )
    return labels


def _number(name: str, value: Any) -> tuple[float, str | None]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return 0.0, f"has no {name!r}"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0, f"its {name!r} is no number"
    if not math.isfinite(number) or abs(number) > float(np.finfo(np.float32).max):
        return 0.0, f"its {name!r} is {value!r}, which is no finite float32"
    return number, None
