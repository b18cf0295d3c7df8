"""The features of a table in their order, each with how it is computed, for programs that have no jaxprop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprop.data.readers.table.columns import Column


def described(columns: Sequence[Column], *, one_hot: bool) -> list[dict[str, Any]]:
    """Returns the entries of the arrays that a model takes, in order, as JSON values.

    Args:
      columns: what was learned.
      one_hot: as of `jaxprop.data.readers.table.columns.inputs_of`.

    Returns:
      For each entry its `array` and its place `at` there, the `column`, its `kind`, and `how` it is computed. A
      `number` has `mean` and `std`, a `category` its `value`, and `codes` their `values`; null is the missing value.

    Example:
      >>> columns = [Column("color", "category", values=("red", None)), Column("size", "number", 2.0, 0.5)]
      >>> for entry in described(columns, one_hot=True):
      ...     print(entry["at"], entry["column"], entry["kind"], "-", entry["how"])
      0 size number - (x - 2.0) / 0.5; 0 where it is missing
      1 color category - 1 where it is "red", else 0
      2 color category - 1 where it is missing, else 0
    """
    numbers = [column for column in columns if column.kind == "number"]
    categories = [column for column in columns if column.kind == "category"]
    entries = [
        _entry(c, "number", f"(x - {c.mean!r}) / {c.std!r}; 0 where it is missing", mean=c.mean, std=c.std)
        for c in numbers
    ]
    entries += [_entry(c, "missing", "1 where it is missing, else 0") for c in numbers if c.indicator]
    if one_hot:
        for column in categories:
            entries += [
                _entry(column, "category", f"1 where it is {_shown(value)}, else 0", value=value)
                for value in column.values
            ]
            entries += [_entry(column, "other", "1 where it is none of these, else 0")] * column.other
    found = [{"array": "inputs", "at": at, **entry} for at, entry in enumerate(entries)]
    coded = [] if one_hot else categories
    return found + [{"array": "categories", "at": at, **_codes(column)} for at, column in enumerate(coded)]


def _entry(column: Column, kind: str, how: str, **more: Any) -> dict[str, Any]:
    return {"column": column.name, "kind": kind, "how": how, **more}


def _codes(column: Column) -> dict[str, Any]:
    listed = ", ".join(f"{code} {_shown(value)}" for code, value in enumerate(column.values, 1))
    rest = f", {len(column.values) + 1} any other" if column.other else ", 0 any other"
    return _entry(column, "codes", listed + rest, values=list(column.values), other=column.other)


def _shown(value: str | None) -> str:
    return "missing" if value is None else json.dumps(value, ensure_ascii=False)


def sample(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns values of the columns that make an example to show: numbers near the mean, and known categories.

    Example:
      >>> sample(described([Column("size", "number", 2.123456, 0.5)], one_hot=True))
      {'size': 2.62}
    """
    row: dict[str, Any] = {}
    for entry in entries:
        values = entry.get("values") or [entry.get("value")]
        if entry["kind"] == "number":
            row[entry["column"]] = float(f"{entry['mean'] + entry['std']:.3g}")
        elif entry["kind"] in ("category", "codes") and row.get(entry["column"]) is None:
            row[entry["column"]] = values[0]
    return row


def encoded(entries: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Computes the arrays of one row, float32 `[1, F]` and int32 `[1, K]`, by the description alone.

    Args:
      entries: of `described`.
      row: values by column; None where one is missing.

    Example:
      >>> columns = [Column("color", "category", values=("red", None)), Column("size", "number", 2.0, 0.5)]
      >>> encoded(described(columns, one_hot=True), {"color": "red", "size": 3.0})["inputs"].tolist()
      [[2.0, 1.0, 0.0]]
    """
    known: dict[str, set[str | None]] = {entry["column"]: set() for entry in entries}
    for entry in entries:
        if entry["kind"] == "category":
            known[entry["column"]].add(entry["value"])
    arrays: dict[str, list[float]] = {}
    for entry in entries:
        arrays.setdefault(entry["array"], []).append(_value(entry, row[entry["column"]], known[entry["column"]]))
    dtypes = {"inputs": np.float32, "categories": np.int32}
    return {name: np.asarray([values], dtypes[name]) for name, values in arrays.items()}


def _value(entry: Mapping[str, Any], value: Any, known: set[str | None]) -> float:
    kind = entry["kind"]
    if kind == "number":
        return 0.0 if value is None else (value - entry["mean"]) / entry["std"]
    if kind == "missing":
        return float(value is None)
    if kind == "category":
        return float(value == entry["value"])
    if kind == "other":
        return float(value not in known)
    values = entry["values"]
    return values.index(value) + 1 if value in values else (len(values) + 1) * entry["other"]
