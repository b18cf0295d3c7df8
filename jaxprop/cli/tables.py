"""Tables on stdout, whole also where it is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from jaxprop.errors import printable

T = TypeVar("T")

_WIDE = 1000  # columns where nobody's window is to be fitted: a pipe or a file


def show(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Prints a table; one without rows is left out.

    Args:
      headers: of the columns.
      rows: the cells.
      right: columns set flush right.

    Example:
      >>> show(["layer", "parameters"], [("head", "10")])  # doctest: +ELLIPSIS +NORMALIZE_WHITESPACE
      ─...layer parameters ─...head 10 ─...
    """
    # Only now: `--help` imports this file, and rich would double its time.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.HORIZONTALS)
    for i, header in enumerate(headers):
        table.add_column(header, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell, lines=True)) for cell in row))
    if table.row_count:
        Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE).print(table)


def size(count: int | float | None, unknown: str = "unknown") -> str:
    """Returns bytes in the unit that reads best.

    Args:
      count: of bytes; None where it is not known.
      unknown: what is returned then.

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
    """Returns the rows at both ends, and how many between them are left out.

    Args:
      rows: all of them.
      first: rows to keep at the start.
      last: rows to keep at the end.

    Example:
      >>> shorten("abcdef", 2, 1), shorten("abc", 2, 1)
      ((['a', 'b', 'f'], 3), (['a', 'b', 'c'], 0))
    """
    left_out = max(len(rows) - first - last, 0)
    return [*rows[:first], *rows[first + left_out :]], left_out
