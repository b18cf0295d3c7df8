"""The values of a column: numbers, texts, or missing."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.readers.table.files import Table, arrow

# What files write where there is no value; what is only white space is missing, too.
MISSING = (
    "", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN", "null", "NULL", "Null", "None", "?",
)  # fmt: skip
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity)", re.ASCII | re.IGNORECASE)
_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)
# What no rule about commas makes a number: 1,257.30, 1.257,30, $12.50, 12 %, 3 EUR.
_DIGITS = r"(\d{1,3}(,\d{3})+\.\d+|\d{1,3}(\.\d{3})+,\d+|\d{1,3}(,\d{3})+|\d+([.,]\d+)?)"
_SIGN = "[$\u20ac\u00a3\u00a5%]|USD|EUR|GBP|JPY|CHF"
_MARKED = re.compile(
    rf"[+-]?({_SIGN})\s?[+-]?{_DIGITS}|\(?[+-]?{_DIGITS}\s?({_SIGN})\)?|[+-]?\d{{1,3}}((,\d{{3}})+\.\d+|(\.\d{{3}})+,\d+)",
    re.ASCII,
)
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}( .*)?", re.ASCII)
_INTEGRAL = re.compile(r"(-?\d+)\.0*", re.ASCII)
_LARGEST = float(np.finfo(np.float32).max)


class Seen(NamedTuple):
    """What a column holds, by the look of its values.

    Args:
      counts: number of values of each sort: `number`, `comma` (1,5), `thousand` (1,500, which may be either), `marked`
        (1,257.30, $12 or 12%), `date`, `text` and `missing`.
      examples: the first value of each sort.
    """

    counts: Counter[str]
    examples: dict[str, str]

    @property
    def present(self) -> int:
        """Number of values that are not missing."""
        return self.counts.total() - self.counts["missing"]


def look(table: Table, names: list[str]) -> dict[str, Seen]:
    """Counts what the columns of a table hold; reads all records.

    Args:
      table: the table.
      names: of the columns.
    """
    seen = {name: Seen(Counter(), {}) for name in names}
    for block in table.blocks():
        for name in names:
            _count(seen[name], block.columns[name])
    return seen


def _count(seen: Seen, array: Any) -> None:
    pa = arrow()

    def add(sort: str, number: int, example: str) -> None:
        if number:
            seen.counts[sort] += number
            seen.examples.setdefault(sort, example)

    if not pa.types.is_string(array.type):
        values, _ = numbers(array)
        held = int(np.count_nonzero(~np.isnan(values)))
        sort = "text" if pa.types.is_boolean(array.type) else "number"
        add(sort, held, "")
        add("missing", len(array) - held, "")
        return
    text = cleaned(array)
    add("missing", text.null_count, "")
    try:
        text.cast(pa.float64())
        add("number", len(text) - text.null_count, "")
    except pa.ArrowInvalid:
        for held in text.value_counts().to_pylist():
            if held["values"] is not None:
                add(_sort(held["values"]), held["counts"], held["values"])


def _sort(text: str) -> str:
    if _NUMBER.fullmatch(text):
        return "number"
    if _THOUSANDS.fullmatch(text):
        return "thousand"
    if _COMMA.fullmatch(text):
        return "comma"
    if _MARKED.fullmatch(text):
        return "marked"
    return "date" if _DATE.fullmatch(text) else "text"


def cleaned(array: Any) -> Any:
    """Returns texts without white space around them, and null where a value is missing.

    Args:
      array: a pyarrow array of texts.

    Example:
      >>> cleaned(arrow().array([" red ", "NA", None])).to_pylist()
      ['red', None, None]
    """
    pa = arrow()
    text = pa.compute.utf8_trim_whitespace(array)
    missing = pa.compute.is_in(text, value_set=pa.array(MISSING))
    return pa.compute.if_else(missing, pa.scalar(None, pa.string()), text)


def numbers(array: Any, *, comma: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of a column, and which values are none.

    Args:
      array: a pyarrow array of numbers, booleans or texts.
      comma: whether a comma separates the decimals.

    Returns:
      float64 `[n]`, NaN where a value is missing or no finite float32; and a boolean `[n]`, where it is the latter.

    Example:
      >>> values, wrong = numbers(arrow().array(["1.5", "", "x"]))
      >>> values.tolist(), wrong.tolist()
      ([1.5, nan, nan], [False, False, True])
    """
    pa = arrow()
    if pa.types.is_string(array.type):
        text = cleaned(array)
        if comma:
            text = pa.compute.replace_substring(text, ",", ".")
        try:
            values = text.cast(pa.float64()).to_numpy(zero_copy_only=False)
            wrong = np.zeros(len(values), bool)
        except pa.ArrowInvalid:  # one value in a thousand may be a text, or have a leading plus
            held = [_number(value) for value in text.to_pylist()]
            values = np.array([np.nan if value is None or value is _NONE else value for value in held], np.float64)
            wrong = np.array([value is _NONE for value in held], bool)
    else:
        plain = array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array
        values = plain.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        wrong = np.zeros(len(values), bool)
    too_large = np.abs(values) > _LARGEST  # False where NaN
    return np.where(too_large, np.nan, values), wrong | too_large


_NONE = object()


def _number(text: str | None) -> Any:
    if text is None:
        return None
    return float(text) if _NUMBER.fullmatch(text) else _NONE


def texts(array: Any) -> tuple[np.ndarray, list[str]]:
    """Returns the texts of a column by code. What is the same value in files of two formats is the same text.

    Args:
      array: a pyarrow array of texts, numbers or booleans.

    Returns:
      int64 `[n]`, -1 where a value is missing; and the text of each code.

    Example:
      >>> codes, names = texts(arrow().array([1.0, 2.5, None]))
      >>> codes.tolist(), names
      ([0, 1, -1], ['1', '2.5'])
    """
    pa = arrow()
    array = cleaned(array if pa.types.is_string(array.type) else array.cast(pa.string()))
    coded = array.dictionary_encode()
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, [_canonical(text) for text in coded.dictionary.to_pylist()]


def _canonical(text: str) -> str:
    """1 for 1.0, which pandas makes of integers where one is missing; true for True."""
    found = _INTEGRAL.fullmatch(text)
    if found:
        return found[1]
    return text.lower() if text.lower() in ("true", "false") else text
