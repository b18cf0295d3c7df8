"""Follows learning rate and batch size: when to re-arm, and whether the rate left what the run was stable at. Pure."""

from __future__ import annotations

import math

from jaxprop.health.watch.reading import Reading, Trail

SETTLED_AFTER = 20  # steps without a rise after which a rate counts as one that training has been stable at
RISE = 1.0005  # smallest rise in one step that is one, in float32
JUMP = 1.5  # rise in one step that is a restart
RESTART = 1.6  # a restart comes back to where the rate has been, roughly
STEADY = 5  # steps that a new batch size must last: the last batch of an epoch is often smaller


def follow(r: Reading, trail: Trail) -> bool:
    """Takes a record's learning rate and batch size in, and returns whether the watch is to be re-armed.

    Re-armed when a warmup ends, when the rate jumps back up to where it has been (a restart), and when the batch size
    has changed for good. A rate above all that was stable before is no restart but a reason to alarm.

    Args:
      r: the record.
      trail: the evidence, changed in place.

    Returns:
      Whether histories should adapt quickly for a while.
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
    # Twice the batch bears up to twice the rate (linear scaling), so that is no rate out of proportion.
    trail.settled *= max(1.0, r.weight / trail.weight)
    trail.weight, trail.weight_off = r.weight, 0
    return True


def rate_rise(trail: Trail, step: int) -> float:
    """How far the rate is above all that training was stable at; 1 where it is not, or no rate is known.

    During a warmup nothing is settled, and the rise is that of a warmup.
    """
    if trail.settled <= 0 or trail.warming or not math.isfinite(trail.rate):
        return 1.0
    return max(trail.rate / trail.settled, 1.0) if step - trail.risen_at < 10 * SETTLED_AFTER else 1.0
