"""The train step as one pure function. `train/compiled.py` compiles it."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxprop.core import layers, measurements, taps
from jaxprop.core.forms import PLAIN, forms_for, layers_apart
from jaxprop.core.jaxprs.scans import Use, uses
from jaxprop.core.layers import Norms
from jaxprop.core.measurements import Measurements, join
from jaxprop.core.placing import Places, placing
from jaxprop.core.precision import (
    LossScale,
    Policy,
    Scaling,
    masters,
    needs_scaling,
    next_loss_scale,
    promoting,
    rounded,
)
from jaxprop.core.precision import policy as policy_of
from jaxprop.errors import UsageError
from jaxprop.health.signals import guard
from jaxprop.health.signals.guard import Decision
from jaxprop.health.signals.measure import (
    Plan,
    Seen,
    extra_signals,
    measure_update,
    rare_scalars,
    tap_rows,
)
from jaxprop.health.signals.rate import follow_rate, group_rates, learning_rate, lr_scale
from jaxprop.health.signals.rate import updates as updates_of
from jaxprop.health.signals.settings import RARE, Signals
from jaxprop.parallel.offload import fetched
from jaxprop.train import averages, estimators, gradients
from jaxprop.train.arguments import check_batch_stack
from jaxprop.train.averages import Averaging, kept
from jaxprop.train.gradients import Backward, Forward
from jaxprop.train.trainable import Trainable, influence, merge, split, trainable_mask
from jaxprop.types import Average, Batch, Objective, PyTree, Schedule, TrainState

ROUNDING = 2**32 - 2  # folded into a step's key for the rounding of its update; microbatches fold in 0, 1, 2, ...
FUNCTIONS = ("grad_fn", "obj_fn")  # what a line search, which takes `value_fn`, refuses to be given besides


class Recipe(NamedTuple):
    """What one train step closes over; see `make_train_step` for each."""

    objective: Objective
    tx: optax.GradientTransformation
    policy: Policy
    accumulate: int = 1
    signals: Signals | None = None
    averagings: tuple[Averaging, ...] = ()
    schedule: Schedule | None = None
    scaling: Scaling = Scaling()
    clip: float | optax.GradientTransformation | None = None
    trainable: Trainable = None
    gradient: Callable[..., Any] | None = None
    skip_nonfinite: bool = True
    places: Places | None = None
    over: Mesh | None = None
    offloaded: bool = False
    platform: str | None = None

    @property
    def guarded(self) -> bool:
        """Whether the step may change a gradient before the optimizer sees it."""
        return self.signals is not None and self.signals.guarded


class Held(NamedTuple):
    """What of the state an update changes: the trained parameters, and what goes with them."""

    params: PyTree
    extras: PyTree
    opt_state: PyTree
    ema: Average | tuple[Average, ...]
    rate_peak: jax.Array


def train_step(recipe: Recipe, detail: str, state: TrainState, batch: Batch) -> tuple[TrainState, Measurements]:
    """One step of training in arithmetic order: gradient, norms, guard, update, record. Pure.

    To follow a step, `measured` may be passed over: it changes nothing.
    """
    gradients.check_batch(batch, recipe.accumulate)
    key = jax.random.fold_in(state.key, state.step)
    problem = Problem(recipe, state, batch, key)
    plan = make_plan(problem, detail)
    forward, back = problem.gradient(problem.trained, plan)
    norms = layers.norms(plan.groups, problem.counted(back.params))
    finite = jnp.isfinite(forward.loss) & norms.finite & problem.heeded_finite(back.params)
    decision = guard.decide(recipe.signals, norms.total.astype(jnp.float32), finite, state.health)
    # Only what is not finite is let through: a spike that the guard skips stays skipped.
    take = decision.take if recipe.skip_nonfinite else decision.take | ~finite
    grads = gradients.multiply(back.params, decision.factor) if recipe.guarded else back.params

    norm = norms.total * decision.factor.astype(norms.total.dtype)
    seen, take = measured(plan, problem, forward, grads, norm, take)
    held = Held(problem.stored, state.extras, state.opt_state, state.ema, state.health.rate_peak)
    held = keep_if(take, lambda grads, held: update(problem, forward, grads, held), grads, held)

    after = count_step(state, held, finite, take, decision, recipe.scaling)
    after = after._replace(params=problem.merged(held.params))
    return report(plan, problem, after, forward, back, norms, seen, finite, decision)


class Problem:
    """A step's loss as a function of the trained parameters alone, at this step's state, batch and key."""

    def __init__(self, recipe: Recipe, state: TrainState, batch: Batch, key: jax.Array):
        self.recipe, self.state, self.batch, self.key = recipe, state, batch, key
        self._mask = trainable_mask(recipe.trainable, state.params)
        self.stored = split(state.params, self._mask)
        self.trained = masters(self.stored, recipe.policy)
        # All, until it is known: an optimizer that asks for gradients itself does so while it is traced for this.
        self.moved = [True] * len(jax.tree.leaves(self.trained))
        self.influence = influence(
            lambda grads, opt_state, trained: call_update(self, None, grads, opt_state, trained),
            self.trained, state.opt_state, self.trained,
        )  # fmt: skip
        self.moved = self.influence.counted
        self.scale = loss_scale(state)
        if needs_scaling(recipe.policy) != (self.scale is not None):
            raise UsageError(
                "the state was made for another precision than the step's; make it with step.init(params, key=key)"
            )
        if len(kept(state.ema)) != len(recipe.averagings):
            raise UsageError(
                f"the state was made with {len(kept(state.ema))} averages of the parameters, and the step has "
                f"{len(recipe.averagings)}; make it with step.init(params, key=key), or give both the same ema_decay "
                "and swa"
            )
        if recipe.guarded and isinstance(state.health.lr_scale, tuple):
            raise UsageError(
                "the state was made for a step without a guard or responses, so it holds nothing for them; make it "
                "with step.init(params, key=key)"
            )

    def counted(self, trained: PyTree) -> PyTree:
        """What of a tree like the trained parameters the optimizer moves: the rest is no part of any measurement."""
        return split(trained, self.influence.counted)

    def heeded_finite(self, grads: PyTree) -> jax.Array | bool:
        """Whether the gradients are finite that are not counted, and yet change the updates of those that are."""
        heeded = jax.tree.leaves(split(grads, self.influence.heeded))
        return functools.reduce(operator.and_, [jnp.all(jnp.isfinite(g)) for g in heeded], True)

    def merged(self, trained: PyTree) -> PyTree:
        """All parameters, with these for the trained ones, in what they are stored or differentiated in."""
        return merge(trained, self.state.params, self._mask)

    def objective(self) -> Objective:
        """The objective as a function of the trained parameters."""
        mean_loss = self.recipe.objective.mean_loss
        return self.recipe.objective._replace(mean_loss=lambda trained, *rest: mean_loss(self.merged(trained), *rest))

    def gradient(
        self, trained: PyTree, plan: Plan | None = None, precision: str | None = None
    ) -> tuple[Forward, Backward]:
        """Loss and gradient; with a plan scaled and measured, else plain, at a precision by name or the step's."""
        recipe = self.recipe
        forms = PLAIN if estimators.needs_plain_forms(recipe.gradient) else recipe.platform
        with placing(recipe.places), forms_for(forms):
            return gradients.value_and_grad(
                self.objective(),
                recipe.policy if precision is None else policy_of(precision),
                recipe.accumulate,
                self.scale if plan is not None else None,
                trained,
                self.state.extras,
                self.batch,
                self.key,
                plan.tapped if plan is not None else (),
                plan is not None and plan.rare,
                estimators.among(recipe.gradient, self.moved),
                recipe.over,
            )

    def loss(self, trained: PyTree) -> jax.Array:
        """The mean loss of the first microbatch."""
        micro, parts = self.batch, self.recipe.accumulate
        if parts > 1:
            micro = jax.tree.map(lambda x: x[: x.shape[0] // parts], micro)
        with placing(self.recipe.places), forms_for(self.recipe.platform):
            return self.objective().mean_loss(trained, self.state.extras, micro, self.key, self.recipe.policy)[0]

    def groups(self, uses: Sequence[Use] | None = None) -> layers.Groups:
        """The layers of what is measured, and how they are split over devices."""
        counted, places = self.counted(self.trained), self.recipe.places
        found = layers.group_layers(counted, uses)
        shards = None if places is None else places.shards(counted)
        return found._replace(shards=shards) if shards is not None and any(shards.specs) else found


def make_plan(problem: Problem, detail: str) -> Plan:
    """Finds layers and taps by tracing the loss once: abstractly, so nothing is computed."""
    recipe, trained = problem.recipe, problem.trained
    if detail == "lean" or recipe.signals is None:
        return Plan(Signals(), "lean", problem.groups())
    # Without taps, and so in no context of its own, this leaves jit's cache warm for the gradient's trace.
    seeks_taps = detail != "rows" and recipe.signals.taps and recipe.gradient is None
    with layers_apart():
        found, jaxpr = taps.find(problem.loss, trained) if seeks_taps else ((), jax.make_jaxpr(problem.loss)(trained))
    first_uses = uses(jaxpr, len(jax.tree.leaves(trained)))
    counted = [use for use, keep in zip(first_uses, problem.influence.counted, strict=True) if keep]
    return Plan(recipe.signals, detail, problem.groups(counted), found, recipe.clip)


def propose(
    problem: Problem, forward: Forward, grads: PyTree, opt_state: PyTree, trained: PyTree
) -> tuple[PyTree, PyTree]:
    """The optimizer's update of the trained parameters, at the rate that responses leave, and its next state."""
    recipe, state = problem.recipe, problem.state
    updates, opt_state = call_update(problem, forward, grads, opt_state, trained)
    health = follow_rate(recipe.signals, learning_rate(recipe.schedule, state, opt_state), state.health)
    return gradients.multiply(updates, lr_scale(recipe.signals, health)), opt_state


def call_update(
    problem: Problem, forward: Forward | None, grads: PyTree, opt_state: PyTree, trained: PyTree
) -> tuple[PyTree, PyTree]:
    """The optimizer's own update, told what it takes of loss, gradient and their functions."""

    def value_fn(trained: PyTree, *_: Any, **__: Any) -> jax.Array:
        return problem.loss(trained)

    extra = {
        "value": jnp.float32(0) if forward is None else forward.loss,
        "grad": grads,
        "value_fn": value_fn,
        "obj_fn": value_fn,
        "grad_fn": lambda trained, *_, **__: problem.gradient(trained)[1].params,
    }
    return call_with_taken(promoting(problem.recipe.tx.update), (grads, opt_state, trained), extra)


def call_with_taken(function: Callable[..., Any], args: tuple[Any, ...], extra: dict[str, Any]) -> Any:
    """Calls a function with those of the extra arguments that it takes.

    A chain of transformations passes on all it is given, so no signature tells what its members take.
    """
    extra = dict(extra)
    while True:
        try:
            return function(*args, **extra)
        except TypeError as error:
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error), re.IGNORECASE)
            names = [refused[1]] if refused else [name for name in FUNCTIONS if "not consumed by" in str(error)]
            if not any(name in extra for name in names):
                raise
            extra = {name: value for name, value in extra.items() if name not in names}


def update(problem: Problem, forward: Forward, grads: PyTree, held: Held) -> Held:
    """The state after an update that is taken."""
    recipe, state = problem.recipe, problem.state
    trained = masters(held.params, recipe.policy)
    updates, opt_state = propose(problem, forward, grads, held.opt_state, trained)
    params = optax.apply_updates(trained, updates)
    params = rounded(params, recipe.policy, jax.random.fold_in(problem.key, ROUNDING))
    health = follow_rate(recipe.signals, learning_rate(recipe.schedule, state, opt_state), state.health)
    count, updated = updates_of(state, opt_state)
    ema = averages.follow(recipe.averagings, held.ema, params, forward.extras, count, updated)
    return Held(params, forward.extras, opt_state, ema, health.rate_peak)


def keep_if(take: jax.Array, change: Callable[[PyTree, Held], Held], grads: PyTree, held: Held) -> Held:
    """The update, or the old state exactly where the step is not taken: 0 x NaN would be NaN.

    On an accelerator a select is fused into the update's own kernels, where a branch would make the host wait for its
    predicate. On CPU a select keeps old and new state side by side, and each array that exists besides costs more time
    than the arithmetic; a branch that hands over nothing but the state writes the new one over the old one.
    """

    @_traced_once
    def typed(grads: PyTree, held: Held) -> Held:
        return _typed_like(change(grads, held), held)

    def by_branch(take: jax.Array, grads: PyTree, held: Held) -> Held:
        return jax.lax.cond(take, typed, lambda _, held: held, grads, held)

    def by_select(take: jax.Array, grads: PyTree, held: Held) -> Held:
        return jax.tree.map(lambda new, old: jax.lax.select(take, new, old), typed(grads, held), held)

    return jax.lax.platform_dependent(take, grads, held, cpu=by_branch, default=by_select)


def measured(
    plan: Plan, problem: Problem, forward: Forward, grads: PyTree, norm: jax.Array, take: jax.Array
) -> tuple[Seen | None, jax.Array]:
    """What the update is going to do, where the record holds that, and the predicate `take` that it is taken by.

    The update is computed once more for it, in reductions that write none of it to memory. On CPU the update then
    waits for them, through its predicate: so the state is written over in place, after it has been read.
    """
    if not plan.rare:
        return None, take
    trained, opt_state = jax.lax.stop_gradient((problem.trained, problem.state.opt_state))

    @_traced_once
    def read(grads: PyTree, opt_state: PyTree, trained: PyTree) -> Seen:
        return measure_update(
            plan,
            lambda g, s: propose(problem, forward, g, s, trained),
            grads,
            opt_state,
            trained,
            norm,
            problem.counted,
        )

    shapes = jax.eval_shape(read, grads, opt_state, trained)

    def nothing(*_: PyTree) -> Seen:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def by_branch(take: jax.Array, *operands: PyTree) -> tuple[Seen, jax.Array]:
        seen = jax.lax.cond(take, read, nothing, *operands)
        some = seen.layers["param_norm"].sum()
        return seen, take & ((some >= 0) | (some != some))

    def by_select(take: jax.Array, *operands: PyTree) -> tuple[Seen, jax.Array]:
        return jax.tree.map(lambda x, zero: jnp.where(take, x, zero), read(*operands), nothing()), take

    operands = (jax.lax.stop_gradient(grads), opt_state, trained)
    return jax.lax.platform_dependent(take, *operands, cpu=by_branch, default=by_select)


def count_step(
    state: TrainState, held: Held, finite: jax.Array, take: jax.Array, decision: Decision, scaling: Scaling
) -> TrainState:
    """The next state: counts the step, and the skip if it was one, and adapts the loss scale."""
    scale = state.loss_scale
    health = state.health._replace(
        skips=state.health.skips + (~take).astype(jnp.int32), spikes=decision.history, rate_peak=held.rate_peak
    )
    return state._replace(
        step=state.step + 1,
        extras=held.extras,
        opt_state=held.opt_state,
        ema=held.ema,
        loss_scale=next_loss_scale(scale, finite, scaling) if isinstance(scale, LossScale) else scale,
        health=health,
    )


def report(
    plan: Plan,
    problem: Problem,
    after: TrainState,
    forward: Forward,
    back: Backward,
    norms: Norms,
    seen: Seen | None,
    finite: jax.Array,
    decision: Decision,
) -> tuple[TrainState, Measurements]:
    """The next state, whose direction of the power iteration moves on where it is measured, and the step's record."""
    recipe = problem.recipe
    rate = learning_rate(recipe.schedule, problem.state, after.opt_state)
    factor = lr_scale(recipe.signals, after.health)
    scalars = {
        "loss": forward.loss,
        "weight": forward.weight,
        "grad_norm": norms.total,
        "loss_scale": 1.0 if problem.scale is None else problem.scale,
        "skipped": ~finite & recipe.skip_nonfinite,
        "skips": after.health.skips,
        "guard": decision.factor,
    }
    if rate is not None:
        scalars["learning_rate"] = rate if factor is None else rate * factor
    sums = {**forward.sums, **group_rates(recipe.schedule, problem.state, factor)}
    if not plan.rows:
        return after, measurements.pack(sums, scalars)
    rows = {"grad_norm": norms.layers}
    if seen is None:
        return after, measurements.pack(sums, scalars, rows, layout=plan.layout)
    direction, found, found_rows = extra_signals(
        plan,
        lambda trained, precision=None: problem.gradient(trained, precision=precision)[1].params,
        problem.trained,
        back.params,
        problem.scale,
        problem.state.health.direction,
        problem.counted,
    )
    scalars |= found | measurements.outputs(forward.sums)
    # Of parts of the batch there are more and other microbatches than `accumulate`, so the noise is not told.
    parts = recipe.accumulate if recipe.over is None else 1
    scalars |= rare_scalars(seen, norms.total, back.micro_square, problem.batch, parts)
    rows |= seen.layers | found_rows
    after = after._replace(health=after.health._replace(direction=direction))
    return after, measurements.pack(sums, scalars, rows, tap_rows(plan, back.collectors), plan.layout)


def loss_scale(state: TrainState) -> jax.Array | None:
    """The loss scale in use, or None without one."""
    return state.loss_scale.scale if isinstance(state.loss_scale, LossScale) else None


def variants(recipe: Recipe, steps_per_call: int) -> Callable[[str], Callable]:
    """The function to compile for each detail."""

    def one(detail: str) -> Callable:
        return partial(train_step, recipe, detail)

    def several(detail: str) -> Callable:
        return lambda state, batches: several_steps(one, steps_per_call, detail, state, batches)

    def fetching(detail: str) -> Callable:
        return lambda state, batch: call(detail)(fetched(state), batch)

    call = one if steps_per_call == 1 else several
    return fetching if recipe.offloaded else call


def several_steps(
    one: Callable, most: int, detail: str, state: TrainState, batches: Batch
) -> tuple[TrainState, Measurements]:
    """One step for each entry of the batches' leading axis, of which a run's last call may have fewer.

    Only the last of them measures what is rare.
    """
    rare, count = detail in RARE, check_batch_stack(batches, most)
    if not rare or count == 1:
        return jax.lax.scan(one(detail), state, batches)
    state, early = jax.lax.scan(one("rows"), state, jax.tree.map(lambda x: x[:-1], batches))
    state, last = one(detail)(state, jax.tree.map(lambda x: x[-1], batches))
    return state, join(early, last)


def _traced_once(function: Callable) -> Callable:
    """The function, traced once although it stands in a branch for each platform; no call of it is left in either."""
    return jax.jit(function, inline=True)


def _typed_like(tree: PyTree, like: PyTree) -> PyTree:
    # Also drops weak types: what is carried on has to keep its type to the letter.
    def cast(x: jax.Array, old: jax.Array) -> jax.Array:
        return x if jnp.issubdtype(old.dtype, jax.dtypes.extended) else jax.lax.convert_element_type(x, old.dtype)

    return jax.tree.map(cast, tree, like)
