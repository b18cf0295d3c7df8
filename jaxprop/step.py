"""The train step and the eval step: pure, jitted, donated. All three doors lead here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxprop import parallel, trees
from jaxprop.errors import ShapeError, UsageError
from jaxprop.losses import LossFn, as_objective
from jaxprop.precision import LossScale, Policy, Scaling, init_loss_scale, needs_scaling, next_loss_scale
from jaxprop.precision import policy as policy_of
from jaxprop.types import Batch, Layout, Measurements, Objective, PyTree, Schedule, Sums, TrainState


class Recipe(NamedTuple):
    """What one train step closes over; see `make_train_step` for each."""

    objective: Objective
    update: Callable[..., tuple[PyTree, PyTree]]
    policy: Policy
    accumulate: int
    health: bool
    ema_decay: float | None
    schedule: Schedule | None
    scaling: Scaling


class Forward(NamedTuple):
    """What the forward pass leaves besides gradients: mean loss, its weight, new extras, metric sums."""

    loss: jax.Array
    weight: jax.Array
    extras: PyTree
    sums: Sums


def train_step(recipe: Recipe, state: TrainState, batch: Batch) -> tuple[TrainState, Measurements]:
    """One step of training in arithmetic order: gradient, update, guard, measure. Pure; `make_train_step` jits it."""
    key = jax.random.fold_in(state.key, state.step)
    forward, grads = value_and_grad(recipe, state, batch, key)
    grad_squares = layer_squares(grads)
    finite = jnp.isfinite(forward.loss) & jnp.isfinite(jnp.sum(grad_squares))

    def update(grads: PyTree, state: TrainState) -> tuple[PyTree, TrainState]:
        updates, opt_state = recipe.update(grads, state.opt_state, state.params, value=forward.loss)
        params = optax.apply_updates(state.params, updates)
        ema = moving_average(recipe.ema_decay, state.ema, params)
        return updates, state._replace(params=params, extras=forward.extras, opt_state=opt_state, ema=ema)

    updates, kept = keep_if_finite(finite, update, grads, state)
    kept = count_step(kept, finite, recipe.scaling)
    return kept, measure(recipe, state, forward, finite, grad_squares, updates, kept)


def value_and_grad(recipe: Recipe, state: TrainState, batch: Batch, key: jax.Array) -> tuple[Forward, PyTree]:
    """Loss and gradient of the whole batch: scaled, accumulated over microbatches, unscaled.

    With the mean loss l_k and the weight W_k of microbatch k,

        L = sum_k W_k l_k / sum_k W_k,   g = sum_k W_k dl_k/dparams / sum_k W_k

    which is the whole batch's mean whatever the masks; the mean of the means is not.
    """
    check_batch(batch, recipe.accumulate)
    check_state(recipe, state)
    scale = loss_scale(state)

    def scaled_loss(params, extras, batch, key):
        loss, (weight, extras, sums) = recipe.objective.mean_loss(params, extras, batch, key, recipe.policy)
        scaled = loss if scale is None else loss * scale.astype(loss.dtype)
        return scaled, Forward(loss, weight, extras, sums)

    differentiate = jax.grad(scaled_loss, has_aux=True)
    if recipe.accumulate == 1:
        grads, forward = differentiate(state.params, state.extras, batch, key)
        return forward, divide(grads, scale)

    def weighted(extras, batch, k):
        grads, forward = differentiate(state.params, extras, batch, jax.random.fold_in(key, k))
        loss, *grads = weigh([forward.loss, *jax.tree.leaves(grads)], forward.weight)
        return jax.tree.unflatten(jax.tree.structure(state.params), grads), forward._replace(loss=loss)

    forward, grads = accumulated(weighted, state.extras, microbatches(batch, recipe.accumulate), scale)
    return forward, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, state.params)


def accumulated(weighted: Callable, extras: PyTree, batches: Batch, scale: Any) -> tuple[Forward, PyTree]:
    """Sums weighted gradients and losses over microbatches, one at a time in memory, and divides by the weight."""

    def add(carry, batch_and_k):
        total_grads, total = carry
        grads, forward = weighted(total.extras, *batch_and_k)
        added = jax.tree.map(jnp.add, total._replace(extras=()), forward._replace(extras=()))
        return (jax.tree.map(jnp.add, total_grads, grads), added._replace(extras=forward.extras)), None

    count = jax.tree.leaves(batches)[0].shape[0]
    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(weighted, extras, first, jnp.int32(0))
    grads, zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    start = (grads, zero._replace(extras=extras))
    (grads, total), _ = jax.lax.scan(add, start, (batches, jnp.arange(count, dtype=jnp.int32)))
    weight = jnp.where(total.weight > 0, total.weight, jnp.ones_like(total.weight))
    grads = divide(grads, weight if scale is None else weight * scale)
    return total._replace(loss=total.loss / weight.astype(total.loss.dtype)), grads


def weigh(values: list[jax.Array], weight: jax.Array) -> list[jax.Array]:
    """Multiplies by a microbatch's weight, in float32; nothing, even of NaN, is left of one that is all padding."""
    return [jnp.where(weight > 0, _wide(x) * weight, 0) for x in values]


def microbatches(batch: Batch, count: int) -> Batch:
    """Splits `[B, ...]` into `[count, B / count, ...]`, microbatch k taking the rows k, k + count, ...

    Strided rows, so that a batch sharded over devices stays where it is.
    """
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)


def keep_if_finite(
    finite: jax.Array, update: Callable[..., tuple[PyTree, TrainState]], grads: PyTree, state: TrainState
) -> tuple[PyTree, TrainState]:
    """The updates and the new state, or the old one exactly where the step was not finite: 0 x NaN would be NaN.

    Both forms keep the old state bit for bit. Accelerators fuse a select into the update's own kernels, where a
    branch would make the host wait for the predicate. The CPU compiler keeps old and new state side by side for a
    select, and a branch may not write over what it is given; a loop of one turn or none may, and puts updates where
    the gradients were: the peak memory of the step without a guard.
    """

    def by_loop(grads: PyTree, state: TrainState) -> tuple[PyTree, TrainState]:
        def turn(carry: Any) -> Any:
            return jnp.zeros_like(carry[0]), *_typed_like(update(*carry[1:]), carry[1:])

        return jax.lax.while_loop(lambda carry: carry[0], turn, (finite, grads, state))[1:]

    def by_select(grads: PyTree, state: TrainState) -> tuple[PyTree, TrainState]:
        updates, new = update(grads, state)
        return _typed_like(updates, grads), trees.select(finite, _typed_like(new, state), state)

    return jax.lax.platform_dependent(grads, state, cpu=by_loop, default=by_select)


def count_step(state: TrainState, finite: jax.Array, scaling: Scaling) -> TrainState:
    """Counts the step, and the skip if it was one, and adapts the loss scale."""
    scale = state.loss_scale
    return state._replace(
        step=state.step + 1,
        loss_scale=next_loss_scale(scale, finite, scaling) if isinstance(scale, LossScale) else scale,
        health={"skips": state.health["skips"] + (~finite).astype(jnp.int32)},
    )


def moving_average(decay: float | None, ema: PyTree, params: PyTree) -> PyTree:
    """Exponential moving average, `d ema + (1 - d) params`; `()` where none is kept."""
    return ema if decay is None else optax.incremental_update(params, ema, 1.0 - decay)


def measure(
    recipe: Recipe,
    state: TrainState,
    forward: Forward,
    finite: jax.Array,
    grad_squares: jax.Array,
    updates: PyTree,
    kept: TrainState,
) -> Measurements:
    """Packs what the step reports into one float32 array, laid out as `Measurements` reads it."""
    squares = [grad_squares]
    if recipe.health:
        squares += [layer_squares(kept.params), jnp.where(finite, layer_squares(updates), jnp.float32(0))]
    norms = [jnp.sqrt(jnp.sum(s)) for s in squares] + [jnp.float32(jnp.nan)] * (3 - len(squares))
    scale = loss_scale(state)
    scalars = [
        forward.loss,
        forward.weight,
        *norms,
        learning_rate(recipe.schedule, state, kept.opt_state),
        1.0 if scale is None else scale,
        ~finite,
        kept.health["skips"],
        *(value for pair in forward.sums.values() for value in pair),
    ]
    rows = [jnp.sqrt(s) for s in squares] if recipe.health else []
    layers = tuple(trees.layer_names(state.params)[0]) if recipe.health else ()
    packed = jnp.concatenate([jnp.stack([jnp.asarray(x, jnp.float32) for x in scalars]), *rows])
    return Measurements(packed, Layout(tuple(forward.sums), layers))


def layer_squares(tree: PyTree) -> jax.Array:
    """Sum of squares of each layer of a tree shaped like the parameters, float32 `[L]`."""
    names, rows = trees.layer_names(tree)
    return trees.square_sums(tree, rows, len(names))


def learning_rate(schedule: Schedule | None, state: TrainState, opt_state: PyTree) -> Any:
    """The rate this step uses: the schedule at the count of updates so far, or the one optax keeps, else NaN.

    Skipped steps do not advance the optimizer's count, so they are taken off.
    """
    if schedule is not None:
        return promoting(schedule)(state.step - state.health["skips"])
    injected = optax.tree_utils.tree_get_all_with_path(
        opt_state, "learning_rate", filtering=lambda _, value: isinstance(value, jax.Array)
    )
    return injected[0][1] if len(injected) == 1 else jnp.nan


def promoting(function: Callable) -> Callable:
    """Runs optax under standard dtype promotion: it raises floats to integer powers, which strict mode refuses."""

    def standard(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return standard


def loss_scale(state: TrainState) -> jax.Array | None:
    """The loss scale in use, or None without one."""
    return state.loss_scale.scale if isinstance(state.loss_scale, LossScale) else None


def divide(grads: PyTree, divisor: jax.Array | None) -> PyTree:
    """Divides every leaf by a scalar; by nothing where it is None."""
    return grads if divisor is None else jax.tree.map(lambda g: (_wide(g) / divisor).astype(g.dtype), grads)


def check_state(recipe: Recipe, state: TrainState) -> None:
    """Raises UsageError, while tracing, where the state was made for another step."""
    if needs_scaling(recipe.policy) != isinstance(state.loss_scale, LossScale):
        raise UsageError("the state's loss scale is not this step's; give init_state the same precision= as the step")
    if (recipe.ema_decay is None) != (isinstance(state.ema, tuple) and not state.ema):
        raise UsageError(
            "the state's moving average is not this step's; give init_state the same ema_decay= as the step"
        )


def check_batch(batch: Batch, accumulate: int) -> None:
    """Raises ShapeError, while tracing, where the batch cannot be split as asked."""
    paths = dict(zip(trees.leaf_paths(batch), jax.tree.leaves(batch), strict=True))
    sizes = {path: jnp.shape(leaf)[:1] for path, leaf in paths.items()}
    if not sizes or len(set(sizes.values())) > 1 or () in sizes.values():
        found = ", ".join(f"{path} {jnp.shape(leaf)}" for path, leaf in paths.items())
        raise ShapeError(f"expected every array of the batch to share its first axis, the examples; got {found}")
    size = next(iter(sizes.values()))[0]
    if size % accumulate:
        raise ShapeError(
            f"expected a batch size that is a multiple of accumulate={accumulate}, got {size}; "
            f"use a batch of {-(-size // accumulate) * accumulate}"
        )


class TrainStep:
    """A compiled train step, `(state, batch) -> (state, Measurements)`; made by `make_train_step`.

    The state is donated: after the call the old one is gone. Arguments are positional, since jit does not
    donate keyword arguments.
    """

    def __init__(self, step: Callable, **jit_options: Any):
        self._jitted = jax.jit(step, donate_argnums=0, **jit_options)
        self._layout: Layout | None = None

    def __call__(self, state: TrainState, batch: Batch, /) -> tuple[TrainState, Measurements]:
        state, measurements = self._jitted(state, batch)
        self._layout = measurements.layout
        return state, measurements

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the L layers, in the order of `m.layers`; known once the step has been called."""
        if self._layout is None:
            raise UsageError("layer_names is known after the step's first call; call step(state, batch) first")
        return self._layout.layers

    def lower(self, state: TrainState, batch: Batch, /) -> Any:
        """Traces the step without running it; `.compile()` gives its memory and cost analysis."""
        return self._jitted.lower(state, batch)


def make_train_step(
    loss_fn: LossFn | Objective,
    tx: optax.GradientTransformation,
    precision: str | Policy = "float32",
    accumulate: int = 1,
    steps_per_call: int = 1,
    health: bool = True,
    *,
    ema_decay: float | None = None,
    schedule: Schedule | None = None,
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
      health: measure gradient, parameter and update norms of every layer.
      ema_decay: d of a moving average of the parameters, `ema <- d ema + (1 - d) params`.
      schedule: learning rate by count of updates, for `m.learning_rate` only; `tx` already applies it.
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
    policy, scaling = policy_of(precision), scaling or Scaling()
    one = partial(train_step, Recipe(objective, update, policy, accumulate, health, ema_decay, schedule, scaling))
    step = one if steps_per_call == 1 else partial(several_steps, one, steps_per_call)
    return TrainStep(step, **jit_options(mesh, steps_per_call, compiler_options))


def several_steps(one: Callable, most: int, state: TrainState, batches: Batch) -> tuple[TrainState, Measurements]:
    """One step for each entry of the batches' leading axis, of which a run's last call may have fewer."""
    found = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(found) != 1 or not found <= {(count,) for count in range(1, most + 1)}:
        raise ShapeError(
            f"with steps_per_call={most}, expected {most} batches stacked on a leading axis, got arrays with leading "
            f"axes {sorted(found)}; use jnp.stack on {most} batches"
        )
    return jax.lax.scan(one, state, batches)


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


def init_state(
    params: PyTree,
    tx: optax.GradientTransformation,
    *,
    key: jax.Array,
    extras: PyTree = None,
    precision: str | Policy = "float32",
    ema_decay: float | None = None,
    scaling: Scaling | None = None,
    mesh: Mesh | None = None,
) -> TrainState:
    """Returns the state before the first step. Arrays are copied, so donation never takes the caller's.

    Args:
      params: any pytree of floating-point arrays; cast to the policy's parameter dtype.
      tx: the optax transformation given to `make_train_step`.
      key: PRNG key of the run, `jax.random.key(seed)`.
      extras: what the model carries besides parameters; none by default.
      precision, ema_decay, scaling, mesh: as given to `make_train_step`.

    Returns:
      The train state.

    Raises:
      UsageError: if a leaf of `params` is not a floating-point array.

    Example:
      >>> import jaxprop, jax, jax.numpy as jnp, optax
      >>> jaxprop.init_state({"w": jnp.zeros(2)}, optax.sgd(0.1), key=jax.random.key(0)).step.item()
      0
    """
    policy = policy_of(precision)
    params = jax.tree.map(jnp.asarray, params)
    _check_floating(params)
    params = _fresh(trees.cast_floating(params, policy.param))
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    state = TrainState(
        step=jnp.int32(0),
        params=params,
        extras=_fresh({} if extras is None else extras),
        opt_state=_fresh(promoting(tx.init)(params)),
        key=jax.random.clone(key),
        loss_scale=init_loss_scale(scaling or Scaling()) if needs_scaling(policy) else (),
        health={"skips": jnp.int32(0)},
        ema=_fresh(params) if ema_decay is not None else (),
    )
    return state if mesh is None else parallel.replicate(state, mesh)


def make_eval_step(
    loss_fn: LossFn | Objective, precision: str | Policy = "float32", *, mesh: Mesh | None = None
) -> Callable[[PyTree, PyTree, Batch], Sums]:
    """Returns a jitted evaluation of one batch, `(params, extras, batch) -> {name: (sum, count)}`.

    Sums and counts add up over batches, so the mean over a padded, masked split is exact.

    Args:
      loss_fn: as in `make_train_step`. A `Model` is applied with `train=False`. A plain function is called with
        `key=None`, the sign to leave dropout out, and its mean counts `aux["weight"]`, or once a batch.
      precision: as in `make_train_step`.
      mesh: as in `make_train_step`.

    Returns:
      The step; `"loss"` is always among the names.

    Example:
      >>> import jaxprop, jax.numpy as jnp
      >>> evaluate = jaxprop.make_eval_step(lambda params, batch, key: jnp.mean(batch["x"] * params["w"]))
      >>> total, count = evaluate({"w": jnp.float32(2)}, {}, {"x": jnp.ones(3)})["loss"]
      >>> (total / count).item()
      2.0
    """
    objective = as_objective(loss_fn)
    policy = policy_of(precision)

    def eval_step(params: PyTree, extras: PyTree, batch: Batch) -> Sums:
        return objective.sums(params, extras, batch, policy)

    if mesh is None:
        return jax.jit(eval_step)
    whole = parallel.replicated(mesh)
    return jax.jit(eval_step, in_shardings=(whole, whole, parallel.batch_sharding(mesh)), out_shardings=whole)


def _wide(x: jax.Array) -> jax.Array:
    # A weight times a loss scale is beyond float16, where a gradient divided by it would silently be 0.
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _typed_like(tree: PyTree, like: PyTree) -> PyTree:
    # Also drops weak types: what is carried on has to keep its type to the letter.
    def cast(x: jax.Array, old: jax.Array) -> jax.Array:
        return x if jnp.issubdtype(old.dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(x, old.dtype)

    return jax.tree.map(cast, tree, like)


def _check_floating(params: PyTree) -> None:
    for path, leaf in zip(trees.leaf_paths(params), jax.tree.leaves(params), strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise UsageError(
                f"expected floating-point parameters, got {path} of dtype {leaf.dtype}; "
                "pass what is not trained as extras, or close over it"
            )


def _fresh(tree: PyTree) -> PyTree:
    # Copies: the state is donated, and the same buffer twice in it, or the caller's, must not be. An explicit
    # dtype also drops weak types, which would recompile the step at its second call.
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.asarray(x).dtype, copy=True), tree)
