"""Standard input in blocks of whole lines, as they come, so that answers need not wait for its end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from jaxprop.errors import DataError

STDIN = "-"  # what a person writes for it in place of a path
NAME = "stdin"  # what its records are called, as in `stdin:3`
BLOCK = 2**16  # bytes read at a time, which is what a pipe holds
MAX_LINE = 64 * 2**20


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
