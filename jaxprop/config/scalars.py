"""The scalars of YAML 1.2's core schema: PyYAML's own are those of YAML 1.1.

There `1e-3` is text, `no` is false, `010` is 8 and `12:30:45` is 45045.

Reference:
  YAML 1.2.2, section 10.3.2, https://yaml.org/spec/1.2.2/#1032-tag-resolution
"""

from __future__ import annotations

import re

NULL = re.compile(r"(?:null|Null|NULL|~|)")
BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)")
INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)")
FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
MAX_DIGITS = 400  # more than any float64 has; Python refuses to read integers of 4300


def plain(text: str) -> str | int | float | bool | None:
    """Returns the value of an unquoted YAML scalar.

    Args:
      text: the scalar as written.

    Returns:
      None, a bool, an int, a float, or else the text itself.

    Example:
      >>> [plain(text) for text in ("1e-3", "010", "0o10", "no", "12:30:45", "~")]
      [0.001, 10, 8, 'no', '12:30:45', None]

    Reference:
      YAML 1.2.2, section 10.3.2.
    """
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text.lower() == "true"
    if len(text) > MAX_DIGITS:
        return text
    if INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if FLOAT.fullmatch(text):
        special = text.lower().endswith(("inf", "nan"))
        return float(text.replace(".", "", 1) if special else text)
    return text
