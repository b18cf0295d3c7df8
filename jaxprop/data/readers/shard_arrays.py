"""Columns of numbers in Parquet and Arrow files as one array, of which only the rows that are asked for are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprop.data.fingerprint import fingerprint, fingerprint_of_files
from jaxprop.data.readers.shards import Shards
from jaxprop.errors import DataError

_CHECKED = 2**16  # rows that are looked at in one go


class ShardArray:
    """Columns of numbers side by side, or one column of lists of equal lengths: `[N, F]` or `[N, ...]`.

    It is indexed along its first axis as an array is, by a slice or by integers, and can be pickled.

    Args:
      path: of the files, for messages.
      shards: the files.
      columns: names of the columns.
      keep: bytes up to which the whole array is kept in memory.

    Raises:
      DataError: a column holds something else, or a value is missing.
    """

    def __init__(self, path: str, shards: Shards, columns: Sequence[str], keep: int = 0):
        self._path, self._shards, self._columns = path, shards, tuple(columns)
        self._rows: np.ndarray | None = None
        self._kept: np.ndarray | None = None
        self.digest = fingerprint(
            "rows", ",".join(columns), fingerprint_of_files([(file.name, file) for file in shards.files])
        )
        self.dtype = np.result_type(*(_dtype(path, shards, name) for name in columns))
        self._inner = self._shape_of_lists()
        fits = self.size * self.dtype.itemsize <= keep
        kept = np.empty(self.shape, self.dtype) if fits else None
        for start in range(0, len(self), _CHECKED):  # all of them, since each may hold what is no number
            part = self[start : start + _CHECKED]
            if kept is not None:
                kept[start : start + _CHECKED] = part
        self._kept = kept

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        inner = self._inner if self._inner is not None else (len(self._columns),)
        return (self._shards.length if self._rows is None else len(self._rows), *inner)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):
            return self[key[0]][key[1:]]
        if isinstance(key, slice):
            asked = np.arange(*key.indices(len(self)))
        else:
            asked = np.asarray(key, np.int64)
            asked = np.where(asked < 0, asked + len(self), asked)
        rows = asked if self._rows is None else self._rows[asked]
        if self._kept is not None:
            return self._kept[rows]
        found = self._read(np.atleast_1d(rows))
        return found if rows.ndim else found[0]

    def chosen(self, rows: np.ndarray) -> ShardArray:
        """Returns the array of some rows.

        Args:
          rows: int `[M]`, of an array of which none were chosen before.
        """
        other = object.__new__(ShardArray)
        other.__dict__.update(self.__dict__, _rows=rows, digest=fingerprint("chosen", self.digest, rows))
        return other

    def _read(self, rows: np.ndarray) -> np.ndarray:
        width = (len(self._columns),) if self._inner is None else self._inner
        out = np.empty((len(rows), *width), self.dtype)
        for slots, found in self._shards.parts(rows, self._columns):
            for at, (name, values) in enumerate(zip(self._columns, found, strict=True)):
                dense = self._dense(name, values, rows[slots])
                if self._inner is None:
                    out[slots, at] = dense
                else:
                    out[slots] = dense
        return out

    def _shape_of_lists(self) -> tuple[int, ...] | None:
        """The shape of the lists of the one column; None where columns hold plain numbers."""
        lists = [name for name in self._columns if _value_type(self._shards, name)[1]]
        if not lists:
            return None
        if len(self._columns) > 1:
            raise DataError(
                f"{self._path}: the column {lists[0]!r} holds lists, of which one column alone makes the inputs; name "
                "that column only in data.inputs"
            )
        try:
            return np.asarray(self._shards.cell(lists[0], 0), self.dtype).shape
        except (TypeError, ValueError) as error:
            raise self._unfit(lists[0], 0, self._shards.cell(lists[0], 0) is None) from error

    def _dense(self, name: str, values: Any, rows: np.ndarray) -> np.ndarray:
        """A column's values as an array `[n]` or `[n, ...]`."""
        import pyarrow
        from pyarrow import compute

        if hasattr(values, "combine_chunks"):
            values = values.combine_chunks()
        shape = self._inner or ()
        values = getattr(values, "storage", values)
        for axis in range(len(shape) + 1):
            if values.null_count:
                at = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
                raise self._unfit(name, int(rows[at // math.prod(shape[:axis])]), True)
            if axis == len(shape):
                break
            lengths = compute.list_value_length(values).to_numpy(zero_copy_only=False)
            if (lengths != shape[axis]).any():
                at = int(np.flatnonzero(lengths != shape[axis])[0])
                raise self._unfit(name, int(rows[at // math.prod(shape[:axis])]), False)
            values = values.flatten()
        if pyarrow.types.is_boolean(values.type):
            values = values.cast(pyarrow.uint8())
        return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(rows), *shape)

    def _unfit(self, name: str, row: int, missing: bool) -> DataError:
        where = f"{self._path}[{row}]"
        if missing:
            return DataError(
                f"{where}: has no number in the column {name!r}; use the reader table, which fills these in"
            )
        return DataError(f"{where}: the column {name!r} holds lists of different lengths; pad them to one length")


def _value_type(shards: Shards, column: str) -> tuple[Any, int]:
    """The type of a column's values, or of what its lists hold; and how deep these are nested."""
    kind, depth = shards.type_of(column), 0
    while hasattr(kind, "value_type"):
        kind, depth = kind.value_type, depth + 1
    return kind, depth


def _dtype(path: str, shards: Shards, column: str) -> np.dtype:
    from pyarrow import types

    kind, _ = _value_type(shards, column)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return np.dtype(kind.to_pandas_dtype())
    raise DataError(
        f"{path}: the column {column!r} holds values of the type {kind}, not numbers; name other columns in "
        "data.inputs, or use the reader table, which makes features of categories"
    )
