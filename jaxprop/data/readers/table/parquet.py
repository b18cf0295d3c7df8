"""Parquet: columns with types of their own, read a batch of rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxprop.data.readers.table.files import BLOCK_ROWS, Block, Content, Table, arrow, check_names
from jaxprop.errors import DataError


def open_parquet(content: Content) -> Table:
    """Opens a Parquet file; its records are counted from 1, as lines are.

    Args:
      content: the file.

    Raises:
      DataError: the file is damaged, or has no row.
    """
    from pyarrow import parquet

    with _reading(content.name):
        with parquet.ParquetFile(content.path or content.open()) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        refused = {field.name: why for field in schema if (why := _refusal(field.type)) is not None}
    notes = check_names(content.name, 0, list(schema.names))
    if rows == 0:
        raise DataError(f"{content.name}: has columns and no row; expected at least one row")
    index = [name for name in _index_of(schema.metadata) if name in schema.names]
    notes += tuple(
        f"{content.name}: the column {name!r} is the index of a pandas table and is not used; write it with "
        "reset_index() first if it is meant"
        for name in index
    )
    names = tuple(name for name in schema.names if name and name not in index)
    read = [name for name in names if name not in refused]

    def blocks() -> Iterator[Block]:
        start = 1
        with _reading(content.name), parquet.ParquetFile(content.path or content.open()) as file:
            for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=read):
                lines = np.arange(start, start + batch.num_rows)
                start += batch.num_rows
                yield _block({name: _plain(batch.column(name)) for name in read}, lines)

    return Table(content.name, names, blocks, refused, None, notes)


def _index_of(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """The columns that pandas has written its index to; a range of numbers has none."""
    try:
        columns = json.loads((metadata or {})[b"pandas"])["index_columns"]
        return [name for name in columns if isinstance(name, str)]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []


def _block(columns: dict[str, Any], lines: np.ndarray) -> Block:
    """A block without the records whose text is not UTF-8, which Parquet does not check."""
    pa = arrow()
    undecodable = np.zeros(len(lines), bool)
    for column in columns.values():
        if pa.types.is_string(column.type):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:
                undecodable |= [not _is_text(value) for value in column.cast(pa.binary()).to_pylist()]
    if not undecodable.any():
        return Block(columns, lines)
    keep = pa.array(~undecodable)
    bad = [(int(line), "holds bytes that are not UTF-8 text") for line in lines[undecodable]]
    return Block({name: column.filter(keep) for name, column in columns.items()}, lines[~undecodable], bad)


def _is_text(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _plain(column: Any) -> Any:
    """A column as text, float64 or booleans."""
    pa = arrow()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    if pa.types.is_decimal(column.type) or pa.types.is_float16(column.type):
        return column.cast(pa.float64())
    return column


def _refusal(kind: Any) -> str | None:
    types = arrow().types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_temporal(kind):
        return (
            "holds dates or times, which are not read as features; replace it by numbers, such as the month or days "
            "since a date"
        )
    tests = (
        types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_string, types.is_large_string,
        types.is_null,
    )  # fmt: skip
    return None if any(test(kind) for test in tests) else f"holds values of the type {kind}"


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns what pyarrow raises for an unreadable file into a `DataError`."""
    pa = arrow()
    try:
        yield
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        raise DataError(f"{name}: is damaged, cut short or not a Parquet file; write it again") from error
