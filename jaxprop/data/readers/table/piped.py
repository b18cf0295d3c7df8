"""Rows that come through standard input, as one table after another of those that are there."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import chain

from jaxprop.data.kinds import HEAD, format_of
from jaxprop.data.readers.table.delimited import open_delimited, sniff
from jaxprop.data.readers.table.files import Block, Content, Table, cached
from jaxprop.data.readers.table.formats import open_content
from jaxprop.data.readers.table.json_lines import open_json_lines
from jaxprop.data.standard_input import NAME, Lines, csv_blocks, record_ends, standard_input


def piped_tables(delimiter: str | None, needed: Sequence[str]) -> Iterator[Table]:
    """Yields tables of the rows of standard input, whose lines are counted from its beginning.

    Args:
      delimiter: one of those that may separate the values of CSV.
      needed: columns from which the rows are to be predicted.

    Raises:
      DataError: standard input holds neither CSV with a header and a row, nor JSONL, nor Parquet.
    """
    blocks = standard_input()
    head = _head(blocks)
    kind = format_of(NAME, head[:HEAD])
    if kind == "jsonl":
        known: dict[str, None] = {}
        for block in chain([Lines(1, head)], blocks):
            if block.content.strip():
                yield open_json_lines(_content(block.content, block.first), needed=needed, known=known)
        return
    header = _header(head, delimiter) if kind in ("csv", "tsv", "text") else None
    if header is None:
        content = _content(head + b"".join(block.content for block in blocks))
        yield open_content(content, delimiter, needed=needed)
        return
    yield from _delimited(head, blocks, *header)


def _content(held: bytes, first: int = 1) -> Content:
    return Content(NAME, len(held), lambda: io.BytesIO(held), first=first)


def _head(blocks: Iterator[Lines]) -> bytes:
    """The first lines: an object of JSONL, or a header and what follows, before which nothing could be predicted."""
    head = b""
    for block in blocks:
        head += block.content
        if sum(bool(line.strip()) for line in head.splitlines()) > 1 or format_of(NAME, head[:HEAD]) == "jsonl":
            break
    return head


def _header(head: bytes, delimiter: str | None) -> tuple[int, str] | None:
    """The number of lines of the header, and the delimiter; None where all has to be read to find an error in it."""
    lines = io.BytesIO(head).readlines()
    found = sniff(_content(head), *filter(None, [delimiter]))
    end = next((end for end, filled in record_ends(lines, found) if filled), None)
    return None if end is None or not b"".join(lines[end:]).strip() else (end, found)


def _delimited(head: bytes, blocks: Iterator[Lines], end: int, delimiter: str) -> Iterator[Table]:
    """Tables of the header and whole records; a record that is cut off waits for its other lines."""
    lines = io.BytesIO(head).readlines()
    header = b"".join(lines[:end])
    for block in csv_blocks(chain([Lines(end + 1, b"".join(lines[end:]))], blocks), delimiter):
        if block.content.strip():
            yield _table(header, block.content, delimiter, block.first - end - 1)


def _table(header: bytes, rows: bytes, delimiter: str, shift: int) -> Table:
    content = _content(header + rows)
    table = cached(open_delimited(content, delimiter, to_predict=True), content)

    def blocks() -> Iterator[Block]:
        for block in table.blocks():
            bad = [(line + shift, why) for line, why in block.bad]
            yield block._replace(lines=block.lines + shift, bad=bad)

    return table._replace(blocks=blocks)
