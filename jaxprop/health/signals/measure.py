"""From one step's gradients and update to its record. Pure; runs inside the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprop.core import layers, measurements, taps
from jaxprop.core.layers import Groups, gradient_counts, norm
from jaxprop.core.measurements import Layout, Measurements
from jaxprop.core.taps import Tap
from jaxprop.health.signals import curvature, rounding
from jaxprop.health.signals.adam import adam_lag, moments, tiny_second_moment
from jaxprop.health.signals.noise import noise
from jaxprop.health.signals.settings import Signals
from jaxprop.types import PyTree, Sums


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
    adam = moments(*opt_states, params) if plan.settings.b2 is not None else None
    found = [missing if adam is None else adam_lag(plan.groups, adam, *constants)]
    if plan.rare:
        found.append(missing if adam is None else tiny_second_moment(plan.groups, adam, *constants))
        found.append(rounding.swallowed_rows(plan.groups, params, updates))
    if plan.clipping is not None:
        clipped, _ = plan.clipping.update(grads, plan.clipping.init(params), params)
        found.insert(0, norm(clipped)[None])
    return jnp.concatenate(found)


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
        return health, measurements.pack(facts.sums, facts.scalars)
    scalars, rows = _rows(plan, facts)
    layout = Layout((), plan.groups.names, plan.groups.sizes, plan.groups.fans)
    if not plan.rare:
        return health, measurements.pack(facts.sums, scalars, rows, layout=layout)
    layout = layout._replace(taps=tuple((label, tap.kind) for tap in plan.tapped for label in tap.labels))
    health, rare = _rare(plan, facts, health)
    return health, measurements.pack(facts.sums, scalars, rows, rare, taps.columns(plan.tapped, facts.sinks), layout)


def _rows(plan: Plan, facts: Facts) -> tuple[dict[str, Any], tuple[jax.Array, ...]]:
    """Scalars and columns of a record that looks at every layer."""
    counts = gradient_counts(plan.groups, facts.grads)
    squares = layers.squares(plan.groups, facts.grads, facts.params, facts.updates)
    squares = jnp.where(jnp.asarray([[True], [True], [False]]) | facts.taken, squares, jnp.float32(0))
    first, known = int(plan.clipping is not None), facts.scalars
    lag = facts.inside[first : first + len(plan.groups.names)]
    given = facts.inside[0] if first else jnp.minimum(known["grad_norm"] * known["guard"], plan.bound)
    _, param, update = jnp.sqrt(jnp.sum(squares, 1))
    totals = {"param_norm": param, "update_norm": update, "clipped_norm": jnp.where(facts.taken, given, 0)}
    return facts.scalars | measurements.outputs(facts.sums) | totals, (jnp.sqrt(squares), counts, lag)


def _rare(plan: Plan, facts: Facts, health: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Signals of a full record, those that take work of their own among them."""
    square = jnp.square(norm(facts.grads))
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
        rare["flushed"] = rounding.flushed_rows(plan.groups, facts.gradient(wide, "float32"), scale)
    return health, rare
