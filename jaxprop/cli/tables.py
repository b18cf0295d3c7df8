"""Tables on stdout, whole also where it is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
    table = Table(box=box.HORIZONTALS)
    for i, header in enumerate(headers):
        table.add_column(header, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if table.row_count:
        Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE).print(table)


def size(count: int | float) -> str:
    """Returns bytes in the unit that reads best.

    Example:
      >>> size(512), size(3 * 2**20)
      ('512 B', '3.0 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def plain(value: Any) -> Any:
    """Returns NamedTuples, at any depth, as the dicts that JSON shows them as.

    Example:
      >>> from typing import NamedTuple
      >>> class Pair(NamedTuple):
      ...     a: int
      ...     b: tuple
      >>> plain([Pair(1, (2, 3))])
      [{'a': 1, 'b': [2, 3]}]
    """
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
