"""JSONL: one JSON object a line, whose keys are the columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxprop.data.readers.table.files import BLOCK_ROWS, Block, Content, Table, arrow, check_names
from jaxprop.data.rows import SURROGATE, json_rows
from jaxprop.errors import DataError

_VALUES = "numbers and texts"


def open_json_lines(
    content: Content, *, needed: Sequence[str] | None = None, known: dict[str, None] | None = None
) -> Table:
    """Opens a JSONL file. All values become text; a key that a line lacks, null and NaN are missing values.

    Args:
      content: the file.
      needed: columns from which records are to be predicted, of which a list or an object makes its own record bad;
        by default no record of a column that holds one can be used.
      known: columns of lines before these, to which those of these are added; there may then be no object here.

    Raises:
      DataError: no line holds an object.
    """
    columns: dict[str, None] = {} if known is None else known
    refused: dict[str, str] = {}
    first_bad = None
    for line, record, why in _records(content):
        if why is not None:
            first_bad = first_bad or f"{content.name}:{line}: {why}"
            continue
        for name, value in record.items():
            columns.setdefault(name)
            if isinstance(value, list | dict) and needed is None:
                refused.setdefault(name, f"holds {_kind(value)} in line {line}, and a table's values are {_VALUES}")
    if not columns and known is None:
        raise DataError(first_bad or f"{content.name}: holds no record; expected a JSON object on each line")
    if columns:
        check_names(content.name, 0, list(columns))
    names = tuple(name for name in columns if name)

    def blocks() -> Iterator[Block]:
        return _blocks(content, names, needed or ())

    return Table(content.name, names, blocks, refused)


def _records(content: Content) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    with content.open() as file:
        yield from json_rows(file, content.name, first=content.first)


def _blocks(content: Content, names: tuple[str, ...], needed: Sequence[str]) -> Iterator[Block]:
    pa = arrow()
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    bad: list[tuple[int, str]] = []

    def block() -> Block:
        columns = {name: pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in names}
        return Block(columns, np.array(lines, np.int64), list(bad))

    for line, record, why in _records(content):
        why = why or _undecodable(record) or _nested(record, needed)
        if why is not None:
            bad.append((line, why))
            continue
        rows.append(record)
        lines.append(line)
        if len(rows) == BLOCK_ROWS:
            yield block()
            rows, lines, bad = [], [], []
    yield block()


def _undecodable(record: dict[str, Any]) -> str | None:
    halves = any(isinstance(value, str) and SURROGATE.search(value) for value in record.values())
    return "holds an escaped character that is no Unicode text (a lone surrogate)" if halves else None


def _nested(record: dict[str, Any], needed: Sequence[str]) -> str | None:
    name = next((name for name in needed if isinstance(record.get(name), list | dict)), None)
    return None if name is None else f"{name!r} holds {_kind(record[name])}; expected {_VALUES}"


def _kind(value: list[Any] | dict[str, Any]) -> str:
    return "a list" if isinstance(value, list) else "an object"


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return None if math.isnan(value) else repr(value)
    return str(value)
