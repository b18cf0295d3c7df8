"""The rows of a table as arrays: numbers and codes of texts, with bad rows told and left out."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.bad import BadRecords
from jaxprop.data.readers.table.files import Block, Table
from jaxprop.data.readers.table.values import numbers, texts
from jaxprop.data.rows import NAMES, other_delimiter
from jaxprop.errors import DataError, did_you_mean

# Arrays up to this size stay in memory; larger ones go to a temporary file that is mapped, and gone with the process.
MEMORY_BYTES = 2**29
_TRUTHS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}


class Wanted(NamedTuple):
    """What is read of each row.

    Args:
      numbers: names of the columns that hold numbers.
      texts: names of the columns that hold texts.
      targets: names of the targets; none where rows are to be predicted.
      task: what the targets are: one text (classify), numbers (regress), or zeros and ones (multilabel).
      classes: the texts that the target may be; None where all may.
      complete: whether a row with a missing feature is bad.
      comma: whether a comma may separate the decimals of a number.
    """

    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    targets: tuple[str, ...]
    task: str
    classes: tuple[str, ...] | None = None
    complete: bool = False
    comma: bool = False


class Rows(NamedTuple):
    """The rows of one file.

    Args:
      name: of the file.
      numbers: float64 `[N, P]`, NaN where a value is missing.
      codes: int32 `[N, Q]`, -1 where a value is missing; of the texts of this file.
      texts: for each of the Q columns, the texts by code.
      targets: int32 `[N]`, codes of classes; or float64 `[N, K]`.
      classes: the texts of the target by code.
      lines: int64 `[N]`.
      notes: on what was left out.
    """

    name: str
    numbers: np.ndarray
    codes: np.ndarray
    texts: list[list[str]]
    targets: np.ndarray
    classes: list[str]
    lines: np.ndarray
    notes: list[str]


def check_columns(table: Table, wanted: Wanted) -> None:
    """Checks that a table has the columns that are wanted, and that these can be used.

    Raises:
      DataError: it does not, or they cannot.
    """
    for name in (*wanted.targets, *wanted.numbers, *wanted.texts):
        if name not in table.columns:
            _check_delimiter(table)
            what = "target column" if name in wanted.targets else "column"
            told = next((note for note in table.notes if repr(name) in note), None)
            if told is not None:  # it is there, and why it is not used has been found out
                raise DataError(told)
            raise DataError(
                f"{table.name}: has no {what} {name!r}{did_you_mean(name, table.columns)} (it has: "
                f"{', '.join(table.columns[:30])}{', ...' * (len(table.columns) > 30)})"
            )
        if name in table.refused:
            raise DataError(f"{table.name}: the column {name!r} {table.refused[name]}; or set data.ignore: [{name}]")


def _check_delimiter(table: Table) -> None:
    """A table that has one column is probably read with the wrong delimiter."""
    if len(table.columns) > 1 or table.delimiter is None:
        return
    other = other_delimiter(table.columns[0])
    fix = f"set data.delimiter: {json.dumps(other)}" if other else "a table needs a target and at least one more column"
    raise DataError(
        f"{table.name}: has only one column, {_cut(table.columns[0])}, when its values are separated by "
        f"{NAMES.get(table.delimiter, repr(table.delimiter))}; {fix}"
    )


def read_rows(table: Table, wanted: Wanted, bad: BadRecords) -> Rows:
    """Reads the rows of a table.

    Args:
      table: the table.
      wanted: what to read of it.
      bad: takes the rows that cannot be used.

    Raises:
      DataError: a column is missing, or too many rows are bad.
    """
    check_columns(table, wanted)
    wanted = wanted._replace(comma=table.delimiter not in (None, ","))
    vocabularies: list[dict[str, int]] = [{} for _ in wanted.texts]
    classes = {name: code for code, name in enumerate(wanted.classes or ())}
    parts = [_Growing(np.float64), _Growing(np.int32), _Growing(np.float64), _Growing(np.int64)]
    rows = good = 0
    for block in table.blocks():
        problems: dict[int, str] = {}
        arrays = (
            _numbers(block, wanted, problems),
            _codes(block, wanted, vocabularies, problems),
            _targets(block, wanted, classes, problems),
            block.lines,
        )
        told = [*block.bad, *((int(block.lines[row]), why) for row, why in problems.items())]
        keep = np.ones(len(block.lines), bool)
        keep[list(problems)] = False
        kept = block.lines[keep]
        for line, why in sorted(told, key=lambda one: one[0]):
            bad.add(f"{table.name}:{line}", why, before=good + int(np.searchsorted(kept, line)))
        good += len(kept)
        rows += len(told) + len(kept)
        for part, array in zip(parts, arrays, strict=True):
            part.add(array[keep])
    notes = [*table.notes, *bad.notes(rows)]
    held = [part.array() for part in parts]
    targets = held[2][:, 0].astype(np.int32) if wanted.task == "classify" and wanted.targets else held[2]
    return Rows(table.name, held[0], held[1], [list(v) for v in vocabularies], targets, list(classes), held[3], notes)


def _numbers(block: Block, wanted: Wanted, problems: dict[int, str]) -> np.ndarray:
    out = np.empty((len(block.lines), len(wanted.numbers)))
    for column, name in enumerate(wanted.numbers):
        array = block.columns[name]
        out[:, column], wrong = numbers(array, comma=wanted.comma)
        for row in np.flatnonzero(wrong).tolist():
            why = f"{name!r} is {_shown(array, row)}, which is no finite number; leave it empty if it is missing"
            problems.setdefault(row, why)
        if wanted.complete:
            _missing(np.isnan(out[:, column]), name, problems)
    return out


def _codes(block: Block, wanted: Wanted, vocabularies: list[dict[str, int]], problems: dict[int, str]) -> np.ndarray:
    out = np.empty((len(block.lines), len(wanted.texts)), np.int32)
    for column, name in enumerate(wanted.texts):
        out[:, column] = _coded(block.columns[name], vocabularies[column])
        if wanted.complete:
            _missing(out[:, column] < 0, name, problems)
    return out


def _coded(array: Any, vocabulary: dict[str, int]) -> np.ndarray:
    """Codes of a vocabulary that grows with what is new."""
    codes, names = texts(array)
    table = [vocabulary.setdefault(name, len(vocabulary)) for name in names]
    return np.array([*table, -1], np.int64)[codes]  # -1 is the last


def _missing(missing: np.ndarray, name: str, problems: dict[int, str]) -> None:
    for row in np.flatnonzero(missing).tolist():
        problems.setdefault(row, f"{name!r} has no value")


def _targets(block: Block, wanted: Wanted, classes: dict[str, int], problems: dict[int, str]) -> np.ndarray:
    out = np.zeros((len(block.lines), len(wanted.targets)))
    for column, name in enumerate(wanted.targets):
        array, found = block.columns[name], {}
        if wanted.task == "regress":
            out[:, column], wrong = numbers(array, comma=wanted.comma)
            found = {row: f"the target {name!r} is {_shown(array, row)}, not a finite number" for row in _true(wrong)}
            missing = np.isnan(out[:, column])
        else:
            codes, names = texts(array)
            values = [_answer(text, wanted, classes) for text in names]
            out[:, column] = np.array([*values, np.nan])[codes]
            missing = codes < 0
            expected = _expected(wanted, classes)
            for row in _true(np.isnan(out[:, column]) & ~missing):
                found[row] = f"the target {name!r} is {_shown(array, row)}, {expected}"
        found |= {row: _without(array, row, name, wanted.task) for row in _true(missing) if row not in found}
        for row, why in found.items():
            problems.setdefault(row, why)
    return np.where(np.isnan(out), 0.0, out)


def _without(array: Any, row: int, target: str, task: str) -> str:
    """What there is to say of a missing target; a text such as None may be meant as a class."""
    value = array[row].as_py()
    if task != "classify" or not isinstance(value, str) or not value.strip():
        return f"the target {target!r} has no value"
    text = value.strip()
    return (
        f"the target {target!r} is {_cut(text)}, which is read as a missing value; if it is a class, write another "
        f"name for it, such as {_cut('no_' + target)}"
    )


def _answer(text: str, wanted: Wanted, classes: dict[str, int]) -> float:
    if wanted.task == "multilabel":
        return _TRUTHS.get(text, np.nan)
    if wanted.classes is None:
        return classes.setdefault(text, len(classes))
    return classes.get(text, np.nan)


def _expected(wanted: Wanted, classes: dict[str, int]) -> str:
    if wanted.task == "multilabel":
        return "expected 0 or 1"
    listed = ", ".join(list(classes)[:10]) + ", ..." * (len(classes) > 10)
    return f"a class that no training row has (classes: {listed})"


def _true(mask: np.ndarray) -> Iterator[int]:
    return iter(np.flatnonzero(mask).tolist())


def _shown(array: Any, row: int) -> str:
    return _cut(array[row].as_py())


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


class _Growing:
    """An array `[N, ...]` that grows by blocks, in memory and beyond `MEMORY_BYTES` in a temporary file."""

    def __init__(self, dtype: Any):
        self._dtype, self._bytes, self._rows = np.dtype(dtype), 0, 0
        self._parts: list[np.ndarray] = []
        self._shape: Sequence[int] = ()
        self._file: Any = None
        self._open = contextlib.ExitStack()

    def add(self, part: np.ndarray) -> None:
        part = np.ascontiguousarray(part, self._dtype)
        self._shape, self._rows, self._bytes = part.shape[1:], self._rows + len(part), self._bytes + part.nbytes
        self._parts.append(part)
        if self._bytes <= MEMORY_BYTES:
            return
        try:
            if self._file is None:
                self._file = self._open.enter_context(_unnamed())
            for kept in self._parts:
                self._file.write(kept.data)
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"a table of {self._bytes / 2**30:.1f} GiB does not fit into {tempfile.gettempdir()}: "
                f"{error.strerror}; set TMPDIR to a folder with more room"
            ) from error
        self._parts = []

    def array(self) -> np.ndarray:
        shape = (self._rows, *self._shape)
        if self._file is None:
            return np.concatenate(self._parts)
        with self._open:
            return np.memmap(self._file, self._dtype, "r+", shape=shape)


@contextlib.contextmanager
def _unnamed() -> Iterator[Any]:
    with tempfile.TemporaryFile(prefix="jaxprop-") as file:
        yield file
