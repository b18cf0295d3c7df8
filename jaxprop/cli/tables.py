"""Tables on stdout, which are not shortened where stdout is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from jaxprop.errors import printable

T = TypeVar("T")

_WIDE = 1000  # number of columns in a pipe or a file, which have no window to fit


def show(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Prints a table; a table without rows is not printed.

    Args:
      headers: of the columns.
      rows: the cells.
      right: indices of the columns that are aligned to the right.

    Example:
      >>> show(["layer", "parameters"], [("head", "10")])  # doctest: +ELLIPSIS +NORMALIZE_WHITESPACE
      ─...layer parameters ─...head 10 ─...
    """
    # Imported late: `--help` imports this file, and rich would double its time.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.HORIZONTALS)
    for i, header in enumerate(headers):
        table.add_column(Text(printable(header)), justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell, lines=True)) for cell in row))
    if table.row_count:
        Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE).print(table)


def size(count: int | float | None, unknown: str = "unknown") -> str:
    """Returns a number of bytes in a suitable unit.

    Args:
      count: number of bytes, or None if it is unknown.
      unknown: the text to return in that case.

    Example:
      >>> size(512), size(3 * 2**20)
      ('512 B', '3.0 MiB')
    """
    if count is None:
        return unknown
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def shorten(rows: Sequence[T], first: int, last: int = 0) -> tuple[list[T], int]:
    """Returns the rows at both ends, and the number of rows left out between them.

    Args:
      rows: all of them.
      first: number of rows to keep at the start.
      last: number of rows to keep at the end.

    Example:
      >>> shorten("abcdef", 2, 1), shorten("abc", 2, 1)
      ((['a', 'b', 'f'], 3), (['a', 'b', 'c'], 0))
    """
    left_out = max(len(rows) - first - last, 0)
    return [*rows[:first], *rows[first + left_out :]], left_out
