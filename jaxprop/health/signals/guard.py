"""The guard inside the step: a gradient norm far above its own history is clipped or its step skipped. Pure."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprop.health.signals.settings import Signals
from jaxprop.types import HealthState, PyTree

DECAY = 0.98
ARMED_AFTER = 100  # steps whose norms make a history
LIMIT = 6.0  # standard deviations of the log norm that are no longer noise
WINSOR = 3.0  # what enters the history, at most
SMALLEST_SCALE = 0.02


class History(NamedTuple):
    """What the guard remembers of log gradient norms: moving mean and variance, and how many it has seen."""

    mean: jax.Array
    variance: jax.Array
    seen: jax.Array


class Decision(NamedTuple):
    """What is done with one gradient.

    Args:
      factor: to multiply it by; 0 where the step is skipped for a spike, 1 where it is not finite.
      take: whether to take the step, boolean.
      history: for the next step.
    """

    factor: jax.Array
    take: jax.Array
    history: History


def init_history() -> History:
    """Returns the history before the first step.

    Example:
      >>> init_history().seen.item()
      0
    """
    return History(jnp.float32(0), jnp.float32(0), jnp.int32(0))


def init_health(direction: PyTree = ()) -> HealthState:
    """Returns what a step with guard and responses remembers before the first one.

    Example:
      >>> init_health().lr_scale.item()
      1.0
    """
    none = jnp.finfo(jnp.float32).max
    return HealthState(
        skips=jnp.int32(0),
        lr_scale=jnp.float32(1),
        grad_limit=jnp.float32(none),
        rate_limit=jnp.float32(none),
        rate_peak=jnp.float32(0),
        spikes=init_history(),
        direction=direction,
    )


def compare(
    norm: jax.Array, finite: jax.Array, history: History, spikes: str | None, limit: jax.Array | None
) -> Decision:
    """Compares a gradient's global norm with its history and with a limit.

        z = (log norm - mean) / max(sd, 0.02),   factor = min(1, exp(mean + 6 sd) / norm, limit / norm)

    A norm without a finite logarithm never enters the history, and a spike only as 3 standard deviations: toolkits
    that let spikes in either accept the next one, or skip the next hundred good steps.

    Args:
      norm: global norm of the gradient, float32 scalar.
      finite: whether loss and gradient are finite, boolean scalar.
      history: of the steps before.
      spikes: None for no guard, `"clip"` to shrink a spike to the edge of its history, `"skip"` to skip it.
      limit: a norm to clip to besides, or None.

    Returns:
      The decision.

    Example:
      >>> steady = History(jnp.float32(0), jnp.float32(0.01), jnp.int32(200))
      >>> round(compare(jnp.float32(10), jnp.array(True), steady, "clip", None).factor.item(), 3)
      0.182
      >>> compare(jnp.float32(10), jnp.array(True), steady, "skip", None).take.item()
      False

    Reference:
      Kumar et al., ZClip: Adaptive Spike Mitigation for LLM Pre-Training, 2025. https://arxiv.org/abs/2504.02507
    """
    factor, take = jnp.float32(1), finite
    # Where a step is differentiated its history is a constant: roots and logarithms have no derivative at 0.
    history, seen = jax.lax.stop_gradient((history, norm))
    if spikes is not None:
        scale = jnp.maximum(jnp.sqrt(history.variance), SMALLEST_SCALE)
        edge = jnp.exp(history.mean + LIMIT * scale)
        spike = (history.seen >= ARMED_AFTER) & (norm > edge)
        if spikes == "clip":
            factor = jnp.where(spike, edge / norm, factor)
        else:
            factor, take = jnp.where(spike, jnp.float32(0), factor), take & ~spike
        history = _remember(jnp.log(seen), finite & (seen > 0), history, scale)
    if limit is not None:
        # A skip stays one; a limit of infinity is none.
        factor = jnp.minimum(factor, jnp.where(norm > limit, limit / norm, jnp.float32(1)))
    return Decision(jnp.where(finite, factor, jnp.float32(1)), take, history)


def decide(settings: Signals | None, norm: jax.Array, finite: jax.Array, health: HealthState) -> Decision:
    """What a step does with its gradient: `compare`, as far as its settings ask for it.

    Args:
      settings: of the step; None for no guard but that of finiteness.
      norm, finite: as in `compare`.
      health: the state's.

    Example:
      >>> bool(decide(None, jnp.float32(1), jnp.array(True), init_health()).take)
      True
    """
    if settings is None or not settings.guarded:
        return Decision(jnp.float32(1), finite, health.spikes)
    return compare(norm, finite, health.spikes, settings.spikes, health.grad_limit if settings.respond else None)


def _remember(value: jax.Array, counts: jax.Array, history: History, scale: jax.Array) -> History:
    """An exponential moving mean and variance, the plain ones of all values so far while they are few."""
    bound = WINSOR * scale
    armed = history.seen >= ARMED_AFTER
    delta = value - history.mean
    delta = jnp.where(armed, jnp.clip(delta, -bound, bound), delta)
    share = jnp.maximum(1 - DECAY, 1 / (history.seen + 1).astype(jnp.float32))
    mean = history.mean + share * delta
    variance = (1 - share) * (history.variance + share * jnp.square(delta))
    new = History(mean, variance, history.seen + 1)
    return jax.tree.map(lambda new, old: jnp.where(counts, new, old), new, history)
