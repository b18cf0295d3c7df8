"""The rows of CSV and JSONL files, one after the other: each with its line, and with what is wrong with a bad one."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from jaxprop.errors import DataError

MAX_RECORD = 64 * 2**20  # bytes of one line
DELIMITERS = (",", ";", "\t", "|")
NAMES = {"\t": "a tab", ",": "','", ";": "';'", "|": "'|'"}
SURROGATE = re.compile(r"[\ud800-\udfff]")  # half of a character, which JSON can escape and UTF-8 cannot hold
_BOM = b"\xef\xbb\xbf"
_UNCLOSED = 'a double quote is opened here and never closed; close it, or write a quote inside a quoted value as ""'


def raw_lines(file: BinaryIO, name: str, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Yields the lines of a file with their numbers, and without a byte order mark.

    Args:
      file: open for reading bytes.
      name: of the file, for messages.
      first: number of the first line.

    Raises:
      DataError: a line is longer than `MAX_RECORD`.
    """
    number = first - 1
    while raw := file.readline(MAX_RECORD + 1):
        number += 1
        if len(raw) > MAX_RECORD:
            raise DataError(f"{name}:{number}: is longer than {MAX_RECORD >> 20} MiB; split it")
        yield number, raw.removeprefix(_BOM) if number == 1 else raw


def csv_rows(
    file: BinaryIO, name: str, delimiter: str, *, quoted: bool = True, to_predict: bool = False
) -> Iterator[tuple[int, list[str], str | None]]:
    """Yields every row, the header among them: the line that it begins on, its values, and what is wrong with it.

    Args:
      file: open for reading bytes.
      name: of the file, for messages.
      delimiter: between values.
      quoted: whether a double quote opens a value that may hold delimiters and line breaks.
      to_predict: whether a quote that is never closed makes one bad row, so that those before it can be predicted.

    Raises:
      DataError: a quote is opened and never closed, so that the end of the file would be one value.

    Example:
      >>> list(csv_rows(io.BytesIO(b'a,b\\n"1\\n2",3\\n'), "x.csv", ","))
      [(1, ['a', 'b'], None), (2, ['1\\n2', '3'], None)]
    """
    csv.field_size_limit(MAX_RECORD)
    reader = csv.reader(
        _text_lines(file, name),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    while True:
        start = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                if not to_predict:
                    raise DataError(f"{name}:{start}: {_UNCLOSED}") from error
                yield start, [], _UNCLOSED
                return
            yield start, [], f"cannot be read as CSV ({error})"
            continue
        if values:
            yield start, values, _undecodable(values)


def _text_lines(file: BinaryIO, name: str) -> Iterator[str]:
    for _, raw in raw_lines(file, name):
        text = raw.decode("utf-8", "surrogateescape")
        # A carriage return ends a line, too, but for the csv module only where a string ends with it.
        if "\r" in text.rstrip("\r\n"):
            yield from io.StringIO(text, newline="")
        else:
            yield text


def _undecodable(values: Sequence[str]) -> str | None:
    found = SURROGATE.search("".join(values))
    return None if found is None else not_utf8(ord(found.group()) - 0xDC00)


def not_utf8(byte: int) -> str:
    """Returns what is wrong with a record that holds a byte that is no UTF-8."""
    return f"is not UTF-8 text (byte 0x{byte:02x}); save the file as UTF-8"


def ragged(values: Sequence[str], header: Sequence[str], delimiter: str) -> str | None:
    """Returns what is wrong with a row whose number of values is not that of the header; None where it is.

    Example:
      >>> ragged(["1"], ["a", "b"], ",")
      'has 1 value, but the header has 2 columns'
    """
    if len(values) == len(header):
        return None
    told = f"has {len(values)} value{'s' * (len(values) != 1)}, but the header has {len(header)} columns"
    if len(values) < len(header):
        return told
    if delimiter == "\t":  # which has no quotes, so that texts may contain them
        return f"{told}; replace tabs within a value by spaces"
    return f"{told}; a value that contains {NAMES.get(delimiter, repr(delimiter))} has to stand in double quotes"


def other_delimiter(header: str) -> str | None:
    """Returns the delimiter that occurs most in a header that has only one column; None if none does.

    Example:
      >>> other_delimiter("a;b;c")
      ';'
    """
    counts = Counter(c for c in header if c in DELIMITERS)
    return counts.most_common(1)[0][0] if counts else None


def json_rows(file: BinaryIO, name: str, *, first: int = 1) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Yields the object of every line that is not blank: its line, the object, and what is wrong with it.

    Args:
      file: open for reading bytes.
      name: of the file, for messages.
      first: number of the first line.

    Example:
      >>> list(json_rows(io.BytesIO(b'{"a": 1}\\n\\n[2]\\n'), "x.jsonl"))
      [(1, {'a': 1}, None), (3, {}, 'holds a list, not an object')]
    """
    for line, raw in raw_lines(file, name, first):
        if not raw.strip():
            continue
        try:
            record = json.loads(raw.decode(), object_pairs_hook=_object)
        except UnicodeDecodeError as error:
            yield line, {}, not_utf8(raw[error.start])
        except _Twice as error:
            yield line, {}, f"has the key {error.args[0]!r} twice"
        except json.JSONDecodeError as error:
            yield line, {}, f"is not JSON ({error.msg} at character {error.pos + 1})"
        except (ValueError, RecursionError) as error:
            yield line, {}, f"is not JSON that can be read ({type(error).__name__})"
        else:
            fits = isinstance(record, dict)
            yield line, record if fits else {}, None if fits else f"holds a {type(record).__name__}, not an object"


class _Twice(Exception):
    """A key of an object that stands there twice, whose first value JSON would drop."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for i, name in enumerate(names) if name in names[:i]))
    return record
