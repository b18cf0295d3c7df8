"""Explains one training step: forward pass, loss, backward pass, clipping, update, and the loss afterwards.

Everything is computed again with plain `jax.value_and_grad` and optax, and compared with the record of the train step.
The gradient of an activation does not come from the taps: it is the gradient of a zero that is added to the activation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprop.config.schema.config import Config
from jaxprop.core import taps, trees
from jaxprop.core.jaxprs import evaluate, walk
from jaxprop.core.measurements import Measurements
from jaxprop.core.precision import needs_scaling, policy, promoting
from jaxprop.errors import UsageError
from jaxprop.run import compose
from jaxprop.train.trainable import moved, split
from jaxprop.types import Batch, Objective, PyTree, TrainState

EXAMPLES = 6  # largest number of examples shown
LATEST = 1000  # number of steps in which a learning rate above 0 is searched for


class Example(NamedTuple):
    """One example of the batch: its label if that is one number, its loss, and its weight in the batch's mean."""

    label: float | None
    loss: float
    weight: float


class Layer(NamedTuple):
    """One tapped activation; unknown values are None.

    Args:
      name, kind: name and kind of the tap.
      shape: shape of the activation, with the batch axis first; None inside a scan.
      mean, std: mean and standard deviation of its entries; None inside a scan.
      rms: root mean square of its entries.
      dead: fraction of units that are <= 0 on every example, for relu taps.
      saturated: fraction of saturated values, for tanh and sigmoid taps.
      grad_rms: root mean square of dL/d(activation).
      ratio: `grad_rms` over that of the next layer towards the loss.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    mean: float | None
    std: float | None
    rms: float
    dead: float | None
    saturated: float | None
    grad_rms: float
    ratio: float | None


class Parameter(NamedTuple):
    """One parameter: its norm, its gradient and its update."""

    path: str
    shape: tuple[int, ...]
    norm: float
    grad_norm: float
    grad_rms: float
    update_norm: float
    update_ratio: float


class Clip(NamedTuple):
    """The global gradient norm before and after clipping."""

    before: float
    after: float


class Followed(NamedTuple):
    """The weight with the largest gradient, followed through the update."""

    path: str
    place: tuple[int, ...]
    before: float
    grad: float
    clipped: float
    update: float
    after: float


class Check(NamedTuple):
    """One figure as computed here and by the train step; `difference` is relative to the larger of the two."""

    name: str
    here: float
    step: float
    difference: float
    agrees: bool


class Explanation(NamedTuple):
    """What `explain` returns.

    Args:
      ok: whether all checks agree.
      step: number of the step, from 1.
      examples: the first few examples of the batch.
      batch_size: number of examples in the batch.
      loss, weight: weighted mean of the loss over the batch, and the sum of the weights.
      layers, parameters: layers in the order of the forward pass, and parameters in the order of their paths.
      clip: gradient norms before and after clipping; None without clipping.
      learning_rate: learning rate of this step; None if the optimizer does not report it.
      followed: one weight through the update.
      expected: first-order change of the loss, g . dw.
      loss_after: loss on the same batch with the new parameters.
      tolerance: largest relative difference of a check, the square root of the compute type's epsilon.
      checks: comparisons with the train step.
      notes: differences from the run, one sentence each.
    """

    ok: bool
    step: int
    examples: tuple[Example, ...]
    batch_size: int
    loss: float
    weight: float
    layers: tuple[Layer, ...]
    parameters: tuple[Parameter, ...]
    clip: Clip | None
    learning_rate: float | None
    followed: Followed
    expected: float
    loss_after: float
    tolerance: float
    checks: tuple[Check, ...]
    notes: tuple[str, ...]


def explain(config: Config) -> Explanation:
    """Explains one training step of a configuration, without writing any file.

    Args:
      config: the configuration.

    Returns:
      The explanation of the first step whose learning rate is not 0.

    Raises:
      JaxpropError: the configuration cannot be built.
      UsageError: the loss or the gradient is not finite.

    Reference: Rumelhart, Hinton, Williams, Learning representations by back-propagating errors, Nature 323, 1986.
    """
    single, notes = _single(config)
    experiment = compose.compose(single)
    state, batch = experiment.init(single.run.seed), next(experiment.stream)
    first = next((n for n in range(LATEST) if float(experiment.optimizer.schedule(n)) > 0), 0)
    for _ in range(first):
        state, _ = experiment.step(state, batch, "lean")
        batch = next(experiment.stream)
    if first:
        notes.append(f"the schedule's rate is 0 up to step {first}, so this is step {first + 1}")
    plain = _by_hand(experiment, state, batch)
    if not (math.isfinite(plain.loss) and math.isfinite(_norm(plain.grads))):
        raise UsageError(
            "the loss or its gradient is not finite in this step, so it cannot be explained; lower optimizer.lr, "
            "or check the data"
        )
    before = jax.tree.map(np.asarray, state.params)
    moves = moved(promoting(experiment.optimizer.tx.update), plain.grads, state.opt_state, state.params)
    after, m = experiment.step(state, batch, "full")
    measured = m.host()
    tolerance = float(jnp.finfo(policy(config.precision.policy).compute).eps) ** 0.5
    checks = _checks(plain, moves, before, after, measured, tolerance)
    return Explanation(
        all(check.agrees for check in checks), first + 1, plain.examples, len(batch["weight"]), plain.loss,
        plain.weight, _layers(plain, measured), _parameters(plain, before),
        None if plain.clipped is plain.grads else _clip(plain, moves),
        _known(float(measured.learning_rate)), _follow(plain, before), plain.expected, plain.loss_after, tolerance,
        checks, tuple(notes),
    )  # fmt: skip


def _single(config: Config) -> tuple[Config, list[str]]:
    """The configuration with one device and without accumulation, and notes on what that changes."""
    notes = []
    if config.run.accumulate > 1:
        notes.append(f"run.accumulate is {config.run.accumulate}, but this step uses the batch as a whole")
    run = config.run.model_copy(update={"accumulate": 1, "steps_per_call": 1})
    parallel = config.parallel.model_copy(update={"devices": 1})
    health = config.health.model_copy(update={"layers": True, "taps": True, "curvature": False})
    return config.model_copy(update={"run": run, "parallel": parallel, "health": health}), notes


# -- the step by hand -------------------------------------------------------------------------------


class Activation(NamedTuple):
    """A tapped array and its gradient; both are None inside a scan."""

    value: np.ndarray | None
    grad: np.ndarray | None


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


def _by_hand(experiment: compose.Experiment, state: TrainState, batch: Batch) -> ByHand:
    objective, optimizer = experiment.task.objective, experiment.optimizer
    dtypes = policy(experiment.config.precision.policy)
    key = jax.random.fold_in(state.key, state.step)

    def loss_fn(params: PyTree, weight: jax.Array) -> tuple[jax.Array, Any]:
        loss, (total, *_) = objective.mean_loss(params, state.extras, {**batch, "weight": weight}, key, dtypes)
        return loss, total

    scale = state.loss_scale.scale if needs_scaling(dtypes) else 1.0
    (loss, weight), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(state.params, batch["weight"])
    if needs_scaling(dtypes):
        # Without the step's loss scale, float16 would flush gradients to zero that the step does not lose.
        grads = jax.jit(jax.grad(lambda params: loss_fn(params, batch["weight"])[0] * scale))(state.params)
        grads = jax.tree.map(lambda g: g / scale, grads)
    tapped, activations = _activations(objective, state, batch, key, dtypes)
    clipped = _clipped(optimizer.clip, grads, state.params)
    updates, _ = jax.jit(promoting(optax.with_extra_args_support(optimizer.tx).update))(
        grads, state.opt_state, state.params, value=loss
    )
    params = optax.apply_updates(state.params, updates)
    loss_after, _ = jax.jit(loss_fn)(params, batch["weight"])
    along = jax.tree.map(lambda g, u: jnp.vdot(g, u), grads, updates)
    return ByHand(
        float(loss), float(weight), _examples(loss_fn, state.params, batch, float(loss), float(weight)),
        tapped, activations, grads, clipped, updates, params, float(sum(jax.tree.leaves(along))), float(loss_after),
    )  # fmt: skip


def _clipped(clip: Any, grads: PyTree, params: PyTree) -> PyTree:
    if clip is None:
        return grads
    transformation = optax.clip_by_global_norm(clip) if isinstance(clip, float) else clip
    return transformation.update(grads, transformation.init(params), params)[0]


def _examples(loss_fn: Callable, params: PyTree, batch: Batch, loss: float, weight: float) -> tuple[Example, ...]:
    """The losses of single examples, from the derivatives of the mean with respect to their weights.

    L = sum_i w_i n_i l_i / W,   dL/dw_i = n_i (l_i - L) / W,   dW/dw_i = n_i
    """
    slopes, counts = jax.jit(jax.jacrev(loss_fn, argnums=1))(params, batch["weight"])
    labels, found = np.asarray(batch["labels"]), []
    for i in range(min(EXAMPLES, len(labels))):
        own = loss + weight * float(slopes[i]) / float(counts[i]) if float(counts[i]) else math.nan
        label = float(labels[i]) if labels.ndim == 1 else None
        found.append(Example(label, own, float(counts[i]) * float(batch["weight"][i])))
    return tuple(found)


def _activations(
    objective: Objective, state: TrainState, batch: Batch, key: jax.Array, dtypes: Any
) -> tuple[tuple[taps.Tap, ...], tuple[Activation, ...]]:
    """Every tapped array, and dL/d(array), which is the gradient of a zero that is added to the array."""

    def loss_fn(params: PyTree) -> jax.Array:
        return objective.mean_loss(params, state.extras, batch, key, dtypes)[0]

    tapped, traced = taps.find(loss_fn, state.params)
    places = [equation for equation in walk.equations(traced.jaxpr) if taps.is_tap(equation)]
    outside = {id(equation): i for i, equation in enumerate(places) if _is_outside(traced.jaxpr, equation)}
    if len(places) != len(tapped):  # several arrays share a tap's name
        return tapped, (Activation(None, None),) * len(tapped)
    avals: list[Any] = [places[i].outvars[0].aval for i in outside.values()]
    zeros = [jnp.zeros(aval.shape, aval.dtype) for aval in avals]

    def perturbed(added: Sequence[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        seen = []

        def pass_on(equation: Any, args: list[Any]) -> Any:
            if id(equation) not in outside:
                return evaluate.bind(equation, args)
            seen.append(args[0])
            return [args[0] + added[len(seen) - 1]]

        leaves = jax.tree.leaves(state.params)
        loss = evaluate.evaluate(traced, leaves, {walk.VJP_RULE: pass_on})[0]
        return loss, seen

    grads, values = jax.jit(jax.grad(perturbed, has_aux=True))(zeros)
    pairs = zip(outside.values(), values, grads, strict=True)
    known = {i: Activation(np.asarray(value), np.asarray(grad)) for i, value, grad in pairs}
    return tapped, tuple(known.get(i, Activation(None, None)) for i in range(len(tapped)))


def _is_outside(jaxpr: Any, equation: Any) -> bool:
    """Whether an equation is outside all loops and branches, so that it stands for one array."""
    loops = (outer for outer in walk.equations(jaxpr) if outer.primitive.name in ("scan", "while", "cond"))
    bodies = [body for outer in loops for body in walk.bodies(outer)]
    return not any(inner is equation for body in bodies for inner in walk.equations(body))


# -- what is shown ----------------------------------------------------------------------------------


def _layers(plain: ByHand, measured: Measurements) -> tuple[Layer, ...]:
    columns = measured.taps
    assert columns is not None
    rows, at = [], 0
    for tap, (value, _) in zip(plain.tapped, plain.activations, strict=True):
        for label in tap.labels:
            shape = None if value is None else value.shape
            wide = None if value is None else value.astype(np.float64)
            rows.append(
                Layer(
                    label, tap.kind, shape, None if wide is None else float(wide.mean()),
                    None if wide is None else float(wide.std()), float(columns.rms[at]), _known(columns.dead[at]),
                    _known(columns.saturated[at]), float(columns.grad_rms[at]), None,
                )
            )  # fmt: skip
            at += 1
    later = [row.grad_rms for row in rows[1:]]
    return tuple(
        row._replace(ratio=row.grad_rms / after if after else None)
        for row, after in zip(rows, [*later, None], strict=True)
    )


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
    plain: ByHand, moves: list[bool], before: PyTree, after: TrainState, m: Measurements, tolerance: float
) -> tuple[Check, ...]:
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
    found += _tap_figures(plain, m)
    # A layer's gradient may be pure rounding error, and an optimizer that normalizes it makes a large update of that.
    floor = {"gradient norm": _norm(grads), "update norm": _norm(plain.updates)}
    checks = [
        _compare(name, here, float(step), tolerance, floor.get(name.split(" of ")[0], 0.0))
        for name, here, step in found
    ]
    return (*checks, _new_params(plain, before, after, tolerance))


def _tap_figures(plain: ByHand, m: Measurements) -> list[tuple[str, float, Any]]:
    assert m.taps is not None
    found, at = [], 0
    for tap, (value, grad) in zip(plain.tapped, plain.activations, strict=True):
        if value is not None and grad is not None:
            size = max(value.size, 1) ** 0.5
            found.append((f"activation RMS at {tap.name}", _norm(value) / size, m.taps.rms[at]))
            found.append((f"gradient RMS at {tap.name}", _norm(grad) / size, m.taps.grad_rms[at]))
        at += len(tap.labels)
    return found


def _compare(name: str, here: float, step: float, tolerance: float, floor: float) -> Check:
    largest = max(abs(here), abs(step), tolerance * floor)
    difference = abs(here - step) / largest if largest else 0.0
    return Check(name, here, step, difference, difference <= tolerance)


def _new_params(plain: ByHand, before: PyTree, after: TrainState, tolerance: float) -> Check:
    """Compares new parameters entry by entry, relative to the update, where the gradient exceeds rounding errors."""
    worst, here, step = 0.0, 0.0, 0.0
    trees_ = (before, plain.grads, plain.params, after.params)
    for old, grad, own, theirs in zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in trees_), strict=True):
        size = np.sqrt(np.mean(np.square(grad, dtype=np.float64))) if grad.size else 0.0
        counts = np.abs(grad) > tolerance * size
        change = float(np.abs(own.astype(np.float64) - old).max(initial=0.0))
        # Two correct sums may differ by one unit in the last place of the parameter.
        room = np.spacing(np.abs(old).astype(old.dtype)).astype(np.float64)
        apart = np.where(counts, np.maximum(np.abs(own.astype(np.float64) - theirs) - room, 0), 0)
        if change and apart.size and float(apart.max()) / change > worst:
            at = int(apart.argmax())
            worst, here, step = float(apart.max()) / change, float(own.ravel()[at]), float(theirs.ravel()[at])
    return Check("new parameters, entry by entry", here, step, worst, worst <= tolerance)
