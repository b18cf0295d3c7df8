"""What is remembered of good steps: gradient norms, learning rates and losses. Pure."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxprop.core.measurements import Measurements
from jaxprop.health.respond.levers import RISEN

LEVEL = 200  # steps before the first sign whose median loss is the usual one
FIRST = 20  # losses that are the usual ones where a fault was there from the start
RECOVERED = 0.1  # share of the usual loss, of 0.2 at least, above it at which the loss has recovered
REMEMBERED = 512  # records whose gradient norm and rate are kept


class Past(NamedTuple):
    """What is remembered of one good step."""

    step: int
    grad_norm: float
    rate: float
    loss: float


class History:
    """The newest good steps, asked for what was usual before a fault's first sign.

    Example:
      >>> history = History([Past(1, 1.0, 0.1, 2.0), Past(2, 1.5, 0.1, 2.2), Past(3, 9.0, 0.4, 5.0)])
      >>> history.norms(before=3), history.rates(since=3), history.is_broken(4.0, since=3)
      ([1.0, 1.5], (0.1, 0.4), True)
    """

    def __init__(self, steps: Iterable[Past] = ()):
        self._steps = deque(steps, REMEMBERED)

    def add(self, step: int, m: Measurements) -> None:
        """Remembers a good step."""
        self._steps.append(Past(step, float(m.grad_norm), float(m.learning_rate), float(m.loss)))

    def forget(self, after: int) -> None:
        """Drops the steps after one."""
        self._steps = deque((past for past in self._steps if past.step <= after), REMEMBERED)

    def norms(self, before: int) -> list[float]:
        """Gradient norms of the steps before one."""
        return [past.grad_norm for past in self._steps if past.step < before]

    def rates(self, since: int) -> tuple[float, float]:
        """The learning rate before a fault's first sign and the present one, NaN where unknown."""
        before = [past.rate for past in self._steps if past.step < since]
        return before[-1] if before else math.nan, self._steps[-1].rate if self._steps else math.nan

    def has_undone_a_rise(self, since: int) -> bool:
        """Whether the rate had risen at a fault's first sign, and is back at what it was before."""
        before, now = self.rates(since)
        rose = any(past.rate * RISEN > before for past in self._steps if past.step >= since)
        return rose and now * RISEN <= before

    def is_broken(self, loss: float, since: int) -> bool:
        """Whether a loss is far above what was usual before a fault's first sign, or is NaN."""
        losses = [past.loss for past in self._steps if past.step < since][-LEVEL:]
        usual = statistics.median(losses or [math.inf])
        return not loss <= max(1.5 * usual, usual + 0.5)

    def has_recovered(self, since: int, steps: int) -> bool:
        """Whether the mean loss of the last steps is back at what was usual before a fault's first sign.

        Where that came first, at the first losses that are known. A network without a gradient has not recovered: it is
        dead, whatever its loss.
        """
        recent = list(self._steps)[-steps:]
        before = [past.loss for past in self._steps if past.step < since][-LEVEL:]
        known = before or [past.loss for past in list(self._steps)[:FIRST]]
        if len(recent) < steps or not known or all(past.grad_norm == 0 for past in recent):
            return False
        usual = statistics.median(known)
        return statistics.fmean(past.loss for past in recent) <= usual + RECOVERED * max(abs(usual), 0.2)

    def state(self) -> list[list[Any]]:
        """Returns the steps as JSON values."""
        return [[past.step, *(x if math.isfinite(x) else None for x in past[1:])] for past in self._steps]

    def restore(self, state: Iterable[list[Any]]) -> None:
        """Goes on from what `state` returned."""
        steps = (Past(step, *(math.nan if x is None else x for x in values)) for step, *values in state)
        self._steps = deque(steps, REMEMBERED)
