"""Where the values of a key, and those of the metric, lie on an axis from 0 to 1. Pure; settings need be no grid."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from jaxprop.report.fields import number
from jaxprop.run.swept import written

DECADES = 1.0  # from which on an axis of numbers above zero is logarithmic
OWN = 12  # most values that are ticks themselves
TICKS = 5  # of an axis with more
APART = 0.05  # least distance of two ticks, so that their labels do not overlap
FAR = 4.0  # times the distance of the median from the best, from which on values have the colour of the worst


class Axis(NamedTuple):
    """An axis of values.

    Args:
      kind: `log`, `linear`, `ordered` for numbers at equal distances, or `category`.
      at: the place of each value, from 0 to 1; None where there is none.
      ticks: places and labels, ascending, none over another.
    """

    kind: str
    at: list[float | None]
    ticks: list[tuple[float, str]]


class Level(NamedTuple):
    """The scale of the metric's colours.

    Args:
      best, worst: values at its ends.
      clipped: whether there are values beyond the worst.
      log: whether it is logarithmic.
    """

    best: float
    worst: float
    clipped: bool
    log: bool

    def at(self, value: float) -> float | None:
        """Returns the level of a value: 1 at the best, 0 at the worst and beyond; None where it is not finite."""
        if not math.isfinite(value):
            return None
        best, worst, value = (math.log(x) for x in (self.best, self.worst, value)) if self.log else (*self[:2], value)
        if not math.isfinite(best - worst):
            return 0.5  # the ends of all floats
        return 1.0 if best == worst else min(max((value - worst) / (best - worst), 0.0), 1.0)


class Absent:
    """Stands for the value of a key that a setting does not have."""


def axis(values: Sequence[Any], order: Sequence[str] = ()) -> Axis:
    """Returns the axis of a key.

    Args:
      values: of the settings; `Absent()` where one does not have the key.
      order: of values that are no numbers, as words; others follow.

    Example:
      >>> axis([0.001, 0.1, 0.01])
      Axis(kind='log', at=[0.0, 1.0, 0.5], ticks=[(0.0, '0.001'), (0.5, '0.01'), (1.0, '0.1')])
      >>> axis(["adam", None, Absent()])
      Axis(kind='category', at=[0.0, 1.0, None], ticks=[(0.0, 'adam'), (1.0, 'null')])
    """
    known = [value for value in values if not isinstance(value, Absent)]
    found = [number(value) for value in known]
    numbers = sorted({value for value in found if value is not None})
    if not known or None in found or not math.isfinite(numbers[-1] - numbers[0]):
        return _categories(values, order)
    log = numbers[0] > 0 and math.log10(numbers[-1] / numbers[0]) >= DECADES
    low, high = (math.log(end) if log else end for end in (numbers[0], numbers[-1]))

    # Numbers that lie far apart, with a zero among them, fit no scale: they stand at equal distances.
    crowded = len(numbers) <= OWN and not log and any(b - a < APART * (high - low) for a, b in pairwise(numbers))

    def place(value: float) -> float:
        if crowded:
            return round(numbers.index(value) / (len(numbers) - 1), 4)
        return 0.5 if high == low else round(((math.log(value) if log else value) - low) / (high - low), 4)

    at = [None if isinstance(value, Absent) else place(float(value)) for value in values]
    if len(numbers) <= OWN:
        names = {float(value): written(value) for value in known}
        return Axis(
            "log" if log else "ordered" if crowded else "linear",
            at,
            _apart([(place(value), names[value]) for value in numbers]),
        )
    shares = [i / (TICKS - 1) for i in range(TICKS)]
    marks = [low + share * (high - low) for share in shares]
    labels = [f"{math.exp(mark) if log else mark:.3g}" for mark in marks]
    return Axis("log" if log else "linear", at, list(zip(shares, labels, strict=True)))


def _categories(values: Sequence[Any], order: Sequence[str]) -> Axis:
    found = dict.fromkeys(written(value) for value in values if not isinstance(value, Absent))
    names = [*(name for name in order if name in found), *(name for name in found if name not in order)]
    places = {name: 0.5 if len(names) == 1 else round(i / (len(names) - 1), 4) for i, name in enumerate(names)}
    at = [None if isinstance(value, Absent) else places[written(value)] for value in values]
    return Axis("category", at, _apart([(place, name) for name, place in places.items()]))


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Leaves ticks out whose labels would overlap, but not the last one."""
    kept: list[tuple[float, str]] = []
    for tick in ticks:
        if not kept or tick[0] - kept[-1][0] >= APART:
            kept.append(tick)
        elif tick is ticks[-1]:
            kept[-1] = tick
    return kept


def distinct(values: Sequence[Any]) -> list[str]:
    """Returns the values that occur as words: numbers ascending, and others in the order in which they come.

    Example:
      >>> distinct([0.1, 0.001, 0.1]), distinct(["b", "a", None])
      (['0.001', '0.1'], ['b', 'a', 'null'])
    """
    if all(number(value) is not None for value in values):
        return list(dict.fromkeys(written(value) for value in sorted(values)))
    return list(dict.fromkeys(written(value) for value in values))


def level(means: Sequence[float], better: Literal["min", "max"]) -> Level | None:
    """Returns the scale of the metric's colours; None where no setting has a value.

    A few settings that are far worse than the others would give all others one colour, so that the scale ends before.

    Args:
      means: of the settings; NaN where one has none.
      better: whether smaller or larger is better.

    Example:
      >>> level([0.5, 0.9, 0.7], "max")
      Level(best=0.9, worst=0.5, clipped=False, log=False)
      >>> level([0.5, 0.625, 1e6], "min")
      Level(best=0.5, worst=1.0, clipped=True, log=False)
    """
    known = sorted((mean for mean in means if math.isfinite(mean)), reverse=better == "max")
    if not known:
        return None
    best, worst, middle = known[0], known[-1], statistics.median(known)
    end = best + FAR * (middle - best)
    clipped = middle != best and math.isfinite(end) and abs(worst - best) > abs(end - best)
    worst = end if clipped else worst
    low, high = sorted((best, worst))
    return Level(best, worst, clipped, low > 0 and high / low > 100)
