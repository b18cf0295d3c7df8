"""CSV and TSV: read by pyarrow where each line is one record, otherwise record by record, so that each has its line."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.readers.table.files import BLOCK_ROWS, CACHED_BYTES, Block, Content, Table, arrow, check_names
from jaxprop.data.rows import DELIMITERS, csv_rows, ragged
from jaxprop.errors import DataError

_SCANNED = 2**20
_SEPARATOR = re.compile(r"sep=([^\w\s\"]|\t)\r?\n", re.IGNORECASE)  # the first line that spreadsheet programs write
_SNIFFED_BYTES, _SNIFFED_ROWS = 2**16, 20
_ARROW_BLOCK = 2**24  # bytes that pyarrow parses at a time; a record must fit into one


class Scan(NamedTuple):
    """What a first look at all bytes tells.

    Args:
      lines: number of lines, the last one with or without an end.
      plain: whether all bytes are UTF-8, and each line ends in a line feed.
      last: the last line that is not empty.
    """

    lines: int
    plain: bool
    last: str


def open_delimited(content: Content, delimiter: str | None, *, to_predict: bool = False) -> Table:
    """Opens a CSV or TSV file; all values are text.

    Args:
      content: the file.
      delimiter: between values; None to find it.
      to_predict: whether a quote that is never closed makes one bad record, so that those before it can be predicted.

    Raises:
      DataError: the file has no header, no row below it, or a quote that is never closed.
    """
    found = scan(content)
    delimiter = delimiter or sniff(content)
    line, header = _header(content, delimiter)
    names = [name.strip() for name in header]
    notes = check_names(content.name, line, names)
    used = tuple(name for name in names if name)
    single = line == 1 and not any(end in name for name in header for end in "\r\n")
    batches = _whole_lines(content, delimiter, names, found) if single else None

    def blocks() -> Iterator[Block]:
        if batches is None:
            yield from _by_record(content, delimiter, names, to_predict)
            return
        start = 2
        for batch in batches():
            lines = np.arange(start, start + batch.num_rows)
            start += batch.num_rows
            yield Block({name: batch.column(i) for i, name in enumerate(names) if name}, lines)

    table = Table(content.name, used, blocks, {}, delimiter, notes)
    if not any(len(block.lines) or block.bad for block in table.blocks()):
        raise DataError(f"{content.name}: has a header and no row below it; expected at least one row")
    return table


def sniff(content: Content, *more: str) -> str:
    """Returns the delimiter under which the first lines have the same number of values, and the most of them.

    Args:
      content: the file.
      more: delimiters to try besides the usual ones.

    Example:
      >>> import io
      >>> sniff(Content("x", 12, lambda: io.BytesIO(b"a;b,c\\n1;2\\n3;4\\n")))
      ';'
    """
    with content.open() as file:
        head = file.read(_SNIFFED_BYTES)
    text = head.decode("utf-8-sig", errors="replace")
    said = _SEPARATOR.match(text)
    if said:
        return said[1]
    lines = text.splitlines()
    lines = (lines[:-1] if len(head) == _SNIFFED_BYTES else lines)[: _SNIFFED_ROWS + 1]

    def score(delimiter: str) -> tuple[float, int]:
        try:
            rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            return (0.0, 0)
        width = len(rows[0]) if rows else 0
        return (float(np.mean([len(row) == width for row in rows])), width) if width > 1 else (0.0, width)

    return max((*more, *DELIMITERS), key=score)


def scan(content: Content) -> Scan:
    """Looks at all bytes of a file once."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines, returns, last, utf8, tail = 0, 0, b"\n", True, b""
    with content.open() as file:
        while block := file.read(_SCANNED):
            newlines += block.count(b"\n")
            # Carriage returns that are no part of a line end; one may stand at the end of the block before.
            returns += block.count(b"\r") - block.count(b"\r\n") - (last == b"\r" and block.startswith(b"\n"))
            last, tail = block[-1:], (tail + block)[-_SNIFFED_BYTES:]
            try:
                decoder.decode(block if utf8 else b"")
            except UnicodeDecodeError:
                utf8 = False
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        utf8 = False
    final = tail.rstrip(b"\r\n").rsplit(b"\n", 1)[-1]
    return Scan(newlines + (last != b"\n"), utf8 and not returns, final.decode(errors="replace"))


def _records(
    content: Content, delimiter: str, *, to_predict: bool = False
) -> Iterator[tuple[int, list[str], str | None]]:
    with content.open() as file:
        for line, values, why in csv_rows(file, content.name, delimiter, to_predict=to_predict):
            if line > 1 or not _SEPARATOR.match(f"{delimiter.join(values)}\n"):
                yield line, values, why


def _header(content: Content, delimiter: str) -> tuple[int, list[str]]:
    for line, values, why in _records(content, delimiter):
        if why is not None:
            raise DataError(f"{content.name}:{line}: the header {why}")
        return line, values
    raise DataError(f"{content.name}: holds empty lines only; expected a header line and at least one row")


def _whole_lines(content: Content, delimiter: str, names: list[str], found: Scan) -> Callable[[], Iterable[Any]] | None:
    """Returns `() -> batches` of a file each of whose lines is one record; None for another file.

    A value that holds a line break, a blank line and a ragged row all leave fewer records than lines, so that equal
    numbers mean that record i stands on line i + 2. A quote that the last line opens and leaves open is told apart.
    """
    if not found.plain or not _is_csv(found.last, delimiter):
        return None
    rows, kept = 0, []
    try:
        for batch in _batches(content, delimiter, names):
            rows += batch.num_rows
            if content.size <= CACHED_BYTES:
                kept.append(batch)
    except arrow().ArrowInvalid:
        return None
    if rows != found.lines - 1 or not rows:
        return None
    return (lambda: kept) if kept else (lambda: _batches(content, delimiter, names))


def _is_csv(line: str, delimiter: str) -> bool:
    try:
        return len(list(csv.reader([line], delimiter=delimiter, strict=True))) == 1
    except csv.Error:
        return False


def _batches(content: Content, delimiter: str, names: list[str]) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    columns = [str(i) for i in range(len(names))]  # names may be empty; these are not
    with content.open() as file:
        yield from arrow_csv.open_csv(
            file,
            arrow_csv.ReadOptions(column_names=columns, skip_rows=1, block_size=_ARROW_BLOCK),
            arrow_csv.ParseOptions(delimiter=delimiter),
            arrow_csv.ConvertOptions(column_types={name: pa.string() for name in columns}, strings_can_be_null=False),
        )


def _by_record(content: Content, delimiter: str, names: list[str], to_predict: bool) -> Iterator[Block]:
    pa = arrow()
    rows: list[list[str]] = []
    lines: list[int] = []
    bad: list[tuple[int, str]] = []

    def block() -> Block:
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        held = {name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True) if name}
        return Block(held, np.array(lines, np.int64), list(bad))

    everything = _records(content, delimiter, to_predict=to_predict)
    next(everything)
    for line, values, why in everything:
        why = why or ragged(values, names, delimiter)
        if why is not None:
            bad.append((line, why))
            continue
        rows.append(values)
        lines.append(line)
        if len(rows) == BLOCK_ROWS:
            yield block()
            rows, lines, bad = [], [], []
    yield block()
