"""Regular expressions that may be anyone's: matched within a time limit.

Python's own engine has no limit, and holds the interpreter while it matches: an expression such as `(a|aa)+$` from a
configuration would run for years. The package regex takes the same expressions and stops at a limit. An engine of
linear time, such as RE2, knows no lookahead, with which "everything but the head" is written.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

from jaxprop.errors import ConfigError

SECONDS = 1.0  # for all that a pattern is matched against; a usual one takes microseconds
LONGEST = 1000  # characters of a pattern
_spent: dict[str, float] = {}


def check(pattern: str) -> str | None:
    """Returns why a text is not a regular expression that can be used, or None.

    Example:
      >>> check("head/.*"), check("(")
      (None, 'missing ) at position 1')
    """
    try:
        _compiled(pattern)
    except ValueError as error:
        return str(error)
    return None


def fullmatch(pattern: str, text: str) -> Any:
    """Matches a whole text, as `re.fullmatch` does.

    Args:
      pattern: the regular expression.
      text: such as the path of a parameter.

    Returns:
      The match, or None.

    Raises:
      ConfigError: matching takes too long.

    Example:
      >>> fullmatch("(.*)/kernel", "head/kernel")[1], fullmatch("head", "head/kernel")
      ('head', None)
    """
    return _timed("fullmatch", pattern, text)


def search(pattern: str, text: str) -> Any:
    """Looks for a pattern anywhere in a text, as `re.search` does; arguments and errors are those of `fullmatch`.

    Example:
      >>> search("norm|head", "blocks/0/attn_norm")[0], search("norm$", "norm/scale")
      ('norm', None)
    """
    return _timed("search", pattern, text)


def _timed(how: str, pattern: str, text: str) -> Any:
    began, before = time.perf_counter(), _spent.get(pattern, 0.0)
    try:
        found = getattr(_compiled(pattern), how)(text, timeout=max(SECONDS - before, 1e-3))
    except TimeoutError:
        raise ConfigError(
            f"the pattern {pattern!r} takes too long to match {text[:80]!r}; write it without a repetition within a "
            "repetition, such as (a+)+"
        ) from None
    taken = time.perf_counter() - began
    if taken > 1e-3:
        _spent[pattern] = before + taken
    return found


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    import regex  # imported where it is used, since most configurations have no pattern

    if len(pattern) > LONGEST:
        raise ValueError(f"it has {len(pattern):,} characters, more than {LONGEST:,}")
    try:
        return regex.compile(pattern)
    except (regex.error, OverflowError, ValueError) as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("its groups are nested too deeply") from None


def expand(found: Any, template: str) -> str:
    r"""Fills what a match has found into a text with `\1`; raises ValueError where that cannot be.

    Example:
      >>> expand(fullmatch("encoder/(.*)", "encoder/kernel"), r"backbone/\1")
      'backbone/kernel'
    """
    import regex

    try:
        return found.expand(template)
    except (regex.error, LookupError) as error:
        raise ValueError(str(error)) from None
