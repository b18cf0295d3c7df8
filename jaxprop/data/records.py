"""Records of text files, one after the other and named by their lines: plain text, JSONL, CSV, TSV, Parquet, Arrow."""

from __future__ import annotations

import glob
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from jaxprop.data.bad import BadRecords
from jaxprop.data.readers.shards import Shards, open_shards
from jaxprop.data.rows import NAMES, SURROGATE, csv_rows, json_rows, other_delimiter, ragged, raw_lines
from jaxprop.errors import DataError, did_you_mean

KINDS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet",
    ".pq": "parquet", ".arrow": "parquet",
}  # fmt: skip
# What a folder is searched for; a glob names any other.
SUFFIXES = (
    ".txt", ".text", ".md", ".rst", ".org", ".tex", ".html", ".htm", ".xml", ".py", ".pyi", ".c", ".h", ".cc", ".cpp",
    ".hpp", ".java", ".js", ".ts", ".go", ".rs", ".rb", ".jl", ".r", ".sh", ".sql", ".css", ".toml", ".yaml", ".yml",
)  # fmt: skip
BLOCK = 2**24  # characters of a plain text that are read at a time
_OTHER = {".json": "write one record a line (jq -c '.[]' FILE > FILE.jsonl)", ".gz": "unpack it", ".zip": "unpack it"}


class Record(NamedTuple):
    """The values of some columns of one record, and where it stands: `reviews.jsonl:3`."""

    where: str
    values: tuple[Any, ...]


class Found(NamedTuple):
    """The files that a path names, sorted, and the folder that they were searched in; the path itself if it is one."""

    files: list[Path]
    root: Path


def find(pattern: str, key: str) -> Found:
    """Returns the files that a path, a folder or a glob names.

    A folder stands for all text files below it. Hidden files, and links that lead out of the folder, are left out.

    Args:
      pattern: the path; `**` in a glob stands for any number of folders.
      key: where the path was written, for messages, such as `data.train`.

    Raises:
      DataError: there is none.
    """
    path = Path(os.path.expanduser(pattern))
    if path.is_file():
        return Found([path], path.parent)
    if path.is_dir():
        files = _within([Path(at) / name for at, _, names in os.walk(path) for name in names], path)
        files = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not files:
            raise DataError(
                f"{key}: {pattern} holds no text files ({', '.join(SUFFIXES[:6])}, ...); a glob names others, such as "
                f"'{Path(pattern) / '**' / '*.log'}'"
            )
        return Found(files, path)
    if glob.has_magic(pattern):
        fixed = Path(*_until_magic(path.parts))
        files = _within([Path(name) for name in glob.iglob(str(path), recursive=True)], fixed)
        if not files:
            raise DataError(f"{key}: no file matches {pattern} (from {Path.cwd()})")
        return Found(files, fixed)
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"{key}: {pattern}: no such file or folder under {Path.cwd()}{did_you_mean(path.name, beside)}")


def _within(files: Iterable[Path], root: Path) -> list[Path]:
    """The regular files that lie below a folder, sorted; nothing hidden, and no link out of it."""
    real = root.resolve()
    kept = [
        file
        for file in files
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
        and (not file.is_symlink() or file.resolve().is_relative_to(real))
    ]
    return sorted(kept, key=lambda file: file.as_posix())


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def kind_of(path: Path) -> str:
    """Returns `text`, `jsonl`, `csv`, `tsv` or `parquet` (or Arrow), by the file's suffix.

    Raises:
      DataError: the file is of a kind that has to be unpacked or written otherwise first.

    Example:
      >>> kind_of(Path("a.TSV")), kind_of(Path("book.txt"))
      ('tsv', 'text')
    """
    suffix = path.suffix.lower()
    if suffix in _OTHER:
        raise DataError(f"{path}: a {suffix} file is not read; {_OTHER[suffix]}")
    return KINDS.get(suffix, "text")


def read(path: Path, columns: Sequence[str], bad: BadRecords, delimiter: str | None = None) -> Iterator[Record]:
    """Yields the records of a file; of a plain text its lines, whose one value is the line.

    Args:
      path: the file; its suffix tells its kind.
      columns: names of the columns to return.
      bad: takes what cannot be read.
      delimiter: between the columns of a CSV file.

    Raises:
      DataError: the file cannot be read, is empty, or lacks a column.
    """
    kind = kind_of(path)
    if kind == "parquet":
        opened(path).close()
        yield from of_shards(open_shards(str(path), [path], empty=True), str(path), columns, bad)
        return
    with opened(path) as file:
        if kind == "text":
            yield from lines(file, str(path), bad)
        elif kind == "jsonl":
            yield from _jsonl(file, path, columns, bad)
        else:
            yield from _csv(file, path, columns, bad, "\t" if kind == "tsv" else delimiter or ",", quoted=kind == "csv")


def opened(path: Path) -> BinaryIO:
    """Opens a file; raises DataError where that cannot be, or where it is empty."""
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: is empty; expected text")
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def lines(file: BinaryIO, name: str, bad: BadRecords, *, first: int = 1) -> Iterator[Record]:
    """Yields the lines of a plain text that are not blank, each as a record `name:line`.

    Args:
      file: open for reading bytes.
      name: of the file.
      bad: takes the lines that are not UTF-8.
      first: number of the first line.
    """
    for number, raw in raw_lines(file, name, first):
        where = f"{name}:{number}"
        text = _decoded(raw, where, bad)
        if text is not None and text.strip():
            yield Record(where, (text,))


def whole(path: Path) -> Iterator[str]:
    """Yields a plain text in blocks that end at the end of a line where they can, with line ends as `\\n`.

    Raises:
      DataError: the file cannot be read.
      UnicodeDecodeError: it is not UTF-8.
    """
    with opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as file:
        rest = ""
        while block := file.read(BLOCK):
            block = rest + block
            cut = block.rfind("\n") + 1 or len(block)
            rest = block[cut:]
            yield block[:cut]
        if rest:
            yield rest


def why_not_text(path: Path) -> str | None:
    """Returns what keeps a file from being text, as a clause, and None where it is text.

    Raises:
      DataError: the file cannot be read, or is empty.
    """
    try:
        zero = any("\0" in block for block in whole(path))
    except UnicodeDecodeError:
        with opened(path) as file:
            for number, raw in enumerate(file, 1):
                try:
                    raw.decode()
                except UnicodeDecodeError as error:
                    return f"is not UTF-8 in line {number} ({_byte(error)}); convert it with iconv -f FROM -t UTF-8"
        return "is not UTF-8; convert it with iconv -f FROM -t UTF-8"
    return "holds a zero byte, so that it is no text" if zero else None


def why_no_value(text: Any, column: str, *, empty: bool = False) -> str | None:
    """Returns why a value is not text that can be encoded, as a clause, and None where it is.

    Args:
      text: the value.
      column: its name.
      empty: whether it may be empty.

    Example:
      >>> why_no_value(7, "review"), why_no_value("fine", "review")
      ("its 'review' is int, not text", None)
    """
    if text is None:
        return f"has no {column!r}"
    if not isinstance(text, str):
        return f"its {column!r} is {type(text).__name__}, not text"
    if not empty and not text.strip():
        return f"its {column!r} is empty"
    if "\0" in text:
        return f"its {column!r} holds a zero byte"
    return f"its {column!r} holds half of a character (a surrogate)" if SURROGATE.search(text) else None


# -- formats --------------------------------------------------------------------------------------


def _decoded(raw: bytes, where: str, bad: BadRecords) -> str | None:
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        bad.add(where, f"is not UTF-8 ({_byte(error)})")
        return None


def _byte(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x}"


def _jsonl(file: BinaryIO, path: Path, columns: Sequence[str], bad: BadRecords) -> Iterator[Record]:
    first = True
    for line, row, why in json_rows(file, str(path)):
        if why is not None:
            bad.add(f"{path}:{line}", why)
            continue
        if first:
            _expect_columns(path, columns, list(row))
            first = False
        yield Record(f"{path}:{line}", tuple(row.get(column) for column in columns))


def _csv(
    file: BinaryIO, path: Path, columns: Sequence[str], bad: BadRecords, delimiter: str, *, quoted: bool
) -> Iterator[Record]:
    header: list[str] | None = None
    places: list[int] = []
    for line, row, why in csv_rows(file, str(path), delimiter, quoted=quoted):
        if header is None:
            if why is not None:
                raise DataError(f"{path}:{line}: the header {why}")
            header, places = row, _places(path, columns, row, delimiter)
            continue
        why = why or ragged(row, header, delimiter)
        if why is not None:
            bad.add(f"{path}:{line}", why)
        else:
            yield Record(f"{path}:{line}", tuple(row[place] for place in places))


def _places(path: Path, columns: Sequence[str], header: list[str], delimiter: str) -> list[int]:
    other = other_delimiter(header[0]) if len(header) == 1 else None
    if other is not None:
        fix = f"set data.delimiter: {json.dumps(other)}"
        raise DataError(f"{path}: its columns are not separated by {NAMES.get(delimiter, repr(delimiter))}; {fix}")
    _expect_columns(path, columns, header)
    twice = next((name for name in columns if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: has two columns called {twice!r}; rename one of them")
    return [header.index(name) for name in columns]


def of_shards(shards: Shards, name: str, columns: Sequence[str], bad: BadRecords) -> Iterator[Record]:
    """Yields the records of Parquet or Arrow files, each named by its number, from 1.

    Args:
      shards: the files.
      name: of them all.
      columns: names of the columns to return.
      bad: takes what is not UTF-8.

    Raises:
      DataError: a column is missing.
    """
    _expect_columns(name, columns, shards.columns)
    for number, values, why in shards.rows(columns):
        if why is not None:
            bad.add(f"{name}:{number}", why)
        else:
            yield Record(f"{name}:{number}", values)


def _expect_columns(path: Path | str, columns: Sequence[str], known: list[str]) -> None:
    for name in columns:
        if name not in known:
            listed = ", ".join(map(repr, known[:20])) or "none"
            raise DataError(
                f"{path}: has no column {name!r}{did_you_mean(name, known)} (it has: {listed}); give the column "
                f"that name, or name another one in the section data in the place of {name!r}"
            )
