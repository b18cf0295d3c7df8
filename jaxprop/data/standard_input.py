"""Standard input in blocks of whole lines, as they come, so that answers need not wait for its end."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from jaxprop.errors import DataError

STDIN = "-"  # what a person writes for it in place of a path
NAME = "stdin"  # what its records are called, as in `stdin:3`
BLOCK = 2**16  # bytes read at a time, which is what a pipe holds
MAX_LINE = 64 * 2**20
LONGEST = 2**20  # bytes that a quoted value may take before its quote counts as one that is never closed


class Lines(NamedTuple):
    """Some lines.

    Args:
      first: number of the first one, counted from 1.
      content: their bytes; only the last line of all may have no end.
    """

    first: int
    content: bytes


def standard_input() -> Iterator[Lines]:
    """Yields the lines of standard input, as `line_blocks` does."""
    return line_blocks(sys.stdin.buffer)


def line_blocks(file: BinaryIO) -> Iterator[Lines]:
    """Yields the lines of a file in blocks: those that are there, without waiting for more.

    Args:
      file: open for reading bytes, and buffered, so that it has `read1`.

    Raises:
      DataError: a line is longer than `MAX_LINE`.

    Example:
      >>> import io
      >>> [tuple(lines) for lines in line_blocks(io.BytesIO(b"a\\nb"))]
      [(1, b'a\\n'), (2, b'b')]
    """
    first, rest = 1, bytearray()
    while block := file.read1(BLOCK):  # type: ignore[attr-defined]
        rest += block
        end = rest.rfind(b"\n") + 1 if b"\n" in block else 0
        if end:
            lines = Lines(first, bytes(rest[:end]))
            first += lines.content.count(b"\n")
            del rest[:end]
            yield lines
        elif len(rest) > MAX_LINE:
            raise DataError(f"{NAME}:{first}: is longer than {MAX_LINE >> 20} MiB; split it")
    if rest:
        yield Lines(first, bytes(rest))


def csv_blocks(blocks: Iterable[Lines], delimiter: str) -> Iterator[Lines]:
    """Yields blocks of whole records of CSV: one that is cut off waits for its other lines.

    Args:
      blocks: lines that follow each other.
      delimiter: between values.

    Example:
      >>> [tuple(lines) for lines in csv_blocks([Lines(2, b'1\\n"a\\n'), Lines(4, b'b"\\n')], ",")]
      [(2, b'1\\n'), (3, b'"a\\nb"\\n')]
    """
    pending: list[bytes] = []
    first = 1
    for block in blocks:
        first = first if pending else block.first
        pending += io.BytesIO(block.content).readlines()
        whole = _whole(pending, delimiter)
        if whole:
            yield Lines(first, b"".join(pending[:whole]))
        first, pending = first + whole, pending[whole:]
    if pending:
        yield Lines(first, b"".join(pending))


def _whole(lines: Sequence[bytes], delimiter: str) -> int:
    """The number of lines that make whole records."""
    if not any(b'"' in line for line in lines):
        return len(lines)
    whole = max((end for end, _ in record_ends(lines, delimiter)), default=0)
    return whole if sum(map(len, lines[whole:])) <= LONGEST else len(lines)


def record_ends(lines: Sequence[bytes], delimiter: str) -> Iterator[tuple[int, bool]]:
    """Yields the number of lines up to the end of each record of CSV that ends, and whether it holds anything."""
    reader = csv.reader((line.decode(errors="replace") for line in lines), delimiter=delimiter, strict=True)
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                return
            values = [""]
        yield reader.line_num, bool(values)
