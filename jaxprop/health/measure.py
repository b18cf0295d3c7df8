"""From one step's gradients and update to its record. Pure; runs inside the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprop import taps
from jaxprop.health import curvature, record, signals
from jaxprop.health.signals import Groups, Signals
from jaxprop.precision import promoting
from jaxprop.taps import Tap
from jaxprop.types import Layout, Measurements, PyTree, Schedule, Sums, TrainState


class Plan(NamedTuple):
    """What one variant of the step measures, known while tracing.

    Args:
      settings, detail: how much.
      groups: the layers.
      tapped: the taps it found.
      clip: the clipping that the optimizer begins with: the largest global norm it leaves, a transformation, or None.
    """

    settings: Signals
    detail: str
    groups: Groups
    tapped: tuple[Tap, ...] = ()
    clip: float | optax.GradientTransformation | None = None

    @property
    def clipping(self) -> optax.GradientTransformation | None:
        """What has to clip the gradient once more for its norm to be known."""
        return None if self.clip is None or isinstance(self.clip, int | float) else self.clip

    @property
    def bound(self) -> float:
        """The largest global norm that reaches the optimizer, as far as it is known."""
        return float(self.clip) if isinstance(self.clip, int | float) else math.inf

    @property
    def rows(self) -> bool:
        """Whether it measures every layer."""
        return self.detail != "lean"

    @property
    def rare(self) -> bool:
        """Whether it measures everything."""
        return self.detail in ("full", "flush")


class Facts(NamedTuple):
    """What a step hands over to be measured.

    Args:
      scalars: by the names of `SCALARS`, as far as they are known.
      sums: metrics of the batch.
      grads: gradient before clipping and after unscaling.
      sinks: what the taps collected.
      micro_square: mean squared gradient norm of the microbatches.
      params: after the step.
      updates: what the optimizer proposed.
      inside: from `measure_update`.
      taken: whether the step was taken.
      examples, accumulate: size of the batch and number of its microbatches.
      scale: loss scale, or None.
      gradient: `(params, precision) -> gradient` of this step's loss, at a precision by name or None for the step's.
      before: parameters before the step.
    """

    scalars: dict[str, Any]
    sums: Sums
    grads: PyTree
    sinks: PyTree
    micro_square: jax.Array
    params: PyTree
    updates: PyTree
    inside: jax.Array
    taken: jax.Array
    examples: int
    accumulate: int
    scale: jax.Array | None
    gradient: Callable[..., PyTree]
    before: PyTree


def measure_update(
    plan: Plan,
    grads: PyTree,
    updates: PyTree,
    params: PyTree,
    opt_states: tuple[PyTree, PyTree],
) -> jax.Array:
    """Measures what can be only while the optimizer's state of before and after are both there.

    Args:
      plan: what to measure.
      grads, updates: what the optimizer was given and what it made of it.
      params: before the update.
      opt_states: before and after it.

    Returns:
      One float32 vector, `[L]` or `[3 L]`, or empty where the plan has no rows: `Facts.inside`. In front of it the
      norm of the clipped gradient, where `clip` is a transformation.
    """
    if not plan.rows:
        return jnp.zeros(0, jnp.float32)
    missing = jnp.full(len(plan.groups.names), jnp.nan, jnp.float32)
    constants = plan.settings.b2 or 0.0, plan.settings.eps
    adam = signals.moments(*opt_states, params) if plan.settings.b2 is not None else None
    found = [missing if adam is None else signals.adam_lag(plan.groups, adam, *constants)]
    if plan.rare:
        found.append(missing if adam is None else signals.tiny_second_moment(plan.groups, adam, *constants))
        found.append(signals.swallowed_rows(plan.groups, params, updates))
    if plan.clipping is not None:
        clipped, _ = plan.clipping.update(grads, plan.clipping.init(params), params)
        found.insert(0, signals.norm(clipped)[None])
    return jnp.concatenate(found)


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


def noise(batch_square: jax.Array, micro_square: jax.Array, examples: int, microbatches: int) -> list[jax.Array]:
    """Unbiased estimates of the gradient's noise and signal, from microbatches of one step.

        E[S] = (m - |g|^2) / (1/b - 1/B),   E[G^2] = (B |g|^2 - b m) / (B - b)

    where m is the mean of `|g_k|^2` over microbatches of b examples and g the gradient of all B. The noise scale is
    `E[S] / E[G^2]` examples; each is noisy, so average them over steps before dividing.

    Args:
      batch_square: `|g|^2`.
      micro_square: m.
      examples: B.
      microbatches: B / b; with a single one there is no estimate, and both are NaN.

    Returns:
      E[S] and E[G^2], float32 scalars.

    Example:
      >>> [x.item() for x in noise(jnp.float32(2), jnp.float32(3), 8, 2)]
      [8.0, 1.0]

    Reference:
      McCandlish et al., An Empirical Model of Large-Batch Training, appendix A, https://arxiv.org/abs/1812.06162
    """
    if microbatches == 1:
        return [jnp.float32(jnp.nan)] * 2
    small = examples / microbatches
    trace = (micro_square - batch_square) / (1 / small - 1 / examples)
    signal = (examples * batch_square - small * micro_square) / (examples - small)
    return [trace, signal]


def measure(plan: Plan, facts: Facts, health: PyTree) -> tuple[PyTree, Measurements]:
    """Packs what the step reports into one float32 array, laid out as `Measurements` reads it.

    Args:
      plan: what to measure.
      facts: what the step has computed.
      health: the state's `health`, whose direction of the power iteration moves on where curvature is measured.

    Returns:
      The new `health` and the record.
    """
    if not plan.rows:
        return health, record.pack(facts.sums, facts.scalars)
    scalars, rows = _rows(plan, facts)
    layout = Layout((), plan.groups.names, plan.groups.sizes, plan.groups.fans)
    if not plan.rare:
        return health, record.pack(facts.sums, scalars, rows, layout=layout)
    layout = layout._replace(taps=tuple((label, tap.kind) for tap in plan.tapped for label in tap.labels))
    health, rare = _rare(plan, facts, health)
    return health, record.pack(facts.sums, scalars, rows, rare, taps.columns(plan.tapped, facts.sinks), layout)


def _rows(plan: Plan, facts: Facts) -> tuple[dict[str, Any], tuple[jax.Array, ...]]:
    """Scalars and columns of a record that looks at every layer."""
    counts = signals.gradient_counts(plan.groups, facts.grads)
    squares = signals.squares(plan.groups, facts.grads, facts.params, facts.updates)
    squares = jnp.where(jnp.asarray([[True], [True], [False]]) | facts.taken, squares, jnp.float32(0))
    first, known = int(plan.clipping is not None), facts.scalars
    lag = facts.inside[first : first + len(plan.groups.names)]
    given = facts.inside[0] if first else jnp.minimum(known["grad_norm"] * known["guard"], plan.bound)
    _, param, update = jnp.sqrt(jnp.sum(squares, 1))
    totals = {"param_norm": param, "update_norm": update, "clipped_norm": jnp.where(facts.taken, given, 0)}
    return facts.scalars | record.outputs(facts.sums) | totals, (jnp.sqrt(squares), counts, lag)


def _rare(plan: Plan, facts: Facts, health: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Signals of a full record, those that take work of their own among them."""
    square = jnp.square(signals.norm(facts.grads))
    trace, signal = noise(square, facts.micro_square, facts.examples, facts.accumulate)
    _, tiny, swallowed = jnp.split(facts.inside[int(plan.clipping is not None) :], 3)
    rare = {"noise_trace": trace, "noise_signal": signal, "tiny_second_moment": tiny, "swallowed": swallowed}
    if plan.settings.curvature:
        found = curvature.measure(facts.gradient, facts.before, facts.grads, health["direction"])
        rare |= {"curvature": found[0], "sharpness": found[1]}
        health = {**health, "direction": found[2]}
    if plan.detail == "flush":
        scale = jnp.float32(1) if facts.scale is None else facts.scale
        # A gradient has the dtype of its parameters, and float16 would hide what it flushes.
        wide = jax.tree.map(lambda w: w.astype(jnp.float32), facts.before)
        rare["flushed"] = signals.flushed_rows(plan.groups, facts.gradient(wide, "float32"), scale)
    return health, rare
