"""The train step as one pure function. `train/compiled.py` compiles it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprop.core import layers, taps
from jaxprop.core.layers import find_groups, group_layers
from jaxprop.core.measurements import Measurements, join
from jaxprop.core.precision import LossScale, Policy, Scaling, needs_scaling, next_loss_scale
from jaxprop.core.precision import policy as policy_of
from jaxprop.errors import ShapeError, UsageError
from jaxprop.health.signals import guard, rate
from jaxprop.health.signals.measure import Facts, Plan, measure, measure_update
from jaxprop.health.signals.rate import learning_rate
from jaxprop.health.signals.settings import Signals
from jaxprop.train import gradients
from jaxprop.train.gradients import Backward, Forward
from jaxprop.types import Batch, Objective, PyTree, Schedule, TrainState


class Recipe(NamedTuple):
    """What one train step closes over; see `make_train_step` for each."""

    objective: Objective
    update: Callable[..., tuple[PyTree, PyTree]]
    policy: Policy
    accumulate: int
    signals: Signals | None
    ema_decay: float | None
    schedule: Schedule | None
    scaling: Scaling
    clip: float | optax.GradientTransformation | None

    @property
    def guarded(self) -> bool:
        """Whether the step may change a gradient before the optimizer sees it."""
        return self.signals is not None and self.signals.guarded


def train_step(recipe: Recipe, detail: str, state: TrainState, batch: Batch) -> tuple[TrainState, Measurements]:
    """One step of training in arithmetic order: gradient, guard, update, measure. Pure; `make_train_step` jits it."""
    key = jax.random.fold_in(state.key, state.step)
    check_state(recipe, state)
    plan = make_plan(recipe, detail, state, batch, key)
    gradient = differentiate(recipe, state, batch, key)
    forward, back = gradient(state.params, loss_scale(state), plan)
    norm = layers.norm(back.params)
    finite = jnp.isfinite(forward.loss) & jnp.isfinite(norm)
    verdict = guard.verdict(recipe.signals, norm, finite, state.health)
    grads = gradients.multiply(back.params, verdict.factor) if recipe.guarded else back.params

    def update(forward: Forward, grads: PyTree, state: TrainState) -> tuple[PyTree, TrainState, jax.Array]:
        updates, opt_state = recipe.update(grads, state.opt_state, state.params, value=forward.loss)
        health = rate.follow_rate(recipe.signals, recipe.schedule, state, opt_state)
        updates = gradients.multiply(updates, rate.lr_scale(recipe.signals, health))
        params = optax.apply_updates(state.params, updates)
        ema = moving_average(recipe.ema_decay, state.ema, params)
        inside = measure_update(plan, grads, updates, state.params, (state.opt_state, opt_state))
        kept = {"params": params, "extras": forward.extras, "opt_state": opt_state, "ema": ema, "health": health}
        return updates, state._replace(**kept), inside

    # Under jit the update is traced once for all the forms that keep_if gives it.
    updates, kept, inside = keep_if(verdict.take, partial(jax.jit(update, inline=True), forward), grads, state)
    kept = count_step(kept, finite, verdict, recipe.scaling)
    scalars = report(recipe, state, kept, forward, norm, finite, verdict)
    facts = Facts(
        scalars, forward.sums, back.params, back.sinks, back.micro_square, kept.params, updates, inside, verdict.take,
        jax.tree.leaves(batch)[0].shape[0], recipe.accumulate, loss_scale(state),
        lambda params, precision=None: gradient(params, None, None, precision)[1].params, state.params,
    )  # fmt: skip
    health, measurements = measure(plan, facts, kept.health)
    return kept._replace(health=health), measurements


def make_plan(recipe: Recipe, detail: str, state: TrainState, batch: Batch, key: jax.Array) -> Plan:
    """Finds layers and taps by tracing the loss once: abstractly, so nothing is computed."""
    if detail == "lean" or recipe.signals is None:
        return Plan(Signals(), "lean", group_layers(state.params))
    gradients.check_batch(batch, recipe.accumulate)
    micro = jax.tree.map(lambda x: x[: x.shape[0] // recipe.accumulate], batch)

    def loss(params: PyTree) -> jax.Array:
        return recipe.objective.mean_loss(params, state.extras, micro, key, recipe.policy)[0]

    # Without taps, and so in no context of its own, this leaves jit's cache warm for the gradient's trace.
    seeks_taps = detail != "rows" and recipe.signals.taps
    tapped, jaxpr = taps.find(loss, state.params) if seeks_taps else ((), jax.make_jaxpr(loss)(state.params))
    return Plan(recipe.signals, detail, find_groups(jaxpr, state.params), tapped, recipe.clip)


def differentiate(recipe: Recipe, state: TrainState, batch: Batch, key: jax.Array) -> Callable[..., Any]:
    """The backward pass of this step's loss, `(params, scale, plan, precision) -> (Forward, Backward)`."""

    def gradient(
        params: PyTree, scale: jax.Array | None, plan: Plan | None, precision: str | None = None
    ) -> tuple[Forward, Backward]:
        policy = recipe.policy if precision is None else policy_of(precision)
        tapped, noise = (plan.tapped, plan.rare) if plan is not None else ((), False)
        return gradients.value_and_grad(
            recipe.objective, policy, recipe.accumulate, scale, params, state.extras, batch, key, tapped, noise
        )

    return gradient


def keep_if(
    take: jax.Array, update: Callable[..., tuple[PyTree, TrainState, jax.Array]], grads: PyTree, state: TrainState
) -> tuple[PyTree, TrainState, jax.Array]:
    """The update, or the old state exactly where the step is not taken: 0 x NaN would be NaN.

    Both forms keep the old state bit for bit. Accelerators fuse a select into the update's own kernels, where a
    branch would make the host wait for the predicate. The CPU compiler keeps old and new state side by side for a
    select, and a branch may not write over what it is given; a loop of one turn or none may, and puts updates where
    the gradients were: the peak memory of the step without a guard.
    """

    measured = jax.eval_shape(update, grads, state)[2]
    nothing = jnp.zeros(measured.shape, measured.dtype)

    def by_loop(grads: PyTree, state: TrainState) -> tuple[PyTree, TrainState, jax.Array]:
        def turn(carry: Any) -> Any:
            return jnp.zeros_like(carry[0]), *_typed_like(update(*carry[1:3]), carry[1:])

        return jax.lax.while_loop(lambda carry: carry[0], turn, (take, grads, state, nothing))[1:]

    def by_select(grads: PyTree, state: TrainState) -> tuple[PyTree, TrainState, jax.Array]:
        updates, new, measured = update(grads, state)
        kept = jax.tree.map(partial(jax.lax.select, take), _typed_like(new, state), state)
        return _typed_like(updates, grads), kept, jnp.where(take, measured, nothing)

    return jax.lax.platform_dependent(grads, state, cpu=by_loop, default=by_select)


def count_step(state: TrainState, finite: jax.Array, verdict: guard.Verdict, scaling: Scaling) -> TrainState:
    """Counts the step, and the skip if it was one, and adapts the loss scale."""
    scale, skips = state.loss_scale, state.health["skips"] + (~verdict.take).astype(jnp.int32)
    return state._replace(
        step=state.step + 1,
        loss_scale=next_loss_scale(scale, finite, scaling) if isinstance(scale, LossScale) else scale,
        health={**state.health, "skips": skips, "spikes": verdict.history},
    )


def moving_average(decay: float | None, ema: PyTree, params: PyTree) -> PyTree:
    """Exponential moving average, `d ema + (1 - d) params`; `()` where none is kept."""
    return ema if decay is None else optax.incremental_update(params, ema, 1.0 - decay)


def report(
    recipe: Recipe,
    state: TrainState,
    kept: TrainState,
    forward: Forward,
    norm: jax.Array,
    finite: jax.Array,
    verdict: guard.Verdict,
) -> dict[str, Any]:
    """The scalars that every record holds."""
    scale = loss_scale(state)
    return {
        "loss": forward.loss,
        "weight": forward.weight,
        "grad_norm": norm,
        "learning_rate": learning_rate(
            recipe.schedule, state, kept.opt_state, rate.lr_scale(recipe.signals, kept.health)
        ),
        "loss_scale": 1.0 if scale is None else scale,
        "skipped": ~finite,
        "skips": kept.health["skips"],
        "guard": verdict.factor,
    }


def loss_scale(state: TrainState) -> jax.Array | None:
    """The loss scale in use, or None without one."""
    return state.loss_scale.scale if isinstance(state.loss_scale, LossScale) else None


def check_state(recipe: Recipe, state: TrainState) -> None:
    """Raises UsageError, while tracing, where the state was made for another step."""
    if needs_scaling(recipe.policy) != isinstance(state.loss_scale, LossScale):
        raise UsageError("the state's loss scale is not this step's; give init_state the same precision= as the step")
    if (recipe.ema_decay is None) != (isinstance(state.ema, tuple) and not state.ema):
        raise UsageError(
            "the state's moving average is not this step's; give init_state the same ema_decay= as the step"
        )


def variants(recipe: Recipe, steps_per_call: int) -> Callable[[str], Callable]:
    """The function to compile for each detail."""
    one = partial(partial, train_step, recipe)
    return one if steps_per_call == 1 else partial(partial, several_steps, one, steps_per_call)


def several_steps(
    one: Callable, most: int, detail: str, state: TrainState, batches: Batch
) -> tuple[TrainState, Measurements]:
    """One step for each entry of the batches' leading axis, of which a run's last call may have fewer.

    Only the last of them measures what is rare.
    """
    found = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(found) != 1 or not found <= {(count,) for count in range(1, most + 1)}:
        raise ShapeError(
            f"with steps_per_call={most}, expected {most} batches stacked on a leading axis, got arrays with leading "
            f"axes {sorted(found)}; use jnp.stack on {most} batches"
        )
    rare, count = detail in ("full", "flush"), found.pop()[0]
    if not rare or count == 1:
        return jax.lax.scan(one(detail), state, batches)
    state, early = jax.lax.scan(one("rows"), state, jax.tree.map(lambda x: x[:-1], batches))
    state, last = one(detail)(state, jax.tree.map(lambda x: x[-1], batches))
    return state, join(early, last)


def _typed_like(tree: PyTree, like: PyTree) -> PyTree:
    # Also drops weak types: what is carried on has to keep its type to the letter.
    def cast(x: jax.Array, old: jax.Array) -> jax.Array:
        return x if jnp.issubdtype(old.dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(x, old.dtype)

    return jax.tree.map(cast, tree, like)
