"""The learning rate of a step, and what responses leave of it. Pure; runs inside the step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprop.core.precision import promoting
from jaxprop.health.signals.settings import Signals
from jaxprop.types import PyTree, Schedule, TrainState


def learning_rate(schedule: Schedule | None, state: TrainState, opt_state: PyTree, factor: Any) -> Any:
    """The rate a step uses: the schedule at the count of updates so far, or the one optax keeps, else NaN.

    Skipped steps do not advance the optimizer's count, so they are taken off.

    Args:
      schedule: count of updates -> rate, or None.
      state: before the step.
      opt_state: after it.
      factor: what a response has set the rate to, as a share of the schedule's, or None.

    Returns:
      A scalar.
    """
    factor = jnp.float32(1) if factor is None else factor
    if schedule is not None:
        return promoting(schedule)(state.step - state.health["skips"]) * factor
    injected = optax.tree_utils.tree_get_all_with_path(
        opt_state, "learning_rate", filtering=lambda _, value: isinstance(value, jax.Array)
    )
    return injected[0][1] * factor if len(injected) == 1 else jnp.nan


def follow_rate(
    settings: Signals | None, schedule: Schedule | None, state: TrainState, opt_state: PyTree
) -> dict[str, PyTree]:
    """Returns the state's `health` with the highest rate that the schedule has asked for since a limit was set.

    Args:
      settings: of the step; without `respond` nothing is followed.
      schedule: count of updates -> rate, or None.
      state, opt_state: before the step, and the optimizer's after it.

    Example:
      >>> state = TrainState(3, {}, {}, (), None, (), {"rate_peak": jnp.float32(0), "skips": 0}, ())
      >>> follow_rate(Signals(respond=True), lambda count: 0.5 * count, state, ())["rate_peak"].item()
      1.5
    """
    if settings is None or not settings.respond:
        return state.health
    rate = learning_rate(schedule, state, opt_state, None)
    return {**state.health, "rate_peak": jnp.fmax(state.health["rate_peak"], rate)}


def lr_scale(settings: Signals | None, health: dict[str, PyTree]) -> jax.Array | None:
    """Returns what responses leave of the schedule's rate, as a share of it; None where no response may change it.

        min(lr_scale, rate_limit / rate_peak)

    The share that holds the peak at the limit, so that a schedule which comes down afterwards brings the rate down.

    Args:
      settings: of the step.
      health: the state's.

    Example:
      >>> health = {"lr_scale": 1.0, "rate_limit": 0.5, "rate_peak": 2.0}
      >>> lr_scale(Signals(respond=True), health).item(), lr_scale(Signals(), health)
      (0.25, None)
    """
    if settings is None or not settings.respond:
        return None
    return jnp.minimum(health["lr_scale"], health["rate_limit"] / health["rate_peak"])
