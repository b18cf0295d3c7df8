"""Whether a challenger takes the champion's place: better on the new data, and no worse on the old. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxprop.tools.retrain.bootstrap import Interval

SHARE = 0.01  # default tolerance: of figures that are shares, and of a champion's figure where it has no bound
FEWEST = 10  # new test examples; the interval of fewer is too narrow, and that of one has no width
POINTS = {"bleu": 1.0, "chrf": 1.0}  # of figures from 0 to 100


class Compared(NamedTuple):
    """The headline figure of both models on one test set.

    Args:
      champion, challenger: the figure.
      interval: of the difference, positive where the challenger is better.
      examples: number of examples.
    """

    champion: float
    challenger: float
    interval: Interval
    examples: int


class Decision(NamedTuple):
    """Whether the challenger is promoted, and the reason, one sentence."""

    promote: bool
    reason: str


def usual_tolerance(metric: str, better: str, champion: float) -> float:
    """Returns by how much a challenger may be worse on the old data, in the metric's own unit.

    Args:
      metric: its name.
      better: whether smaller (min) or larger (max) values are better.
      champion: its value of the champion.

    Returns:
      1 point of BLEU and chrF; 0.01 of shares, such as accuracy, mAP and word error rate; 1 % of the champion's value
      of what has no upper bound, such as a loss.

    Example:
      >>> [usual_tolerance(*one) for one in (("accuracy", "max", 0.9), ("bleu", "max", 90.0), ("loss", "min", 2.0))]
      [0.01, 1.0, 0.02]
    """
    if metric in POINTS:
        return POINTS[metric]
    unbounded = better == "min" and metric not in ("wer", "cer", "infeasible")
    return SHARE * abs(champion) if unbounded and math.isfinite(champion) else SHARE


def decide(metric: str, new: Compared, old: Compared, tolerance: float) -> Decision:
    """Decides by the bounds of both intervals.

    A challenger is promoted if the lower bound of its advantage is above 0 on the new test set, and above minus the
    tolerance on the old one. Fewer than 10 new test examples promote none.

    Args:
      metric: name of the figure.
      new, old: what both models reach on each test set.
      tolerance: by how much it may be worse on the old one, in the figure's unit.

    Example:
      >>> gains = Compared(0.7, 0.9, Interval(0.2, 0.1, 0.3, 2000), 50)
      >>> loses = Compared(0.9, 0.7, Interval(-0.2, -0.3, -0.1, 2000), 50)
      >>> decide("accuracy", gains, loses, 0.01).promote, decide("accuracy", gains, gains, 0.01).promote
      (False, True)
    """
    better, kept = new.interval.low > 0, old.interval.low > -tolerance
    on_new, on_old = _told(metric, new), _told(metric, old)
    if new.examples < FEWEST:
        return Decision(
            False,
            f"{new.examples} new test examples are too few to tell which is better, {on_new}; give {FEWEST} or more",
        )
    if better and kept:
        worse = f"worse on the old by less than the {tolerance:.3g} tolerated"
        what = worse if old.interval.difference < 0 else "no worse on the old"
        return Decision(True, f"better on the new data, {on_new}, and {what}, {on_old}")
    if not better and new.interval.high < 0:
        return Decision(False, f"worse on the new data, {on_new}")
    if not better:
        return Decision(False, f"not shown to be better on the new data, {on_new}")
    what = "worse" if old.interval.high < -tolerance else "not shown to be within the tolerance"
    return Decision(
        False,
        f"better on the new data, {on_new}, but {what} on the old, {on_old}, where {tolerance:.3g} is tolerated "
        "(a larger --replay forgets less, more old test examples narrow the interval, and --tolerance allows more)",
    )


def _told(metric: str, one: Compared) -> str:
    low, high = one.interval.low, one.interval.high
    return (
        f"{metric} {one.champion:.4g} -> {one.challenger:.4g} ({one.interval.level:.0%} interval of the gain "
        f"{low:+.3g} to {high:+.3g})"
    )
