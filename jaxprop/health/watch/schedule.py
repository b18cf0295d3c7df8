"""Follows learning rate and batch size: when to re-arm, and whether the rate exceeds the stable ones. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections import deque

import numpy as np

from jaxprop.health.watch.history import median
from jaxprop.health.watch.reading import Reading, Trail

SETTLED_AFTER = 20  # steps without a rise after which training counts as stable at a rate
RISE = 1.0005  # factor in one step above which the rate rises; smaller ones may be float32 rounding
JUMP = 1.5  # factor in one step that is a jump, and may be a restart
RESTART = 1.6  # largest factor over the stable rate at which a jump is a restart
STEADY = 5  # steps that a new batch size must last, because the last batch of an epoch is often smaller
MEMORY = 0.9  # of an earlier gradient in the next update, as in the momentum of SGD and of Adam
PACES = 20  # full records that updates are compared with
FEWEST_PACES = 5  # of them before a comparison means anything
GROWN = 2.5  # factor by which updates have grown, for no reason in the gradients, above which the rate has risen


def follow(r: Reading, trail: Trail) -> bool:
    """Takes in a record's learning rate and batch size, and returns whether the watch must be re-armed.

    That is the case when a warmup ends, when the rate jumps back to a previous value (a restart), and when the batch
    size has changed for several steps. A rate above all stable ones is not a restart but a reason for an alert.

    Args:
      r: the record.
      trail: the evidence, which is changed in place.

    Returns:
      Whether the histories should adapt quickly for a while.
    """
    return _rate(r, trail) | _weight(r, trail)


def _rate(r: Reading, trail: Trail) -> bool:
    rate = r.rate
    if not math.isfinite(rate):
        return False
    if not math.isfinite(trail.rate):
        trail.first = trail.rate = trail.peak = rate
        trail.risen_at = r.step
        return False
    rearm = False
    before, trail.rate = trail.rate, rate
    if rate > before * RISE:
        trail.risen_at, trail.level = r.step, 0
        if before > 0 and rate > JUMP * before and trail.settled > 0:
            trail.jumped_at = r.step
            rearm = rate <= RESTART * trail.settled
        trail.warming = trail.warming or (trail.settled == 0 and r.step - trail.start <= SETTLED_AFTER)
        return rearm
    trail.level += 1
    if trail.level == 1:
        trail.peak = before
    if trail.warming and (rate < before or trail.level >= 2):
        trail.warming, rearm = False, True
        trail.settled = max(trail.settled, before)
    if trail.level >= SETTLED_AFTER:
        trail.settled = max(trail.settled, trail.peak)
    return rearm


def _weight(r: Reading, trail: Trail) -> bool:
    if not r.weight > 0:
        return False
    if not math.isfinite(trail.weight):
        trail.weight = r.weight
    if 1 / JUMP < r.weight / trail.weight < JUMP:
        trail.weight_off = 0
        return False
    trail.weight_off += 1
    if trail.weight_off < STEADY:
        return False
    # By the linear scaling rule, twice the batch size allows up to twice the learning rate.
    trail.settled *= max(1.0, r.weight / trail.weight)
    trail.weight, trail.weight_off = r.weight, 0
    return True


def rate_rise(trail: Trail, step: int) -> float:
    """Returns the rate over the highest stable one; 1 if it is below that, is unknown, or is in a warmup."""
    if trail.settled <= 0 or trail.warming or not math.isfinite(trail.rate):
        return 1.0
    return max(trail.rate / trail.settled, 1.0) if step - trail.risen_at < 10 * SETTLED_AFTER else 1.0


def _deque() -> deque[float]:
    return deque(maxlen=PACES)


@dataclasses.dataclass
class Pace:
    """Stands in for a learning rate that records do not hold: the size of updates, and that relative to gradients.

    pace = min(u / median u, v / median v);  u = median_l ||dw_l||,  v = median_l ||dw_l|| / max_k 0.9^k ||g_l(t - k)||

    A higher rate raises both. Other data raise the gradients: with SGD the updates as well, but not the ratio of the
    two, and with Adam the updates by less than the gradients. Medians over the layers, because a fault in one layer
    has nothing to do with the rate.

    Args:
      peak: `[L]`, logarithm of the largest gradient, of which earlier ones count less; None before the first record.
      at: its step.
      updates, ratios: logarithms of u and v in the latest full records.
    """

    peak: np.ndarray | None = None
    at: int = 0
    updates: deque[float] = dataclasses.field(default_factory=_deque)
    ratios: deque[float] = dataclasses.field(default_factory=_deque)

    def follow(self, r: Reading, trail: Trail) -> None:
        """Takes in a record, and notes `pace` in a full one, and `rate_grown` if the rate must have risen."""
        if not r.fed or r.rows is None:
            return
        faded = -math.inf if self.peak is None else self.peak + (r.step - self.at) * math.log(MEMORY)
        self.peak, self.at = np.maximum(r.rows.log_grad, faded), r.step
        moved = (r.rows.update_norm > 0) & np.isfinite(self.peak) & np.isfinite(r.rows.update_norm)
        if not moved.any() or r.step == trail.start:  # Adam's first update is as large as the rate is
            return
        logs = np.log(r.rows.update_norm[moved])
        update, ratio = median(logs), median(logs - self.peak[moved])
        if len(self.updates) >= FEWEST_PACES:
            grown = min(update - median(np.asarray(self.updates)), ratio - median(np.asarray(self.ratios)))
            pace = math.exp(min(grown, 50.0))
            trail.note(r.step, pace=pace)
            if pace > GROWN:
                trail.note(r.step, rate_grown=pace)
        self.updates.append(update)
        self.ratios.append(ratio)
