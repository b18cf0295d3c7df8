"""The train step: pure, jitted, donated. All three doors lead here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxprop import gradients, parallel, taps
from jaxprop.errors import ShapeError, UsageError, one_of
from jaxprop.gradients import Backward, Forward
from jaxprop.health import guard, levers, record, signals
from jaxprop.health.measure import Facts, Plan, learning_rate, measure, measure_update
from jaxprop.health.signals import Signals
from jaxprop.losses import LossFn, as_objective
from jaxprop.precision import LossScale, Policy, Scaling, needs_scaling, next_loss_scale, promoting
from jaxprop.precision import policy as policy_of
from jaxprop.types import Batch, Measurements, Objective, PyTree, Schedule, TrainState


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
    norm = signals.norm(back.params)
    finite = jnp.isfinite(forward.loss) & jnp.isfinite(norm)
    verdict = guard.verdict(recipe.signals, norm, finite, state.health)
    grads = gradients.multiply(back.params, verdict.factor) if recipe.guarded else back.params

    def update(forward: Forward, grads: PyTree, state: TrainState) -> tuple[PyTree, TrainState, jax.Array]:
        updates, opt_state = recipe.update(grads, state.opt_state, state.params, value=forward.loss)
        health = levers.follow_rate(recipe.signals, recipe.schedule, state, opt_state)
        updates = gradients.multiply(updates, levers.lr_scale(recipe.signals, health))
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
        return Plan(Signals(), "lean", signals.group_layers(state.params))
    gradients.check_batch(batch, recipe.accumulate)
    micro = jax.tree.map(lambda x: x[: x.shape[0] // recipe.accumulate], batch)

    def loss(params: PyTree) -> jax.Array:
        return recipe.objective.mean_loss(params, state.extras, micro, key, recipe.policy)[0]

    # Without taps, and so in no context of its own, this leaves jit's cache warm for the gradient's trace.
    seeks_taps = detail != "rows" and recipe.signals.taps
    tapped, jaxpr = taps.find(loss, state.params) if seeks_taps else ((), jax.make_jaxpr(loss)(state.params))
    return Plan(recipe.signals, detail, signals.find_groups(jaxpr, state.params), tapped, recipe.clip)


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
            recipe.schedule, state, kept.opt_state, levers.lr_scale(recipe.signals, kept.health)
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


class TrainStep:
    """A compiled train step, `(state, batch) -> (state, Measurements)`; made by `make_train_step`.

    The state is donated: after the call the old one is gone. Arguments are positional, since jit does not
    donate keyword arguments. What is measured rarely is a second program, compiled when it is first due.

    Args:
      variant: `detail -> (state, batch) -> (state, Measurements)`, what to compile.
      settings: when a step measures how much; None for nothing but the scalars.
      flushes: whether the step computes in float16, so that there is something to flush.
      steps_per_call: steps that one call takes.
      jit_options: of `jax.jit`.
    """

    def __init__(
        self,
        variant: Callable[[str], Callable],
        settings: Signals | None,
        flushes: bool,
        steps_per_call: int,
        jit_options: dict[str, Any],
    ):
        self._compiled = {
            detail: jax.jit(variant(detail), donate_argnums=0, **jit_options) for detail in signals.DETAILS
        }
        self._settings, self._flushes, self._steps_per_call = settings, flushes, steps_per_call
        self._calls = 0
        self._layers: tuple[str, ...] | None = None

    def __call__(
        self, state: TrainState, batch: Batch, detail: str | None = None, /
    ) -> tuple[TrainState, Measurements]:
        """Takes a step.

        Args:
          state, batch: the state, which is donated, and the batch.
          detail: how much to measure: `"lean"` (loss, gradient norm), `"rows"` (every layer too), `"full"` (everything)
            or `"flush"` (what float16 would flush, too); by default what the settings say for this object's n-th call.

        Raises:
          UsageError: for an unknown detail.
        """
        state, measurements = self._compiled[self._detail(detail)](state, batch)
        self._calls += 1
        if measurements.layout.layers or self._settings is None:
            self._layers = measurements.layout.layers
        return state, measurements

    def _detail(self, detail: str | None) -> str:
        if self._settings is None:
            return "lean"
        if detail is None:
            first = self._calls * self._steps_per_call + 1
            detail = self._settings.detail(first, first + self._steps_per_call - 1)
        if detail not in self._compiled:
            raise UsageError(one_of(detail, signals.DETAILS, "detail"))
        return "full" if detail == "flush" and not self._flushes else detail

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the L layers, in the order of `m.layers`; known once a step has measured them."""
        if self._layers is None:
            raise UsageError("layer_names is known after the step's first call; call step(state, batch) first")
        return self._layers

    def lower(self, state: TrainState, batch: Batch, detail: str = "rows", /) -> Any:
        """Traces the step without running it; `.compile()` gives its memory and cost analysis."""
        return self._compiled[self._detail(detail)].lower(state, batch)


def make_train_step(
    loss_fn: LossFn | Objective,
    tx: optax.GradientTransformation,
    precision: str | Policy = "float32",
    accumulate: int = 1,
    steps_per_call: int = 1,
    health: bool | Signals = True,
    *,
    ema_decay: float | None = None,
    schedule: Schedule | None = None,
    clip: float | optax.GradientTransformation | None = None,
    scaling: Scaling | None = None,
    mesh: Mesh | None = None,
    compiler_options: dict[str, Any] | None = None,
) -> TrainStep:
    """Returns one pure, jitted, donated train step.

        L = sum_i w_i l_i / sum_i w_i,   g = dL/dparams,   params' = params + tx(g)

    over all examples i of the batch. Where L or g is not finite, params, extras, opt_state and EMA stay as they were.

    Args:
      loss_fn: `(params, batch, key) -> loss` or `(loss, aux)`, the batch's mean and a dict of scalars to report;
        `aux["weight"]`, if there, is the sum of weights of that mean. Or `jaxprop.loss_from(model, loss)`.
      tx: any optax transformation.
      precision: `"float32"`, `"bfloat16"`, `"float16"` (with a dynamic loss scale), or a `Policy`.
      accumulate: microbatches K that the batch `[B, ...]` is split into, B a multiple of K.
      steps_per_call: with S > 1 the batch is `[S, B, ...]` and one call takes S steps.
      health: measure every layer in each step, and activations and more in each tenth; or `Signals` to say when.
      ema_decay: d of a moving average of the parameters, `ema <- d ema + (1 - d) params`.
      schedule: learning rate by count of updates, for `m.learning_rate` only; `tx` already applies it.
      clip: what `tx` clips first, for `m.clipped_norm` only: the bound of `clip_by_global_norm`, or a transformation.
      scaling: constants of the dynamic loss scale.
      mesh: from `jaxprop.make_mesh`; the batch is split over its devices.
      compiler_options: passed to XLA.

    Returns:
      The step, `(state, batch) -> (state, Measurements)`.

    Raises:
      UsageError: for an unknown precision or a count below 1.

    Example:
      >>> import jaxprop, jax, jax.numpy as jnp, optax
      >>> loss_fn = lambda params, batch, key: jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
      >>> step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1))
      >>> state = jaxprop.init_state({"w": jnp.zeros(2)}, optax.sgd(0.1), key=jax.random.key(0))
      >>> state, m = step(state, {"x": jnp.eye(2), "y": jnp.ones(2)})
      >>> round(float(m.loss), 3), step.layer_names
      (1.0, ('w',))

    Reference: Rumelhart, Hinton, Williams, Learning representations by back-propagating errors, Nature 323, 1986.
    """
    check_counts(accumulate=accumulate, steps_per_call=steps_per_call)
    objective, update = as_objective(loss_fn), promoting(optax.with_extra_args_support(tx).update)
    policy, scaling, settings = policy_of(precision), scaling or Scaling(), signals.settings(health)
    recipe = Recipe(objective, update, policy, accumulate, settings, ema_decay, schedule, scaling, clip)
    options = jit_options(mesh, steps_per_call, compiler_options)
    return TrainStep(variants(recipe, steps_per_call), settings, needs_scaling(policy), steps_per_call, options)


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
    return state, record.join(early, last)


def check_counts(**counts: int) -> None:
    """Raises UsageError for a count below 1."""
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"expected {name} of at least 1, got {value}")


def jit_options(mesh: Mesh | None, steps_per_call: int, compiler_options: dict[str, Any] | None) -> dict[str, Any]:
    """Keyword arguments of `jax.jit`: with a mesh, shardings pinned on both sides so that nothing recompiles."""
    options: dict[str, Any] = {"compiler_options": compiler_options}
    if mesh is not None:
        whole = parallel.replicated(mesh)
        options |= {
            "in_shardings": (whole, parallel.batch_sharding(mesh, steps_per_call)),
            "out_shardings": (whole, whole),
        }
    return options


def _typed_like(tree: PyTree, like: PyTree) -> PyTree:
    # Also drops weak types: what is carried on has to keep its type to the letter.
    def cast(x: jax.Array, old: jax.Array) -> jax.Array:
        return x if jnp.issubdtype(old.dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(x, old.dtype)

    return jax.tree.map(cast, tree, like)
