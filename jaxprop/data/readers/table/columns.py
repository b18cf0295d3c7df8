"""What columns turn into: the sort of each is the file's, statistics and categories are the training rows'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.schema.data import Table as Section
from jaxprop.data.readers.table.files import Table
from jaxprop.data.readers.table.rows import Rows
from jaxprop.data.readers.table.values import Seen
from jaxprop.errors import DataError

_CHUNK = 2**16  # rows that are looked at together, so that mapped arrays larger than memory are never read whole
_DIGITS = 12  # of statistics: the order in which a machine adds numbers must not show in a fingerprint
_CONSTANT = 1e-9  # a standard deviation below this share of the mean is rounding
_LARGEST = float(np.finfo(np.float32).max)
_MOSTLY = 0.9  # share of a column's values that makes the others exceptions
_IDENTIFIER = 0.5  # distinct texts per row from which a column is probably no category


class Column(NamedTuple):
    """How the values of one column become features; as JSON values it is stored with a run.

    Args:
      name: of the column.
      kind: `number` or `category`.
      mean, std: of the training rows, in the column's units; 1 for the std of a constant.
      indicator: whether a second feature says that the value is missing, as it is in some training row.
      values: categories, each with a feature of its own; None is the missing value.
      other: whether rarer categories share one more feature.
    """

    name: str
    kind: str
    mean: float = 0.0
    std: float = 1.0
    indicator: bool = False
    values: tuple[str | None, ...] = ()
    other: bool = False

    @property
    def width(self) -> int:
        """Number of features."""
        return 1 + self.indicator if self.kind == "number" else len(self.values) + self.other


def sort_columns(table: Table, seen: Mapping[str, Seen], section: Section) -> tuple[list[Column], list[str]]:
    """Decides which columns hold numbers and which categories.

    Args:
      table: the training file.
      seen: what its columns hold, those to use in their order.
      section: the config's `data` section.

    Returns:
      The columns without their statistics, and notes on those left out.

    Raises:
      DataError: a column holds dates, or numbers with thousands separators.
    """
    columns, notes = [], []
    for name, found in seen.items():
        counts, present = found.counts, found.present
        if name in section.categorical:
            columns.append(Column(name, "category"))
        elif not present:
            notes.append(f"{table.name}: the column {name!r} has no value in any row and is not used")
        elif counts["date"] >= _MOSTLY * present:
            raise DataError(
                f"{table.name}: the column {name!r} holds dates ({found.examples['date']!r}), which are not read as "
                f"features; replace it by numbers, such as the month or days since a date, or set data.ignore: [{name}]"
            )
        elif is_numeric(table, name, found):
            columns.append(Column(name, "number"))
        else:
            columns.append(Column(name, "category"))
    return columns, notes


def is_numeric(table: Table, name: str, found: Seen) -> bool:
    """Returns whether a column holds numbers: nine of ten values, so that the others are exceptions to be told.

    Args:
      table: that it belongs to.
      name: of the column.
      found: what it holds.

    Raises:
      DataError: its numbers have commas of which it cannot be known what they separate, or signs of currencies or
        percent.
    """
    counts = found.counts
    commas = counts["comma"] + counts["thousand"]
    if not found.present or counts["number"] + commas + counts["marked"] < _MOSTLY * found.present:
        return False
    if counts["marked"]:
        raise DataError(
            f"{table.name}: the column {name!r} holds numbers such as {found.examples['marked']!r}; write them with a "
            "decimal point, and without thousands separators and signs of currencies or percent; or set "
            f"data.categorical: [{name}] where they are names"
        )
    if commas and (table.delimiter in (None, ",") or not counts["comma"]):
        example = found.examples["thousand" if counts["thousand"] else "comma"]
        raise DataError(
            f"{table.name}: the column {name!r} holds numbers with commas ({example!r}); write them with a "
            "decimal point and without thousands separators"
        )
    return True


def check_alike(names: Sequence[str], columns: Sequence[Sequence[Column]]) -> None:
    """Checks that files which are prepared together have the same columns, of the same sort.

    Args:
      names: of the files.
      columns: of each, from `sort_columns`.

    Raises:
      DataError: one of them has others.
    """
    first = {column.name: column.kind for column in columns[0]}
    for name, held in zip(names[1:], columns[1:], strict=True):
        sorts = {column.name: column.kind for column in held}
        for column in [*first, *sorts]:
            if column not in sorts or column not in first:
                has, lacks = (name, names[0]) if column in sorts else (names[0], name)
                raise DataError(
                    f"{has}: uses the column {column!r}, which {lacks} has not, or without any value; sources that are "
                    f"mixed need the same columns, so set data.sources.N.ignore: [{column}]"
                )
            if sorts[column] != first[column]:
                text, number = (name, names[0]) if sorts[column] == "category" else (names[0], name)
                raise DataError(
                    f"{text}: the column {column!r} holds texts, but numbers in {number}; correct its values, or set "
                    f"data.sources.N.categorical: [{column}] for both"
                )


Training = Sequence[tuple[Rows, np.ndarray]]  # rows of training files, and the indices of the training rows of each


def learn(training: Training, columns: Sequence[Column], section: Section) -> tuple[list[Column], list[str]]:
    """Learns statistics and categories.

    Args:
      training: the training rows, which may be of several files.
      columns: of `sort_columns`.
      section: with `max_categories`.

    Returns:
      The columns with what was learned, and notes on those that look like no category.
    """
    mean, std, missing = moments([(rows.numbers, train) for rows, train in training])
    name, number = training[0][0].name, sum(len(train) for _, train in training)
    learned, notes, p, q = [], [], 0, 0
    for column in columns:
        if column.kind == "number":
            learned.append(column._replace(mean=mean[p], std=std[p], indicator=bool(missing[p])))
            p += 1
            continue
        counts = Counter[str | None]()
        for rows, train in training:
            counts.update(_counts(rows.codes[:, q], train, rows.texts[q]))
        learned.append(_categories(column, counts, section.max_categories))
        texts = [text for text in counts if text is not None]
        if len(texts) > max(section.max_categories, _IDENTIFIER * number):
            notes.append(
                f"{name}: the column {column.name!r} has {len(texts)} different texts in {number} training rows, "
                f"such as {texts[0]!r}; if it only names the row, set data.ignore: [{column.name}]"
            )
        q += 1
    return learned, notes


def moments(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[list[float], list[float], list[int]]:
    """Returns mean, standard deviation and number of missing values of each column over the training rows.

    Args:
      parts: pairs of values float64 `[N, P]`, NaN where missing, and indices `[M]` of rows.

    Example:
      >>> moments([(np.array([[1.0], [3.0], [np.nan], [99.0]]), np.arange(3))])
      ([2.0], [1.0], [1])
    """
    chunks = [
        (values, rows) for values, train in parts for rows in np.array_split(train, -(-len(train) // _CHUNK) or 1)
    ]
    count = np.sum([np.count_nonzero(~np.isnan(values[rows]), axis=0) for values, rows in chunks], axis=0)
    some = np.maximum(count, 1)
    mean = np.sum([np.nansum(values[rows], axis=0) for values, rows in chunks], axis=0) / some
    square = np.sum([np.nansum((values[rows] - mean) ** 2, axis=0) for values, rows in chunks], axis=0) / some
    std = np.sqrt(square)
    std = np.where(std <= _CONSTANT * np.abs(mean), 1.0, std)
    missing = sum(len(train) for _, train in parts) - count
    return [_rounded(x) for x in mean], [_rounded(x) or 1.0 for x in std], missing.tolist()


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _counts(codes: np.ndarray, train: np.ndarray, texts: Sequence[str]) -> dict[str | None, int]:
    """How often each text occurs in the training rows, and None for a value that is missing."""
    held = codes[train].astype(np.int64)
    counts = np.bincount(np.where(held < 0, len(texts), held), minlength=len(texts) + 1)
    return {text: n for text, n in zip([*texts, None], counts.tolist(), strict=True) if n}


def _categories(column: Column, counts: Mapping[str | None, int], most: int) -> Column:
    kept = sorted(counts.items(), key=lambda one: (-one[1], one[0] is None, one[0] or ""))[:most]
    values = sorted((text for text, _ in kept), key=lambda text: (text is None, text or ""))
    return column._replace(values=tuple(values), other=len(counts) > len(kept))


class Features(NamedTuple):
    """Features of some rows, still compact.

    Args:
      numbers: float64 `[N, P]` as in the file, NaN where missing.
      codes: int32 `[N, Q]`, the category's number; -1 where a value is none that a feature stands for.
    """

    numbers: np.ndarray
    codes: np.ndarray


def encode(rows: Rows, columns: Sequence[Column]) -> tuple[Features, list[str]]:
    """Numbers the categories of rows as the training rows have them; overwrites `rows.codes`.

    Args:
      rows: of any file.
      columns: what was learned.

    Returns:
      The features, and notes on values that no training row has.
    """
    notes, codes = [], rows.codes
    numbers = [column for column in columns if column.kind == "number"]
    for q, column in enumerate(column for column in columns if column.kind == "category"):
        known = {text: code for code, text in enumerate(column.values)}
        rare = len(column.values) if column.other else -1
        table = np.array([known.get(text, rare) for text in [*rows.texts[q], None]], np.int32)
        unseen = [i for i, text in enumerate([*rows.texts[q], None]) if text not in known]
        for start in range(0, len(codes), _CHUNK):
            part = slice(start, start + _CHUNK)
            codes[part, q] = table[codes[part, q]]  # -1, missing, is the last
        number = int(np.count_nonzero(codes[:, q] < 0))
        if number and not column.other:
            notes += [_unseen(rows, column, number, rows.texts[q][unseen[0]] if unseen[0] < len(table) - 1 else None)]
    for p, column in enumerate(numbers):
        missing = int(np.count_nonzero(np.isnan(rows.numbers[:, p])))
        if missing and not column.indicator:
            which = f"{missing} row{'s' * (missing > 1)} without a value of {column.name!r}"
            notes.append(f"{rows.name}: {which}, which every training row has; the mean {column.mean:g} is taken")
    return Features(rows.numbers, codes), notes


def _unseen(rows: Rows, column: Column, number: int, example: str | None) -> str:
    what = "no value" if example is None else f"a value such as {example!r}"
    plural = "rows have" if number != 1 else "row has"
    return f"{rows.name}: {number} {plural} {what} in {column.name!r}, which no training row has; it counts as none"


def inputs_of(columns: Sequence[Column], *, one_hot: bool) -> Callable[[Features, np.ndarray], dict[str, np.ndarray]]:
    """Returns `(features, indices) -> arrays` that a model computes with: `inputs`, and `categories` as integers.

    A number is standardized, (x - mean) / std, and 0 where it is missing. Behind all numbers come their indicators,
    1 where a value is missing, and then for each category 1 in the place of its value.

    Args:
      columns: what was learned.
      one_hot: whether categories are features; otherwise `categories` int32 `[B, K]` counts them from 1, and 0 is
        a value that no training row has.
    """
    numbers = [column for column in columns if column.kind == "number"]
    categories = [column for column in columns if column.kind == "category"]
    mean, std = np.array([c.mean for c in numbers]), np.array([c.std for c in numbers])
    indicated = np.flatnonzero([c.indicator for c in numbers])
    widths = [column.width for column in categories] if one_hot else []
    offsets = len(numbers) + len(indicated) + np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)

    def take(features: Features, indices: np.ndarray) -> dict[str, np.ndarray]:
        values = features.numbers[indices]
        missing = np.isnan(values)
        inputs = np.zeros((len(indices), int(offsets[-1])), np.float32)
        inputs[:, : len(numbers)] = np.where(missing, 0.0, np.clip((values - mean) / std, -_LARGEST, _LARGEST))
        inputs[:, len(numbers) : int(offsets[0])] = missing[:, indicated]
        codes = features.codes[indices]
        if not one_hot:
            return {"inputs": inputs, **({"categories": codes + np.int32(1)} if categories else {})}
        rows, at = np.nonzero(codes >= 0)
        inputs[rows, offsets[at] + codes[rows, at]] = 1
        return {"inputs": inputs}

    return take


def stored(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Returns columns as JSON values, which `restored` reads.

    Example:
      >>> column = Column("color", "category", values=("red", None))
      >>> restored(stored([column])) == [column]
      True
    """
    return [column._asdict() | {"values": list(column.values)} for column in columns]


def restored(held: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Returns the columns that `stored` has written."""
    return [Column(**dict(column) | {"values": tuple(column["values"])}) for column in held]
