"""The learning rate of a step, and what responses leave of it. Pure; runs inside the step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprop.core.precision import promoting
from jaxprop.health.signals.settings import Signals
from jaxprop.types import HealthState, PyTree, Schedule, Sums, TrainState


@dataclasses.dataclass(frozen=True)
class Rates:
    """The learning rate of a run as a function of the count of updates, and those of groups of parameters beside it.

    Args:
      base: count of updates -> rate.
      groups: names in a record, which begin with `lr/`, and rates.

    Example:
      >>> rates = Rates(lambda count: 0.5 * count, (("lr/head/.*", lambda count: 0.25 * count),))
      >>> rates(2), [name for name, _ in rates.groups]
      (1.0, ['lr/head/.*'])
    """

    base: Schedule
    groups: tuple[tuple[str, Schedule], ...] = ()

    def __call__(self, count: Any) -> Any:
        """The rate of the run."""
        return self.base(count)


def group_rates(schedule: Schedule | None, state: TrainState, scale: jax.Array | None) -> Sums:
    """The rates of groups in a step as numbers of its record, those that responses leave.

    Args:
      schedule: of the step; only `Rates` tell any.
      state: before the step.
      scale: from `lr_scale`.

    Example:
      >>> from jaxprop.health.signals.guard import init_health
      >>> rates = Rates(lambda count: 0.5 * count, (("lr/head/.*", lambda count: 0.25 * count),))
      >>> state = TrainState(3, {}, {}, (), None, (), init_health(), ())
      >>> {name: float(rate) for name, (rate, _) in group_rates(rates, state, None).items()}
      {'lr/head/.*': 0.75}
    """
    if not isinstance(schedule, Rates):
        return {}
    found = {name: learning_rate(rate, state, ()) for name, rate in schedule.groups}
    factor = jnp.float32(1) if scale is None else scale
    return {name: (rate * factor, jnp.float32(1)) for name, rate in found.items() if rate is not None}


def learning_rate(schedule: Schedule | None, state: TrainState, opt_state: PyTree) -> jax.Array | None:
    """The rate that the schedule asks for in a step, or that optax keeps; None where neither tells.

    The count of updates is the optimizer's own, which `optax.MultiSteps` and `optax.apply_if_finite` hold back, or the
    steps less those skipped.

    Args:
      schedule: count of updates -> rate, or None.
      state: before the step.
      opt_state: after it.

    Returns:
      A scalar, before responses.

    Example:
      >>> from jaxprop.health.signals.guard import init_health
      >>> state = TrainState(3, {}, {}, (), None, (), init_health(), ())
      >>> float(learning_rate(lambda count: 0.5 * count, state, ()))
      1.5
    """
    if schedule is not None:
        counts = [x.count for x in _nodes(state.opt_state, optax.ScaleByScheduleState)]
        count = counts[0] if counts else state.step - state.health.skips
        return jnp.asarray(promoting(schedule)(count), jnp.float32)
    injected = optax.tree_utils.tree_get_all_with_path(
        opt_state, "learning_rate", filtering=lambda _, value: isinstance(value, jax.Array)
    )
    return injected[0][1] if len(injected) == 1 else None


def updates(state: TrainState, opt_state: PyTree) -> tuple[jax.Array, jax.Array]:
    """The updates of the parameters before a step, and whether the step, where it is taken, is one: boolean scalar.

    `optax.MultiSteps` updates the parameters in every k-th step only.

    Args:
      state: before the step.
      opt_state: after it.

    Example:
      >>> from jaxprop.health.signals.guard import init_health
      >>> count, updated = updates(TrainState(3, {}, {}, (), None, (), init_health(), ()), ())
      >>> int(count), bool(updated)
      (3, True)
    """
    before, after = (_nodes(tree, optax.MultiStepsState) for tree in (state.opt_state, opt_state))
    if len(before) != 1:
        return state.step - state.health.skips, jnp.bool_(True)
    return before[0].gradient_step, after[0].gradient_step != before[0].gradient_step


def _nodes(tree: PyTree, kind: type) -> list[Any]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def follow_rate(settings: Signals | None, rate: jax.Array | None, health: HealthState) -> HealthState:
    """Returns `health` with the highest rate that the schedule has asked for since a limit was set.

    Args:
      settings: of the step; without `respond` nothing is followed.
      rate: from `learning_rate`.
      health: the state's.

    Example:
      >>> from jaxprop.health.signals.guard import init_health
      >>> follow_rate(Signals(respond=True), jnp.float32(1.5), init_health()).rate_peak.item()
      1.5
    """
    if settings is None or not settings.respond or rate is None:
        return health
    return health._replace(rate_peak=jnp.fmax(health.rate_peak, rate.astype(jnp.float32)))


def lr_scale(settings: Signals | None, health: HealthState) -> jax.Array | None:
    """Returns what responses leave of the schedule's rate, as a share of it; None where no response may change it.

        min(lr_scale, rate_limit / rate_peak)

    The share that holds the peak at the limit, so that a schedule which comes down afterwards brings the rate down.

    Args:
      settings: of the step.
      health: the state's.

    Example:
      >>> from jaxprop.health.signals.guard import init_health
      >>> health = init_health()._replace(rate_limit=jnp.float32(0.5), rate_peak=jnp.float32(2))
      >>> lr_scale(Signals(respond=True), health).item(), lr_scale(Signals(), health)
      (0.25, None)
    """
    if settings is None or not settings.respond:
        return None
    # Times what is at most 1, since a limit of the largest float32 over a small peak would be infinite.
    peak = health.rate_peak
    return jnp.minimum(health.lr_scale, jnp.where(peak > health.rate_limit, health.rate_limit / peak, jnp.float32(1)))
