"""Parquet and Arrow files by index, with pyarrow alone: mapped into memory, read by row groups, columns by name."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop.errors import DataError, MissingExtraError

_PARQUET, _ARROW_FILE = b"PAR1", b"ARROW1"
# A group of rows is read as a whole, so that one that expands beyond this would fill the memory.
_MAX_GROUP = 2**32
_GROUPS = 4  # groups of rows that stay in memory
_READING = threading.Lock()


class _Group(NamedTuple):
    """A part of a file that is read as a whole; all of an Arrow file, which is mapped."""

    path: str  # absolute
    stamp: tuple[int, int]  # size and time of the last change, so that nothing is kept of a file that has changed
    number: int | None  # of a Parquet file's row group
    rows: int = 0  # that the group has, by the file's directory


class Shards:
    """The rows of one or several files of one schema.

    It can be pickled: files are opened where they are read.

    Args:
      files: the files.
      groups: their parts, in order.
      ends: the number of rows up to the end of each part, int64.
      schema: of the first file.
    """

    def __init__(self, files: Sequence[Path], groups: Sequence[_Group], ends: np.ndarray, schema: Any):
        self.files = tuple(files)
        self._groups, self._ends, self._schema = tuple(groups), ends, schema

    @property
    def length(self) -> int:
        """Number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._schema.names)

    def type_of(self, column: str) -> Any:
        """Returns a column's Arrow type, of an extension type what it is stored as."""
        found = self._schema.field(column).type
        return getattr(found, "storage_type", found)

    def holds_bytes(self, column: str) -> bool:
        """Whether a column holds bytes, alone or as the field `bytes` of a struct."""
        types, kind = _pyarrow().types, self.type_of(column)
        if types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return types.is_binary(kind) or types.is_large_binary(kind)

    def holds_text(self, column: str) -> bool:
        """Whether a column holds text."""
        types, kind = _pyarrow().types, self.type_of(column)
        return types.is_string(kind) or types.is_large_string(kind)

    def class_names(self, column: str) -> list[str] | None:
        """Returns the names that the library `datasets` has stored of a column's integers; None without such."""
        held = (self._schema.metadata or {}).get(b"huggingface")
        try:
            feature = json.loads(held)["info"]["features"][column] if held else {}
            names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        good = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return names if good else None

    def cell(self, column: str, index: int) -> Any:
        """Returns one value as Python has it. May be called from several threads."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[group - 1]) if group else 0
        return _cell(_read(self._groups[group], column)[index - start])

    def values(self, column: str) -> list[Any]:
        """Returns a whole column as Python has it, with None for text that is no UTF-8."""
        return [value for group in self._groups for value in _python(_read(group, column))]


def open_shards(path: str, files: Sequence[Path]) -> Shards:
    """Opens Parquet or Arrow files.

    Args:
      path: of the file or the folder, for messages.
      files: in their order.

    Raises:
      DataError: one is neither, damaged, of another schema, or expands too far.
      MissingExtraError: pyarrow is not installed.
    """
    arrow = _pyarrow()
    groups: list[_Group] = []
    counts: list[int] = []
    schema = None
    for file in files:
        try:
            found, of_file = _parts(file)
            _read_names(found)
        except (arrow.ArrowException, OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            detail = " ".join(str(error).split())[:200]
            raise DataError(f"{file}: is no Parquet or Arrow file, or damaged ({detail})") from error
        schema = found if schema is None else schema
        if not found.equals(schema):
            raise DataError(f"{file}: has other columns than {files[0]}; all files of {path} need the same")
        for group, rows in of_file:
            groups.append(group)
            counts.append(rows)
    if not sum(counts):
        raise DataError(f"{path}: has no rows")
    return Shards(files, groups, np.cumsum(counts), schema)


def _parts(file: Path) -> tuple[Any, list[tuple[_Group, int]]]:
    """The schema of a file, and its parts with their numbers of rows."""
    path, found = str(file.absolute()), file.stat()
    stamp = (found.st_size, found.st_mtime_ns)
    if not _is_parquet(path):
        table = _table(_Group(path, stamp, None))
        return table.schema, [(_Group(path, stamp, None), table.num_rows)]
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as opened:
        meta = opened.metadata
        parts = [
            (_Group(path, stamp, i, meta.row_group(i).num_rows), meta.row_group(i).num_rows)
            for i in range(meta.num_row_groups)
        ]
        largest = max((meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)), default=0)
        if largest > _MAX_GROUP:
            raise DataError(
                f"{file}: has a group of rows that expands to {largest / 2**30:.1f} GiB; write it again with smaller "
                "groups, as pyarrow.parquet.write_table(..., row_group_size=1000)"
            )
        return opened.schema_arrow, parts


def _read_names(fields: Any) -> None:
    """Decodes the names of a schema's or a struct's fields, which fails, with a ValueError, in a damaged file."""
    for field in fields:
        assert isinstance(field.name, str)
        kind = field.type
        if kind.num_fields:
            _read_names([kind.field(i) for i in range(kind.num_fields)])


def _read(group: _Group, column: str) -> Any:
    if group.number is None:
        return _table(group).column(column)
    with _READING:  # otherwise threads that decode neighbours would each read the group
        return _row_group(group, column)


@functools.lru_cache(maxsize=_GROUPS)
def _row_group(group: _Group, column: str) -> Any:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(group.path) as opened:
            found = opened.read_row_group(group.number, columns=[column]).column(column)
    except (_pyarrow().ArrowException, OSError) as error:
        raise DataError(f"{group.path}: is damaged ({' '.join(str(error).split())[:200]})") from error
    if len(found) != group.rows:  # every later row would have another one's label
        raise DataError(f"{group.path}: is damaged: a group of {group.rows} rows holds {len(found)}")
    return found


@functools.lru_cache(maxsize=1024)
def _table(group: _Group) -> Any:
    """The rows of an Arrow file, of which nothing is read until it is used."""
    arrow = _pyarrow()
    source = arrow.memory_map(group.path)
    with open(group.path, "rb") as content:
        is_file = content.read(len(_ARROW_FILE)) == _ARROW_FILE
    opened = arrow.ipc.open_file(source) if is_file else arrow.ipc.open_stream(source)
    table = opened.read_all()
    table.validate(full=True)  # offsets that point out of the file would end the process
    return table


def _is_parquet(path: str) -> bool:
    with open(path, "rb") as content:
        return content.read(len(_PARQUET)) == _PARQUET


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise MissingExtraError("pyarrow", "reading Parquet and Arrow files") from error
    return pyarrow


def _python(values: Any) -> list[Any]:
    try:
        return values.to_pylist()
    except UnicodeDecodeError:
        return [_cell(value) for value in values]


def _cell(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return None
