"""JSONL: one JSON object a line, whose keys are the columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxprop.data.readers.table.files import BLOCK_ROWS, Block, Content, Table, arrow, check_names
from jaxprop.data.rows import SURROGATE, json_rows
from jaxprop.errors import DataError


def open_json_lines(content: Content) -> Table:
    """Opens a JSONL file. All values become text; a key that a line lacks, null and NaN are missing values.

    Args:
      content: the file.

    Raises:
      DataError: no line holds an object.
    """
    columns: dict[str, None] = {}
    refused: dict[str, str] = {}
    first_bad = None
    for line, record, why in _records(content):
        if why is not None:
            first_bad = first_bad or f"{content.name}:{line}: {why}"
            continue
        for name, value in record.items():
            columns.setdefault(name)
            if isinstance(value, list | dict):
                what = "a list" if isinstance(value, list) else "an object"
                refused.setdefault(name, f"holds {what} in line {line}, and a table's values are numbers and texts")
    if not columns:
        raise DataError(first_bad or f"{content.name}: holds no record; expected a JSON object on each line")
    check_names(content.name, 0, list(columns))
    names = tuple(name for name in columns if name)

    def blocks() -> Iterator[Block]:
        return _blocks(content, names)

    return Table(content.name, names, blocks, refused)


def _records(content: Content) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    with content.open() as file:
        yield from json_rows(file, content.name)


def _blocks(content: Content, names: tuple[str, ...]) -> Iterator[Block]:
    pa = arrow()
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    bad: list[tuple[int, str]] = []

    def block() -> Block:
        columns = {name: pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in names}
        return Block(columns, np.array(lines, np.int64), list(bad))

    for line, record, why in _records(content):
        why = why or _undecodable(record)
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


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return None if math.isnan(value) else repr(value)
    return str(value)
