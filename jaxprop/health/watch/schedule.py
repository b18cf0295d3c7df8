"""Follows learning rate and batch size: when to re-arm, and whether the rate exceeds the stable ones. Pure."""

from __future__ import annotations

import math

from jaxprop.health.watch.reading import Reading, Trail

SETTLED_AFTER = 20  # steps without a rise after which training counts as stable at a rate
RISE = 1.0005  # factor in one step above which the rate rises; smaller ones may be float32 rounding
JUMP = 1.5  # factor in one step that is a jump, and may be a restart
RESTART = 1.6  # largest factor over the stable rate at which a jump is a restart
STEADY = 5  # steps that a new batch size must last, because the last batch of an epoch is often smaller


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
