"""Statistics of timings: all of them are kept, none is dropped as an outlier. Pure.

Samples come in rounds, which lie apart in time. Within a round, timings vary little; between rounds, the machine may
have changed. The interval of a figure takes in both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from scipy.special import stdtrit

Rounds = Sequence[Sequence[float]]  # seconds of one call, round by round

Z = 1.96  # of a normal distribution, for intervals of 95 %


class Estimate(NamedTuple):
    """The median of all samples, and an interval that holds the true one in 95 of 100 cases."""

    middle: float
    low: float
    high: float

    @property
    def noise(self) -> float:
        """Half the width of the interval, relative to the middle."""
        return (self.high - self.low) / (2 * self.middle) if self.middle else math.inf


def estimate(rounds: Rounds) -> Estimate:
    """Estimates the time of one call.

    The standard error is the larger of two: that of the median of all samples, from the distance of its order
    statistics, and that of the mean of the rounds' medians, from their scatter and Student's t.

    Args:
      rounds: at least one sample, in seconds.

    Returns:
      The median with its interval.

    Example:
      >>> estimate([[1.0, 1.1, 1.2], [1.1, 1.0, 1.2]]).middle
      1.1

    Reference:
      Hettmansperger and Sheather, Confidence intervals based on interpolated order statistics, 1986.
    """
    samples = sorted(value for one in rounds for value in one)
    middle = statistics.median(samples)
    medians = [statistics.median(one) for one in rounds if one]
    half = max(Z * _error_of_median(samples), _reach(len(medians)) * _error_between(medians))
    return Estimate(middle, max(middle - half, 0.0), middle + half)


def drift(rounds: Rounds) -> float:
    """Relative distance between the medians of even and odd rounds: an A/A pair, which measured the same program twice.

    Args:
      rounds: at least two, or the halves of the only one are compared.

    Example:
      >>> round(drift([[1.0], [1.1], [1.0], [1.1]]), 3)
      0.1
    """
    if len(rounds) < 2:
        rounds = [rounds[0][::2], rounds[0][1::2] or rounds[0]]
    first, second = ([value for one in rounds[i::2] for value in one] for i in (0, 1))
    before, after = statistics.median(first), statistics.median(second)
    return abs(after / before - 1) if before else 0.0


@cache
def _reach(rounds: int) -> float:
    """Standard errors on either side that 95 % lie within, where the error itself comes from so few rounds."""
    return float(stdtrit(rounds - 1, 0.975)) if rounds > 1 else 0.0


def _error_of_median(samples: Sequence[float]) -> float:
    """Standard error of the median, from the order statistics half a standard deviation of a count away."""
    n = len(samples)
    if n < 2:
        return 0.0
    reach = math.sqrt(n) / 2
    below, above = math.floor((n - 1) / 2 - reach), math.ceil((n - 1) / 2 + reach)
    return (samples[min(above, n - 1)] - samples[max(below, 0)]) / 2


def _error_between(medians: Sequence[float]) -> float:
    if len(medians) < 2:
        return 0.0
    return statistics.stdev(medians) / math.sqrt(len(medians))
