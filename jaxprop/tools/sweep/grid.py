"""What a sweep varies: `key=[a, b]`, `key=log(low, high, n)` and `key=lin(low, high, n)`. Pure; loads no jax."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxprop.config.merge import overrides_tree
from jaxprop.errors import UsageError
from jaxprop.run.swept import written

SPACED = re.compile(r"(log|lin|int)\((.*)\)")
DIGITS = 6  # of a value between two ends, which a person has to be able to write
MOST_VALUES = 10_000


class Axis(NamedTuple):
    """A key and the values that a sweep gives to it.

    Args:
      key: dotted, such as `optimizer.lr`.
      values: of it, two or more.
    """

    key: str
    values: tuple[Any, ...]


class Span(NamedTuple):
    """A key and a range that a search draws its values from.

    Args:
      key: dotted.
      low, high: both ends, which may be drawn.
      form: `log`, by its logarithm; `lin`; or `int`, whole numbers.
    """

    key: str
    low: float
    high: float
    form: str

    def drawn(self, value: float) -> float | int:
        """Returns a value as a configuration has it, with as many digits as a person writes."""
        return int(value) if self.form == "int" else float(f"{value:.{DIGITS}g}")


class Words(NamedTuple):
    """The words of a sweep's command line, apart.

    Args:
      axes: what is varied.
      fixed: overrides that all runs have.
      spans: what a search varies, besides the axes.
    """

    axes: tuple[Axis, ...]
    fixed: tuple[str, ...]
    spans: tuple[Span, ...] = ()


def axes_of(words: Sequence[str]) -> Words:
    """Reads what a sweep varies, and what it sets for all of its runs.

    Args:
      words: `key=values` and `key=value`.

    Returns:
      The axes, in their order, and the rest.

    Raises:
      UsageError: a range that cannot be read, an empty list, a value that stands twice, or a key that does.

    Example:
      >>> axes_of(["optimizer.lr=log(1e-3, 1e-1, 3)", "model.dropout=[0, 0.5]", "run.steps=10"])  # doctest: +ELLIPSIS
      Words(axes=(Axis(key='optimizer.lr', values=(0.001, 0.01, 0.1)), Axis(...(0, 0.5))), fixed=('run.steps=10',), ...)
    """
    axes: list[Axis] = []
    spans: list[Span] = []
    fixed: list[str] = []
    for word in words:
        key, _, text = word.partition("=")
        span = _span(word, key, text)
        values = None if span else _values(word, text)
        if values is None and span is None:
            fixed.append(word)
            continue
        if values is not None:
            _check(word, key, values)
        if key in _keys(axes, spans):
            raise UsageError(f"{word!r}: {key} is varied twice; write all of its values in one list")
        if span is not None:
            spans.append(span)
        elif values is not None:
            axes.append(Axis(key, tuple(values)))
    twice = [word for word in fixed if word.partition("=")[0] in _keys(axes, spans)]
    if twice:
        raise UsageError(f"{twice[0]!r}: the key is varied as well; leave one of the two out")
    return Words(tuple(axes), tuple(fixed), tuple(spans))


def _keys(axes: Sequence[Axis], spans: Sequence[Span]) -> list[str]:
    return [*(axis.key for axis in axes), *(span.key for span in spans)]


def _check(word: str, key: str, values: Sequence[Any]) -> None:
    if not values:
        raise UsageError(
            f"{word!r}: an empty list has no run; write values, as in {key}=[1, 2]; the "
            f"empty list as a value is {key}=[[]]"
        )
    if len(values) > MOST_VALUES:
        raise UsageError(f"{word!r}: {len(values):,} values; at most {MOST_VALUES:,} can be tried")
    texts = [written(value) for value in values]
    again = next((text for text in texts if texts.count(text) > 1), None) if len(texts) <= MOST_VALUES else None
    if again is not None:
        raise UsageError(f"{word!r}: {again} stands there twice; --seeds N repeats each setting")


def _values(word: str, text: str) -> list[Any] | None:
    """The values that a word names; None where it is a plain override."""
    spaced = SPACED.fullmatch(text.strip())
    if spaced:
        return _spaced(word, *spaced.groups())
    tree, problems = overrides_tree([word])
    if problems:
        raise UsageError(problems[0])
    value = tree.value
    while isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    return value if isinstance(value, list) else None


def _span(word: str, key: str, text: str) -> Span | None:
    """The range that a word names; None where it names none, or one with a count."""
    found = SPACED.fullmatch(text.strip())
    parts = [part.strip() for part in found[2].split(",")] if found else []
    if found is None or (len(parts) != 2 and found[1] != "int"):
        return None
    form = found[1]
    try:
        low, high = (int(part) if form == "int" else float(part) for part in parts)
    except ValueError:
        example = "int(1, 8)" if form == "int" else f"{form}(1e-4, 1e-1)"
        raise UsageError(f"{word!r}: expected {form}(low, high), such as {example}") from None
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high:
        raise UsageError(f"{word!r}: expected {form}(low, high) with low < high")
    if form == "log" and low <= 0:
        raise UsageError(f"{word!r}: a logarithm needs low above 0; use lin(low, high)")
    return Span(key, low, high, form)


def _spaced(word: str, form: str, arguments: str) -> list[float]:
    parts = [part.strip() for part in arguments.split(",")]
    try:
        low, high, count = float(parts[0]), float(parts[1]), int(parts[2])
    except (ValueError, IndexError):
        raise UsageError(f"{word!r}: expected {form}(low, high, count), such as {form}(1e-4, 1e-1, 8)") from None
    if len(parts) > 3 or count < 2 or not (math.isfinite(low) and math.isfinite(high)) or low >= high:
        raise UsageError(f"{word!r}: expected {form}(low, high, count) with low < high and a count of 2 or more")
    if count > MOST_VALUES:
        raise UsageError(f"{word!r}: {count:,} values; at most {MOST_VALUES:,} can be tried")
    if form == "log" and low <= 0:
        raise UsageError(f"{word!r}: a logarithm needs low above 0; use lin(low, high, count), or a list")
    shares = [i / (count - 1) for i in range(count)]
    between = [low * (high / low) ** share if form == "log" else low + (high - low) * share for share in shares]
    return [float(f"{value:.{DIGITS}g}") for value in between]


def settings(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Yields every combination of the axes' values; the last axis changes fastest.

    Example:
      >>> list(settings([Axis("a", (1, 2)), Axis("b", (3,))]))
      [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    for values in itertools.product(*(axis.values for axis in axes)):
        yield dict(zip((axis.key for axis in axes), values, strict=True))
