"""Records of text files, one after the other and named by their lines: plain text, JSONL, CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from jaxprop.data.bad import BadRecords
from jaxprop.errors import DataError, MissingExtraError, did_you_mean

KINDS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet",
    ".pq": "parquet",
}  # fmt: skip
# What a folder is searched for; a glob names any other.
SUFFIXES = (
    ".txt", ".text", ".md", ".rst", ".org", ".tex", ".html", ".htm", ".xml", ".py", ".pyi", ".c", ".h", ".cc", ".cpp",
    ".hpp", ".java", ".js", ".ts", ".go", ".rs", ".rb", ".jl", ".r", ".sh", ".sql", ".css", ".toml", ".yaml", ".yml",
)  # fmt: skip
MAX_RECORD = 64 * 2**20  # bytes of one record
BLOCK = 2**24  # characters of a plain text that are read at a time
_OTHER = {".json": "write one record a line (jq -c '.[]' FILE > FILE.jsonl)", ".gz": "unpack it", ".zip": "unpack it"}
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BOM = b"\xef\xbb\xbf"


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
    """Returns `text`, `jsonl`, `csv`, `tsv` or `parquet`, by the file's suffix.

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
        yield from _parquet(path, columns, bad)
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
    for number, raw in _raw_lines(file, name, first):
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
    return f"its {column!r} holds half of a character (a surrogate)" if _SURROGATE.search(text) else None


# -- formats --------------------------------------------------------------------------------------


def _raw_lines(file: BinaryIO, name: str, first: int = 1) -> Iterator[tuple[int, bytes]]:
    number = first - 1
    while raw := file.readline(MAX_RECORD + 1):
        number += 1
        if len(raw) > MAX_RECORD:
            raise DataError(f"{name}:{number}: is longer than {MAX_RECORD >> 20} MiB; split it")
        yield number, raw.removeprefix(_BOM) if number == 1 else raw


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
    for number, raw in _raw_lines(file, str(path)):
        where = f"{path}:{number}"
        text = _decoded(raw, where, bad)
        if text is None or not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            bad.add(where, "is not JSON")
            continue
        if not isinstance(row, dict):
            bad.add(where, 'is not a JSON object; expected one with keys, such as {"text": ...}')
            continue
        if first:
            _expect_columns(path, columns, list(row))
            first = False
        yield Record(where, tuple(row.get(column) for column in columns))


def _csv(
    file: BinaryIO, path: Path, columns: Sequence[str], bad: BadRecords, delimiter: str, *, quoted: bool
) -> Iterator[Record]:
    csv.field_size_limit(MAX_RECORD)
    at = [0]  # lines read so far

    def decoded() -> Iterator[str]:
        for number, raw in _raw_lines(file, str(path)):
            at[0] = number
            # A lone carriage return ends no line here, and the csv module stops at one.
            yield raw.decode("utf-8", "surrogateescape").rstrip("\r\n").replace("\r", " ") + "\n"

    rows = csv.reader(
        decoded(), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
    )
    header: list[str] | None = None
    places: list[int] = []
    while True:
        where = f"{path}:{at[0] + 1}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                raise DataError(f"{where}: has a quotation mark that is never closed; repair the line") from error
            bad.add(where, f"cannot be read as CSV ({error})")
            continue
        if not row:
            continue
        if header is None:
            header = row
            places = _places(path, columns, header, delimiter)
        elif len(row) != len(header):
            bad.add(where, f"has {len(row)} values, but the header has {len(header)} columns")
        elif any(_SURROGATE.search(row[place]) for place in places):
            bad.add(where, "is not UTF-8")
        else:
            yield Record(where, tuple(row[place] for place in places))


def _places(path: Path, columns: Sequence[str], header: list[str], delimiter: str) -> list[int]:
    other = next((d for d in (";", "\t", ",", "|") if d != delimiter and len(header) == 1 and d in header[0]), None)
    if other is not None:
        name = {"\t": "\\t"}.get(other, other)
        raise DataError(f'{path}: its columns are not separated by {delimiter!r}; set data.delimiter: "{name}"')
    _expect_columns(path, columns, header)
    twice = next((name for name in columns if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: has two columns called {twice!r}; rename one of them")
    return [header.index(name) for name in columns]


def _parquet(path: Path, columns: Sequence[str], bad: BadRecords) -> Iterator[Record]:
    if find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", f"{path}: a Parquet file")
    import pyarrow
    from pyarrow import parquet

    opened(path).close()
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _expect_columns(path, columns, list(file.schema_arrow.names))
            for batch in file.iter_batches(batch_size=1024, columns=list(dict.fromkeys(columns))):
                held = [batch.column(name) for name in columns]
                for row in range(batch.num_rows):
                    number += 1
                    try:
                        values = tuple(column[row].as_py() for column in held)
                    except UnicodeDecodeError as error:
                        bad.add(f"{path}:{number}", f"is not UTF-8 ({_byte(error)})")
                        continue
                    yield Record(f"{path}:{number}", values)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        said = (str(error).splitlines() or [""])[0][:200]
        raise DataError(f"{path}: is damaged, cut short or not a Parquet file ({said})") from error


def _expect_columns(path: Path, columns: Sequence[str], known: list[str]) -> None:
    for name in columns:
        if name not in known:
            listed = ", ".join(map(repr, known[:20])) or "none"
            raise DataError(
                f"{path}: has no column {name!r}{did_you_mean(name, known)} (it has: {listed}); name the columns in "
                "the section data, such as text: and label:"
            )
