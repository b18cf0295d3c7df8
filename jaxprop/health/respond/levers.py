"""How far responses tighten a run, learning rate and gradient limit, and how its state is told. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.precision import LossScale, Scaling
from jaxprop.types import TrainState

CLIP_FACTOR = 1.5  # of the healthy median gradient norm
CLIP_FLOOR = 1 / 16
SMALLEST_SCALE = 2.0**-10
DEEPEST_CUT = 1 / 64  # of the rate, at once
SCALE_FACTORS = {"raise_scale": 2.0**10, "lower_scale": 2.0**-4}  # of the loss scale, at once
RISEN = 0.9  # the rate has risen where the one before is less than this share of it


class Levers(NamedTuple):
    """How far the responses have tightened the run, as `state.health` holds it.

    Args:
      lr_scale: factor on the schedule's rate.
      grad_limit: norm that gradients are clipped to.
      rate_limit: what the schedule's highest rate from now on is scaled to, if it is above it.
    """

    lr_scale: float = 1.0
    grad_limit: float = math.inf
    rate_limit: float = math.inf


def clipped(levers: Levers, healthy: Sequence[float]) -> Levers | None:
    """Clips to a little above the healthy median norm; what is clipped already, to half of it.

    Args:
      levers: as they are.
      healthy: gradient norms from before the fault.

    Returns:
      The levers, or None where there is nothing to go by, or no further to go.

    Example:
      >>> clipped(Levers(), [2.0, 1.0, 4.0]).grad_limit
      3.0
    """
    norms = [norm for norm in healthy if math.isfinite(norm)]
    if not norms:
        return None
    median = statistics.median(norms)
    limit = _float32(min(CLIP_FACTOR * median, levers.grad_limit / 2))
    return levers._replace(grad_limit=limit) if limit > median * CLIP_FLOOR else None


def lowered(levers: Levers, before: float, now: float) -> Levers | None:
    """Holds the rate at what it was before the fault where it has risen since, else halves it.

    Less than before a rise would only make the rest of the run slow, and a factor on a rate that goes on rising would
    not hold it. Half, too, where no rate is known.

    Args:
      levers: as they are.
      before, now: learning rates in use, NaN where unknown.

    Returns:
      The levers, or None where the rate cannot go lower.

    Example:
      >>> lowered(Levers(), 0.5, 0.5), lowered(Levers(), 0.5, 4.0)
      (Levers(lr_scale=0.5, grad_limit=inf, rate_limit=inf), Levers(lr_scale=1.0, grad_limit=inf, rate_limit=0.5))
    """
    if before < RISEN * now:
        # Early in a warmup the rate is next to nothing.
        limit = _float32(max(before, DEEPEST_CUT * now))
        return levers._replace(rate_limit=limit) if limit < levers.rate_limit else None
    scale = _float32(max(levers.lr_scale / 2, SMALLEST_SCALE))
    return levers._replace(lr_scale=scale) if scale < levers.lr_scale else None


def released(levers: Levers) -> Levers | None:
    """Gives back what was taken off the rate without its having risen; None where that is nothing.

    Example:
      >>> released(Levers(0.125, 3.0, 0.5)), released(Levers(1.0, 3.0, 0.5))
      (Levers(lr_scale=1.0, grad_limit=3.0, rate_limit=0.5), None)
    """
    return levers._replace(lr_scale=1.0) if levers.lr_scale < 1 else None


def change(name: str, old: Levers, new: Levers) -> tuple[float, str]:
    """Returns the value that an action has set, and what that does, for a person.

    Example:
      >>> change("cut_lr", Levers(), Levers(lr_scale=0.5))
      (0.5, 'learning rate x 0.5')
    """
    if name == "clip":
        return new.grad_limit, f"gradient clipped to norm {new.grad_limit:.4g}"
    if new.rate_limit < old.rate_limit:
        return new.rate_limit, f"learning rate held at {new.rate_limit:.4g}"
    return new.lr_scale, f"learning rate x {new.lr_scale / old.lr_scale:.3g}"


def tighten(state: TrainState, levers: Levers) -> TrainState:
    """Returns the state with the levers set; its other leaves and every placement stay.

    Args:
      state: a train state whose step was made with `Signals(respond=True)`.
      levers: what to set.

    Example:
      >>> from jaxprop.health.signals.guard import init_health
      >>> state = TrainState(0, {}, {}, (), None, (), init_health(), ())
      >>> tighten(state, Levers(lr_scale=0.5)).health.lr_scale.item()
      0.5
    """

    # No limit is the largest float32 in the state, where an infinity would set off jax.debug_infs.
    values = {name: min(value, float(np.finfo(np.float32).max)) for name, value in levers._asdict().items()}
    levels = {name: _placed(value, getattr(state.health, name)) for name, value in values.items()}
    if state.health.rate_limit != values["rate_limit"]:
        levels["rate_peak"] = _placed(0.0, state.health.rate_peak)
    return state._replace(health=state.health._replace(**levels))


def scaled(state: TrainState, name: str) -> TrainState:
    """Returns the state with its loss scale raised or lowered at once, within its bounds; without one, as it is.

    Args:
      state: a train state.
      name: a key of `SCALE_FACTORS`.

    Example:
      >>> from jaxprop.core.precision import LossScale
      >>> held = LossScale(jnp.float32(64), jnp.int32(7))
      >>> scaled(TrainState(0, {}, {}, (), None, held, None, ()), "raise_scale").loss_scale.scale.item()
      65536.0
    """
    held = state.loss_scale
    if not isinstance(held, LossScale):
        return state
    bounds = Scaling()
    value = min(max(float(held.scale) * SCALE_FACTORS[name], bounds.smallest), bounds.largest)
    return state._replace(loss_scale=LossScale(_placed(value, held.scale), _placed(0, held.good_steps)))


def _placed(value: float, old: jax.Array) -> jax.Array:
    # A committed scalar among uncommitted arrays, or the reverse, would compile the step again.
    new = np.asarray(value, old.dtype)
    return jax.device_put(new, old.sharding) if old.committed else jnp.asarray(new)


def _float32(value: float) -> float:
    return float(np.float32(value))
