"""What a table's file is to its readers: its bytes, and blocks of named columns with the line of each record."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxprop.data.kinds import advice
from jaxprop.data.readers.table import bundled
from jaxprop.data.standard_input import NAME, STDIN
from jaxprop.errors import DataError, MissingExtraError, did_you_mean

BLOCK_ROWS = 2**16
CACHED_BYTES = 256 * 2**20  # a file up to this size is parsed once and its blocks are kept; a larger one is parsed anew


class Block(NamedTuple):
    """Some records of a table.

    Args:
      columns: a pyarrow array `[n]` for each column: text as it stands in the file, or the types of a Parquet file.
      lines: int64 `[n]`, the line of each record, counted from 1; its number in a Parquet file.
      bad: records left out, each a line and what is wrong with it.
    """

    columns: dict[str, Any]
    lines: np.ndarray
    bad: Sequence[tuple[int, str]] = ()


class Table(NamedTuple):
    """A file of records with named columns.

    Args:
      name: the file as messages name it.
      columns: names of the columns.
      blocks: `() -> iterator` over all records; may be called again.
      refused: columns that cannot be used, and why, as a clause that follows the column's name.
      delimiter: of a text file; None elsewhere.
      notes: sentences for a person.
    """

    name: str
    columns: tuple[str, ...]
    blocks: Callable[[], Iterator[Block]]
    refused: Mapping[str, str] = {}
    delimiter: str | None = None
    notes: tuple[str, ...] = ()


class Content(NamedTuple):
    """The bytes of a file, of standard input, or of a table that a package brings along.

    Args:
      name: as messages name it.
      size: in bytes.
      open: opens it from the start.
      path: where it is a file.
      first: number of its first line.
    """

    name: str
    size: int
    open: Callable[[], BinaryIO]
    path: Path | None = None
    first: int = 1


def content_of(path: str) -> Content:
    """Returns the bytes that a path of the configuration or the command line stands for.

    Args:
      path: a file, `-` for standard input, or a table inside scikit-learn such as `sklearn:iris.csv`.

    Raises:
      DataError: there is no such file, or it is a folder.

    Example:
      >>> content_of("sklearn:iris.csv").name
      'sklearn:iris.csv'
    """
    if path == STDIN:
        held = sys.stdin.buffer.read()
        return Content(NAME, len(held), lambda: io.BytesIO(held))
    if path.startswith(bundled.SCHEME):
        held = bundled.read(path)
        return Content(path, len(held), lambda: io.BytesIO(held))
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"{path}: {advice(path, 'table')}")
    if not file.exists():
        beside = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise DataError(f"{path}: no such file under {Path.cwd()}{did_you_mean(file.name, beside)}")
    if not file.is_file():
        raise DataError(f"{path}: is no regular file; give a CSV, TSV, JSONL or Parquet file")

    def opened() -> BinaryIO:
        try:
            return file.open("rb")
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error

    return Content(path, file.stat().st_size, opened, file)


def cached(table: Table, content: Content) -> Table:
    """Returns a table that keeps its blocks in memory, unless its file is large.

    Args:
      table: the table.
      content: its file.
    """
    if content.size > CACHED_BYTES:
        return table
    kept: list[Block] = []

    def blocks() -> Iterator[Block]:
        if not kept:
            kept.extend(table.blocks())
        return iter(kept)

    return table._replace(blocks=blocks)


def arrow() -> Any:
    """Returns pyarrow.

    Raises:
      MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data 'table'") from error
    return pyarrow


def check_names(name: str, line: int, names: Sequence[str]) -> tuple[str, ...]:
    """Checks the names of a table's columns, and returns a note on each column that has none.

    Args:
      name: of the file.
      line: of its header; 0 where a file has no lines.
      names: in their order.

    Raises:
      DataError: a name occurs twice, or there is no name that is not a number.

    Example:
      >>> check_names("wine.csv", 1, ["", "color"])
      ('wine.csv:1: column 1 has no name and is not used; an index that pandas has written looks like this',)
    """
    where = f"{name}:{line}" if line else name
    named = [column for column in names if column]
    if all(_is_number(column) for column in named):
        what = "has numbers where" if named else "has nothing where"
        raise DataError(
            f"{where}: {what} the names of the columns are expected; put a header line such as "
            f"{','.join(f'x{i}' for i in range(1, min(len(names), 3)))},target before it"
        )
    twice = next((column for i, column in enumerate(named) if column in named[:i]), None)
    if twice is not None:
        at = [str(i) for i, column in enumerate(names, 1) if column == twice]
        raise DataError(f"{where}: the column {twice!r} is there {len(at)} times (columns {', '.join(at)}); rename one")
    return tuple(
        f"{where}: column {i} has no name and is not used; an index that pandas has written looks like this"
        for i, column in enumerate(names, 1)
        if not column
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
