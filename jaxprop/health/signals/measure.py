"""From one step's gradients and update to its record. Pure; runs inside the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprop.core import layers, taps
from jaxprop.core.examples import row_weights
from jaxprop.core.layers import Groups
from jaxprop.core.measurements import Layout
from jaxprop.core.taps import Tap
from jaxprop.health.signals import curvature
from jaxprop.health.signals.adam import adam_rows, eps_of, moments
from jaxprop.health.signals.noise import noise
from jaxprop.health.signals.rounding import flushed_rows, update_rows
from jaxprop.health.signals.settings import RARE, Signals
from jaxprop.types import PyTree


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
    def rows(self) -> bool:
        """Whether the record has rows."""
        return self.detail != "lean"

    @property
    def rare(self) -> bool:
        """Whether the record holds everything."""
        return self.detail in RARE

    @property
    def layout(self) -> Layout:
        """Names of layers and taps, for the record."""
        tapped = tuple((label, tap.kind) for tap in self.tapped for label in tap.labels)
        return Layout((), self.groups.names, self.groups.sizes, self.groups.fans, taps=tapped)


class Seen(NamedTuple):
    """What is measured of an update before it is made: `{name: [L]}`, and the norm of the clipped gradient or None."""

    layers: dict[str, jax.Array]
    clipped_norm: jax.Array | None


def measure_update(
    plan: Plan, propose: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], grads: PyTree, opt_state: PyTree,
    params: PyTree, norm: jax.Array, counted: Callable[[PyTree], PyTree],
) -> Seen:  # fmt: skip
    """Measures what an update would do, while the state before it is still there.

    Args:
      plan: what to measure.
      propose: `(grads, opt_state) -> (updates, opt_state)`.
      grads: what the optimizer is given.
      opt_state, params: before the update.
      norm: global norm of `grads`.
      counted: takes what is measured out of a tree like the parameters.

    Returns:
      Rows, and the norm that is left after clipping.
    """
    updates, after = propose(grads, opt_state)
    rows = update_rows(plan.groups, counted(params), counted(updates), counted(grads))
    adam = moments(lambda g, s: propose(g, s)[1], grads, opt_state, after, counted(params), plan.settings.b2)
    rows |= adam_rows(plan.groups, adam, eps_of(adam, counted(params), plan.settings.eps))
    clipped = None
    if isinstance(plan.clip, int | float | jax.Array):
        clipped = jnp.minimum(norm, jnp.asarray(plan.clip, norm.dtype))
    elif plan.clip is not None:
        clipped = layers.norm(plan.clip.update(grads, plan.clip.init(params), params)[0])
    return Seen(rows, clipped)


def extra_signals(
    plan: Plan,
    gradient: Callable[..., PyTree],
    params: PyTree,
    grads: PyTree,
    scale: jax.Array | None,
    direction: PyTree,
    counted: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> tuple[PyTree, dict[str, jax.Array], dict[str, jax.Array]]:
    """Signals that take a backward pass of their own: curvature, and what float16 would flush.

    Args:
      plan: what to measure.
      gradient: `(params, precision) -> gradient` of this step's loss, at a precision by name or None for the step's.
      params, grads: where, and the gradient there.
      scale: loss scale, or None.
      direction: of the power iteration.
      counted: what of a tree like `params` the layers of the plan hold: all but what the optimizer itself freezes.

    Returns:
      The next direction, scalars and rows by name.
    """
    scalars, rows = {}, {}
    if plan.settings.curvature:
        along, largest, direction = curvature.measure(gradient, params, grads, direction)
        scalars = {"curvature": along, "sharpness": largest}
    if plan.detail == "flush":
        # A gradient has the dtype of its parameters, and float16 would hide what it flushes.
        wide = jax.tree.map(lambda w: w.astype(jnp.float32), params)
        rows["flushed"] = flushed_rows(
            plan.groups, counted(gradient(wide, "float32")), jnp.float32(1) if scale is None else scale
        )
    return direction, scalars, rows


def rare_scalars(seen: Seen, norm: jax.Array, micro_square: jax.Array, batch: Any, parts: int) -> dict:
    """Scalars of a record that holds everything.

    Args:
      seen: from `measure_update`.
      norm: global norm of the gradient.
      micro_square: mean squared gradient norm of the microbatches.
      batch: of the step, whose first axis is split into `parts` microbatches where that is more than one.
      parts: number of microbatches.

    Returns:
      `{name: scalar}`.
    """
    totals = {name: jnp.sqrt(jnp.sum(jnp.square(seen.layers[name]))) for name in ("param_norm", "update_norm")}
    if seen.clipped_norm is not None:
        totals["clipped_norm"] = seen.clipped_norm
    if parts > 1:
        examples: Any = jax.tree.leaves(batch)[0].shape[0]
        filled: Any = parts
        if (weight := row_weights(batch)) is not None and weight.shape == (examples,):  # padding has no noise
            counts = weight != 0
            examples = jnp.sum(counts, dtype=jnp.float32)
            filled = jnp.sum(counts.reshape(-1, parts).any(0), dtype=jnp.float32)
        trace, signal = noise(jnp.square(norm).astype(micro_square.dtype), micro_square, examples, filled)
        totals |= {"noise_trace": trace, "noise_signal": signal}
    return totals


def tap_rows(plan: Plan, collectors: PyTree) -> dict[str, jax.Array]:
    """Signals of the taps by name, `[T]` each."""
    return taps.columns(plan.tapped, collectors)
