"""Values from files that anyone may have written: of the expected type, or a default. Pure."""

from __future__ import annotations

import math
from typing import Any

from jaxprop import errors

LARGEST_STEP = 2**53  # larger integers are not exact in JavaScript


def number(value: Any) -> float | None:
    """Returns a finite float, or None.

    Example:
      >>> number(3), number(None), number("3"), number(float("inf"))
      (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int | None:
    """Returns a step: a whole number from 0 to 2^53, or None.

    Example:
      >>> whole(3), whole(-1), whole(True), whole(2.5), whole(10**30)
      (3, None, None, None, None)
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value < LARGEST_STEP else None


def text(value: Any, default: str = "") -> str:
    """Returns a string unchanged, and the default for anything else.

    Example:
      >>> text("head"), text(None, "no layer")
      ('head', 'no layer')
    """
    return value if isinstance(value, str) else default


def numbers(value: Any) -> list[float | None]:
    """Returns the items of a list, with None for those that are not finite numbers; an empty list for anything else.

    Example:
      >>> numbers([1, "a", None, 2.5]), numbers("abc")
      ([1.0, None, None, 2.5], [])
    """
    return [number(item) for item in value] if isinstance(value, list) else []


def nested(tree: Any, *keys: str) -> Any:
    """Returns the value at a path of keys, or None.

    Example:
      >>> nested({"data": {"batch_size": 64}}, "data", "batch_size"), nested({"data": 3}, "data", "name")
      (64, None)
    """
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def printable(value: str, longest: int = 200) -> str:
    """Returns a text that is safe for a terminal: one line of limited length, without control characters.

    Example:
      >>> printable("a\\x1b[31mb\\n")
      'a?[31mb?'
    """
    shown = errors.printable(value)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
