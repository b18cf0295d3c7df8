"""Explains one training step: forward pass, loss, backward pass, clipping, update, and the loss afterwards. Pure.

The gradient is computed again by plain automatic differentiation, and compared with the record of the train step. The
gradient of an activation does not come from the taps: it is the gradient of a zero that is added to the activation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprop.core import taps, trees
from jaxprop.core.examples import row_weights
from jaxprop.core.forms import layers_apart
from jaxprop.core.jaxprs import evaluate, walk
from jaxprop.core.measurements import Measurements
from jaxprop.errors import UsageError
from jaxprop.train.activations import outside_loops
from jaxprop.train.estimators import described
from jaxprop.train.explanation import Check, Clip, Example, Explanation, Followed, Layer, Parameter
from jaxprop.train.gradients import Forward, microbatches, multiply
from jaxprop.train.step import Problem, Recipe, propose
from jaxprop.train.trainable import split, trainable_mask
from jaxprop.types import Batch, PyTree, TrainState

EXAMPLES = 6  # largest number of examples shown
Take = Callable[[TrainState, Batch], tuple[TrainState, Measurements]]


class NotFinite(UsageError):
    """The loss or the gradient of the step is not finite."""


def explain(recipe: Recipe, take: Take, state: TrainState, batch: Batch) -> Explanation:
    """Explains the step that a recipe takes from a state on a batch.

    Args:
      recipe: what the step closes over.
      take: the train step to compare with, `(state, batch) -> (state, record)`, where the record holds everything.
      state: before the step; it is not donated.
      batch: of this one step.

    Returns:
      The explanation.

    Raises:
      NotFinite: the loss or the gradient is not finite.

    Reference: Rumelhart, Hinton, Williams, Learning representations by back-propagating errors, Nature 323, 1986.
    """
    mask = trainable_mask(recipe.trainable, state.params)
    before = jax.tree.map(np.asarray, split(state.params, mask))
    after, m = take(state, batch)
    measured = m.host()
    problem = Problem(recipe, state, batch, jax.random.fold_in(state.key, state.step))
    plain = _by_hand(problem, float(measured.guard))
    if not (math.isfinite(plain.loss) and math.isfinite(_norm(plain.grads))):
        raise NotFinite(
            "the loss or its gradient is not finite in this step, so it cannot be explained; "
            "step.find_nonfinite(state, batch) says where that begins"
        )
    tolerance = float(jnp.finfo(recipe.policy.compute).eps) ** 0.5
    taken = int(after.health.skips) == int(state.health.skips)
    checks = _checks(plain, problem, before, split(after.params, mask), measured, tolerance, taken)
    notes = _notes(recipe, plain)
    return Explanation(
        all(check.agrees for check in checks), int(state.step) + 1, plain.examples, _size(batch), plain.loss,
        plain.weight, _layers(plain, measured, row_weights(batch)), _parameters(plain, before),
        None if recipe.clip is None else _clip(plain, problem.influence.counted),
        _known(float(measured.learning_rate)), taken, float(measured.guard), _follow(plain, before), plain.expected,
        plain.loss_after, tolerance, checks, notes,
    )  # fmt: skip


def _notes(recipe: Recipe, plain: ByHand) -> tuple[str, ...]:
    found = []
    if recipe.accumulate > 1 and plain.tapped:
        found.append(f"activations of {recipe.accumulate} microbatches are shown without their shape")
    if (words := described(recipe.gradient)) is not None:
        found.append(f"the gradient is an estimate, {words}; without a backward pass, activations have no gradient")
    return tuple(found)


def _size(batch: Batch) -> int | None:
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    return next(iter(sizes))[0] if len(sizes) == 1 and () not in sizes else None


# -- the step by hand -------------------------------------------------------------------------------


class Activation(NamedTuple):
    """The arrays that one tap is used on, in the order of the forward pass, and their gradients; none inside a scan."""

    values: tuple[np.ndarray, ...] = ()
    grads: tuple[np.ndarray, ...] = ()


class ByHand(NamedTuple):
    """A step computed with plain autodiff and optax."""

    loss: float
    weight: float
    examples: tuple[Example, ...]
    tapped: tuple[taps.Tap, ...]
    activations: tuple[Activation, ...]
    grads: PyTree
    clipped: PyTree
    updates: PyTree
    params: PyTree
    expected: float
    loss_after: float


def _by_hand(problem: Problem, factor: float) -> ByHand:
    recipe, state, trained = problem.recipe, problem.state, problem.trained
    mean_loss = problem.objective().mean_loss

    def one(trained: PyTree, extras: PyTree, batch: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        loss, (weight, extras, _) = mean_loss(trained, extras, batch, key, recipe.policy)
        return loss, (weight, extras)

    def whole(trained: PyTree, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The mean loss of the batch and its weight, over microbatches where there are several."""
        if recipe.accumulate == 1:
            loss, (weight, _) = one(trained, state.extras, batch, problem.key)
            return loss, weight

        def add(extras: PyTree, part: tuple[Batch, jax.Array]) -> tuple[PyTree, Any]:
            loss, (weight, extras) = one(trained, extras, part[0], jax.random.fold_in(problem.key, part[1]))
            return extras, (jnp.where(weight != 0, weight * loss, 0), weight)

        numbers = jnp.arange(recipe.accumulate, dtype=jnp.int32)
        _, (sums, weights) = jax.lax.scan(add, state.extras, (microbatches(batch, recipe.accumulate), numbers))
        return jnp.sum(sums) / jnp.sum(weights), jnp.sum(weights)

    loss, weight = jax.jit(whole)(trained, problem.batch)
    grads = _gradient(problem, whole)
    given = multiply(grads, jnp.float32(factor))
    tapped, activations = _activations(problem)
    clipped = given if recipe.clip is None else _clipped(recipe.clip, given, trained)
    updates = jax.jit(
        lambda grads, opt_state, trained, loss: propose(
            problem, Forward(loss, weight, state.extras, {}), grads, opt_state, trained
        )[0]
    )(given, state.opt_state, trained, loss)
    params = optax.apply_updates(trained, updates)
    loss_after, _ = jax.jit(whole)(params, problem.batch)
    along = jax.tree.map(lambda g, u: jnp.real(jnp.vdot(g, u)), grads, updates)
    return ByHand(
        float(loss), float(weight), _examples(whole, trained, problem.batch, float(loss), float(weight)),
        tapped, activations, grads, clipped, updates, params, float(sum(jax.tree.leaves(along))), float(loss_after),
    )  # fmt: skip


def _gradient(problem: Problem, whole: Callable[[PyTree, Batch], tuple[jax.Array, jax.Array]]) -> PyTree:
    if problem.recipe.gradient is not None:  # what is given in place of jax.value_and_grad defines the gradient
        return jax.jit(lambda trained: problem.gradient(trained)[1].params)(problem.trained)
    # Without the step's loss scale, float16 would flush gradients to zero that the step does not lose.
    scale = 1.0 if problem.scale is None else problem.scale
    grads = jax.jit(jax.grad(lambda trained: whole(trained, problem.batch)[0] * scale))(problem.trained)
    return grads if problem.scale is None else jax.tree.map(lambda g: g / scale, grads)


def _clipped(clip: Any, grads: PyTree, params: PyTree) -> PyTree:
    transformation = optax.clip_by_global_norm(clip) if isinstance(clip, int | float) else clip
    return transformation.update(grads, transformation.init(params), params)[0]


def _examples(
    whole: Callable[[PyTree, Batch], tuple[jax.Array, jax.Array]], params: PyTree, batch: Batch, loss: float,
    weight: float,
) -> tuple[Example, ...]:  # fmt: skip
    """The losses of single examples, from the derivatives of the mean with respect to their weights.

    L = sum_i w_i n_i l_i / W,   dL/dw_i = n_i (l_i - L) / W,   dW/dw_i = n_i
    """
    size = _size(batch)
    if not isinstance(batch, Mapping) or size is None:
        return ()
    weights = jnp.asarray(batch.get("weight", jnp.ones(size, jnp.float32))).astype(jnp.float32)
    try:
        # A loss that takes no weight has no derivative by it, or may refuse it.
        slopes, counts = jax.jit(jax.jacrev(lambda w: whole(params, {**batch, "weight": w})))(weights)
    except (KeyError, TypeError, ValueError):
        return ()
    if weights.shape != (size,) or not np.any(counts):
        return ()
    labels, found = np.asarray(batch.get("labels", np.zeros(()))), []
    for i in range(min(EXAMPLES, size)):
        own = loss + weight * float(slopes[i]) / float(counts[i]) if float(counts[i]) else math.nan
        label = float(labels[i]) if labels.shape == (size,) else None
        found.append(Example(label, own, float(counts[i]) * float(weights[i])))
    return tuple(found)


def _activations(problem: Problem) -> tuple[tuple[taps.Tap, ...], tuple[Activation, ...]]:
    """Every tapped array, and dL/d(array), which is the gradient of a zero that is added to the array."""
    if problem.recipe.gradient is not None:
        return (), ()
    with layers_apart():  # in a scan, no activation of a layer is outside
        tapped, traced = taps.find(problem.loss, problem.trained)
    places = [] if problem.recipe.accumulate > 1 else outside_loops(traced)
    zeros = [jnp.zeros(place.outvars[0].aval.shape, place.outvars[0].aval.dtype) for place in places]
    followed = {id(place) for place in places}

    def perturbed(added: Sequence[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        seen = []

        def pass_on(equation: Any, args: list[Any]) -> Any:
            if id(equation) not in followed:
                return evaluate.bind(equation, args)
            seen.append(args[0])
            return [args[0] + added[len(seen) - 1]]

        leaves = jax.tree.leaves(problem.trained)
        loss = evaluate.evaluate(traced, leaves, {walk.VJP_RULE: pass_on})[0]
        return loss, seen

    if not places:
        return tapped, (Activation(),) * len(tapped)
    grads, values = jax.device_get(jax.jit(jax.grad(perturbed, has_aux=True))(zeros))
    used: dict[str | None, list[tuple[np.ndarray, np.ndarray]]] = {}
    for place, value, grad in zip(places, values, grads, strict=True):
        used.setdefault(taps.name_of(place), []).append((value, grad))
    return tapped, tuple(Activation(*zip(*used.get(tap.name, ()), strict=True)) for tap in tapped)


# -- what is shown ----------------------------------------------------------------------------------


def _layers(plain: ByHand, measured: Measurements, weights: Any) -> tuple[Layer, ...]:
    columns = measured.taps
    if columns is None or not plain.tapped:
        return ()
    rows, at = [], 0
    for tap, (values, _) in zip(plain.tapped, plain.activations, strict=True):
        wide = _entries([_counted(value, weights) for value in values])
        mean, std = (float(wide.mean()), float(wide.std())) if wide.size else (None, None)
        for label in tap.labels:
            rows.append(
                Layer(
                    label, tap.kind, tuple(value.shape for value in values), mean, std, float(columns.rms[at]),
                    _known(columns.dead[at]), _known(columns.saturated[at]), float(columns.grad_rms[at]), None,
                )
            )  # fmt: skip
            at += 1
    later = [row.grad_rms for row in rows[1:]]
    return tuple(
        row._replace(ratio=row.grad_rms / after if after else None)
        for row, after in zip(rows, [*later, None], strict=True)
    )


def _entries(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """All entries of some arrays, float64 `[n]`."""
    return np.concatenate([np.zeros(0), *(np.ravel(array).astype(np.float64) for array in arrays)])


def _counted(value: np.ndarray, weights: Any) -> np.ndarray:
    """The rows of an activation that are no padding."""
    return value if weights is None or value.shape[:1] != weights.shape else value[np.asarray(weights) != 0]


def _parameters(plain: ByHand, before: PyTree) -> tuple[Parameter, ...]:
    rows = zip(
        trees.leaf_paths(before), *(jax.tree.leaves(x) for x in (before, plain.grads, plain.updates)), strict=True
    )
    found = []
    for path, leaf, grad, update in rows:
        norm, change = _norm(leaf), _norm(update)
        rms = _norm(grad) / max(leaf.size, 1) ** 0.5
        found.append(Parameter(path, leaf.shape, norm, _norm(grad), rms, change, change / norm if norm else math.inf))
    return tuple(found)


def _clip(plain: ByHand, moves: list[bool]) -> Clip:
    return Clip(*(_norm(split(tree, moves)) for tree in (plain.grads, plain.clipped)))


def _follow(plain: ByHand, before: PyTree) -> Followed:
    leaves = [np.abs(np.asarray(grad)) for grad in jax.tree.leaves(plain.grads)]
    most = max(range(len(leaves)), key=lambda i: float(leaves[i].max()) if leaves[i].size else -1.0)
    place = tuple(int(i) for i in np.unravel_index(int(leaves[most].argmax()), leaves[most].shape))
    entries = (
        jax.tree.leaves(x)[most][place] for x in (before, plain.grads, plain.clipped, plain.updates, plain.params)
    )
    numbers = [float(x) for x in entries]
    return Followed(trees.leaf_paths(before)[most], place, *numbers)


def _known(value: Any) -> float | None:
    return None if math.isnan(float(value)) else float(value)


def _norm(tree: PyTree) -> float:
    squares = (float(np.sum(np.square(np.asarray(leaf, np.float64)))) for leaf in jax.tree.leaves(tree))
    return math.sqrt(sum(squares))


# -- the check --------------------------------------------------------------------------------------


def _checks(
    plain: ByHand, problem: Problem, before: PyTree, after: PyTree, m: Measurements, tolerance: float, taken: bool
) -> tuple[Check, ...]:
    moves = problem.influence.counted
    names, owner = trees.layer_names(before)
    found = [("loss", plain.loss, m.loss), ("sum of weights", plain.weight, m.weight)]
    grads, params = split(plain.grads, moves), split(plain.params, moves)  # without the frozen ones, as in the record
    found += [("gradient norm", _norm(grads), m.grad_norm), ("update norm", _norm(plain.updates), m.update_norm)]
    if not math.isnan(float(m.clipped_norm)):
        found.append(("clipped gradient norm", _norm(plain.clipped), m.clipped_norm))
    found.append(("new parameters' norm", _norm(params), m.param_norm))
    columns = {"gradient norm": (plain.grads, m.layers.grad_norm), "update norm": (plain.updates, m.layers.update_norm)}
    for what, (tree, theirs) in columns.items():
        leaves = jax.tree.leaves(tree)
        for i, name in enumerate(names):
            if name not in m.layout.layers:
                continue  # frozen, or stacked layers of a scan, which have rows of their own
            own = _norm([leaf for leaf, layer in zip(leaves, owner, strict=True) if layer == i])
            found.append((f"{what} of {name}", own, theirs[m.layout.layers.index(name)]))
    weights = row_weights(problem.batch)
    if weights is None or bool(jnp.all(weights != 0)):  # a plain loss function's taps measure padding, too
        found += _tap_figures(plain, m)
    if not taken:
        found = [row for row in found if "update" not in row[0] and "parameters" not in row[0]]
    # A layer's gradient may be pure rounding error, and an optimizer that normalizes it makes a large update of that.
    floor = {"gradient norm": _norm(grads), "update norm": _norm(plain.updates)}
    checks = [
        _compare(name, here, float(step), tolerance, floor.get(name.split(" of ")[0], 0.0))
        for name, here, step in found
    ]
    return (*checks, _new_params(plain, before, after, tolerance)) if taken else tuple(checks)


def _tap_figures(plain: ByHand, m: Measurements) -> list[tuple[str, float, Any]]:
    found: list[tuple[str, float, Any]] = []
    at = 0
    if m.taps is None:
        return found
    for tap, (values, grads) in zip(plain.tapped, plain.activations, strict=True):
        size = sum(value.size for value in values)
        if size:
            found.append((f"activation RMS at {tap.name}", _norm(values) / size**0.5, m.taps.rms[at]))
            found.append((f"gradient RMS at {tap.name}", _norm(grads) / size**0.5, m.taps.grad_rms[at]))
        at += len(tap.labels)
    return found


def _compare(name: str, here: float, step: float, tolerance: float, floor: float) -> Check:
    largest = max(abs(here), abs(step), tolerance * floor)
    difference = abs(here - step) / largest if largest else 0.0
    return Check(name, here, step, difference, difference <= tolerance)


def _new_params(plain: ByHand, before: PyTree, after: PyTree, tolerance: float) -> Check:
    """Compares new parameters entry by entry, relative to the update, where the gradient exceeds rounding errors."""
    worst, here, step = 0.0, 0.0, 0.0
    trees_ = (before, plain.grads, plain.params, after)
    for old, grad, own, theirs in zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in trees_), strict=True):
        size = np.sqrt(np.mean(np.square(grad, dtype=np.float64))) if grad.size else 0.0
        counts = np.abs(grad) > tolerance * size
        # Two correct sums may differ by one unit in the last place of the parameter.
        if old.dtype == jnp.bfloat16:
            old, theirs = old.astype(np.float64), theirs.astype(np.float64)
            room: Any = np.abs(old) * float(jnp.finfo(jnp.bfloat16).eps)
        else:
            room = np.spacing(np.abs(old).astype(old.dtype)).astype(np.float64)
        change = float(np.abs(own.astype(np.float64) - old).max(initial=0.0))
        apart = np.where(counts, np.maximum(np.abs(own.astype(np.float64) - theirs) - room, 0), 0)
        if change and apart.size and float(apart.max()) / change > worst:
            at = int(apart.argmax())
            worst, here, step = float(apart.max()) / change, float(own.ravel()[at]), float(theirs.ravel()[at])
    return Check("new parameters, entry by entry", here, step, worst, worst <= tolerance)
