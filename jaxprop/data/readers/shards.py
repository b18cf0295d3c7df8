"""Parquet and Arrow files by index, with pyarrow alone: mapped into memory, read by row groups, columns by name."""

from __future__ import annotations

import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.rows import not_utf8
from jaxprop.errors import DataError, MissingExtraError

SUFFIXES = (".arrow", ".parquet")
_PARQUET, _ARROW_FILE, _ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
# A group of rows is read as a whole, so that one that expands beyond this would fill the memory.
_MAX_GROUP = 2**32
_KEPT = 2**29  # bytes of groups of rows of Parquet files that stay in memory
_TOGETHER = 1024  # rows that become Python values at a time
_STATE = "state.json"
_INFO, _MAX_INFO = "dataset_info.json", 2**24  # what `datasets` writes beside its files, and bytes of it that are read


class _Group(NamedTuple):
    """A part of a file that is read as a whole: a row group of a Parquet file, a record batch of an Arrow file."""

    path: str  # absolute
    stamp: tuple[int, int]  # size and time of the last change, so that nothing is kept of a file that has changed
    parquet: bool
    number: int
    rows: int  # by the file's directory


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

    def holds_number(self, column: str) -> bool:
        """Whether a column holds integers or fractions, one in each row."""
        return self.holds_fraction(column) or _pyarrow().types.is_integer(self.type_of(column))

    def holds_fraction(self, column: str) -> bool:
        """Whether a column holds floating-point numbers."""
        return _pyarrow().types.is_floating(self.type_of(column))

    def class_names(self, column: str) -> list[str] | None:
        """Returns the names that the library `datasets` has stored of a column's integers; None without such."""
        held = (self._schema.metadata or {}).get(b"huggingface")
        return _class_names(held, ("info", "features", column)) or _class_names(
            _beside(self.files[0]), ("features", column)
        )

    def cell(self, column: str, index: int) -> Any:
        """Returns one value as Python has it. May be called from several threads."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        part = self._groups[group]
        return _cell(_read(part, (column,)).column(0)[index - int(self._ends[group]) + part.rows])

    def values(self, column: str) -> list[Any]:
        """Returns a whole column as Python has it, with None for text that is no UTF-8."""
        return [value for group in self._groups for value in _python(_read(group, (column,)).column(0))]

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...], str | None]]:
        """Yields every row: its number from 1, the values of some columns, and what is wrong with it.

        A class that `datasets` has stored as an integer has its name as value, and None where it has none.
        """
        names = [self.class_names(column) for column in columns]
        number = 0
        for group in self._groups:
            held = _read(group, tuple(columns)).columns
            for start in range(0, group.rows, _TOGETHER):
                parts = [_told(column.slice(start, _TOGETHER)) for column in held]
                for row in zip(*parts, strict=True):
                    number += 1
                    why = next((value.why for value in row if isinstance(value, _Undecodable)), None)
                    yield number, tuple(_named(value, of) for value, of in zip(row, names, strict=True)), why

    def parts(self, rows: np.ndarray, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, list[Any]]]:
        """Yields, group by group, where some rows stand among those asked for, and the pyarrow values of columns.

        Args:
          rows: int `[n]`, in any order.
          columns: names of the columns.
        """
        of = np.searchsorted(self._ends, rows, side="right")
        for k in np.unique(of).tolist():
            slots, group = np.flatnonzero(of == k), self._groups[k]
            inside = _pyarrow().array(rows[slots] - int(self._ends[k]) + group.rows)
            yield slots, _read(group, tuple(columns)).take(inside).columns


def open_shards(path: str, files: Sequence[Path], *, empty: bool = False) -> Shards:
    """Opens Parquet or Arrow files.

    Args:
      path: of the file or the folder, for messages.
      files: in their order.
      empty: whether there may be no rows.

    Raises:
      DataError: one is neither, damaged, of another schema, or expands too far.
      MissingExtraError: pyarrow is not installed.
    """
    for file in {file.parent: file for file in files}.values():
        _check_selection(file)
    for file in files:
        try:
            if not file.stat().st_size:
                raise DataError(f"{file}: is empty; write it again, as with pyarrow.parquet.write_table")
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
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
            raise DataError(
                f"{file}: is damaged, cut short, or no Parquet or Arrow file ({detail}); write it again"
            ) from error
        schema = found if schema is None else schema
        if not found.equals(schema):
            raise DataError(f"{file}: has other columns than {files[0]}; all files of {path} need the same")
        for group, rows in of_file:
            groups.append(group)
            counts.append(rows)
    if not sum(counts) and not empty:
        raise DataError(f"{path}: has no rows; expected at least one")
    return Shards(files, groups, np.cumsum(counts), schema)


def _parts(file: Path) -> tuple[Any, list[tuple[_Group, int]]]:
    """The schema of a file, and its parts with their numbers of rows."""
    path, found = str(file.absolute()), file.stat()
    stamp = (found.st_size, found.st_mtime_ns)
    if not _is_parquet(path):
        schema, batches = _batches(path, stamp)
        return schema, [(_Group(path, stamp, False, i, len(one)), len(one)) for i, one in enumerate(batches)]
    import pyarrow.parquet as pq

    meta = _metadata(path, stamp)
    with pq.ParquetFile(path, metadata=meta) as opened:
        sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        largest = max((meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)), default=0)
        if largest > _MAX_GROUP:
            raise DataError(
                f"{file}: has a group of rows that expands to {largest / 2**30:.1f} GiB; write it again with smaller "
                "groups, as pyarrow.parquet.write_table(..., row_group_size=1000)"
            )
        return opened.schema_arrow, [(_Group(path, stamp, True, i, rows), rows) for i, rows in enumerate(sizes)]


def _read_names(fields: Any) -> None:
    """Decodes the names of a schema's or a struct's fields, which fails, with a ValueError, in a damaged file."""
    for field in fields:
        assert isinstance(field.name, str)
        kind = field.type
        if kind.num_fields:
            _read_names([kind.field(i) for i in range(kind.num_fields)])


def _read(group: _Group, columns: tuple[str, ...]) -> Any:
    """Columns of a group, as a record batch or a table."""
    if group.parquet:
        return _ROW_GROUPS.read(group, columns)
    return _batches(group.path, group.stamp)[1][group.number].select(columns)


class _RowGroups:
    """Columns of row groups of Parquet files; those used last stay in memory, up to a number of bytes."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[_Group, tuple[str, ...]], Any] = OrderedDict()
        self._bytes = 0
        self._reading = threading.Lock()  # otherwise threads that decode neighbours would each read the group

    def read(self, group: _Group, columns: tuple[str, ...]) -> Any:
        with self._reading:
            key = (group, columns)
            found = self._held.pop(key, None)
            if found is None:
                found = _row_group(group, columns)
                self._bytes += found.nbytes
            self._held[key] = found
            while self._bytes > _KEPT and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
            return found


_ROW_GROUPS = _RowGroups()


def _row_group(group: _Group, columns: tuple[str, ...]) -> Any:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(group.path, metadata=_metadata(group.path, group.stamp)) as opened:
            found = opened.read_row_group(group.number, columns=list(columns)).select(columns)
    except (_pyarrow().ArrowException, OSError) as error:
        raise DataError(f"{group.path}: is damaged ({' '.join(str(error).split())[:200]}); write it again") from error
    if len(found) != group.rows:  # every later row would have another one's label
        raise DataError(f"{group.path}: is damaged: a group of {group.rows} rows holds {len(found)}; write it again")
    return found


@functools.lru_cache(maxsize=1024)
def _metadata(path: str, stamp: tuple[int, int]) -> Any:
    """The directory of a Parquet file, which takes longer to read than a group of rows."""
    del stamp  # of the file that is meant
    import pyarrow.parquet as pq

    return pq.read_metadata(path)


@functools.lru_cache(maxsize=1024)
def _batches(path: str, stamp: tuple[int, int]) -> tuple[Any, list[Any]]:
    """The schema and the record batches of an Arrow file, of which nothing is read until it is used."""
    del stamp  # of the file that is meant
    arrow = _pyarrow()
    source = arrow.memory_map(path)
    with open(path, "rb") as content:
        is_file = content.read(len(_ARROW_FILE)) == _ARROW_FILE
    opened = arrow.ipc.open_file(source) if is_file else arrow.ipc.open_stream(source)
    batches = [opened.get_batch(i) for i in range(opened.num_record_batches)] if is_file else list(opened)
    for batch in batches:
        batch.validate(full=True)  # offsets that point out of the file would end the process
    return opened.schema, batches


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


def is_shard(file: Path) -> bool:
    """Whether a file is Parquet or Arrow, by its first bytes or its name."""
    try:
        with file.open("rb") as content:
            start = content.read(len(_ARROW_FILE))
    except OSError:
        return False
    return start.startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM)) or file.suffix.lower() in SUFFIXES


def _beside(file: Path) -> bytes:
    try:
        with file.with_name(_INFO).open("rb") as content:
            return content.read(_MAX_INFO)
    except OSError:
        return b""


def _check_selection(file: Path) -> None:
    """A data set of which rows were selected is saved as all its rows and a list of those that are meant."""
    state = file.with_name(_STATE)
    try:
        held = json.loads(state.read_bytes()[:_MAX_INFO])
        chosen = held.get("_indices_data_files") or held.get("_indices_files")
    except (OSError, ValueError, AttributeError, RecursionError):
        return
    if chosen:
        raise DataError(
            f"{state}: says that only some rows of its files belong to the data set, by a list of indices that is not "
            "read; save it again with datasets.load_from_disk(FOLDER).flatten_indices().save_to_disk(ANOTHER)"
        )


def _class_names(held: bytes | None, keys: Sequence[str]) -> list[str] | None:
    """The names of the classes in JSON of `datasets`; of a column of lists, those of what the lists hold."""
    try:
        feature = json.loads(held) if held else {}
        for key in keys:
            feature = feature[key]
        while isinstance(feature, list) or "feature" in feature:
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None
    good = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if good else None


class _Undecodable(NamedTuple):
    """What stands for a text that is not UTF-8."""

    why: str


def _told(values: Any) -> list[Any]:
    try:
        return list(values.to_pylist())
    except UnicodeDecodeError:
        return [_cell_or_why(value) for value in values]


def _cell_or_why(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return _Undecodable(not_utf8(error.object[error.start]))


def _named(value: Any, names: Sequence[str] | None) -> Any:
    if names is None:
        return value
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    fits = isinstance(value, int) and 0 <= value < len(names)
    return names[value] if fits else None if isinstance(value, int) else value


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
