"""The backward pass: loss, gradient and taps of a whole batch, scaled, accumulated, unscaled. Pure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxprop.core import layers, taps, trees
from jaxprop.core.measurements import OUTPUT_SIGNALS
from jaxprop.core.placing import scattered
from jaxprop.core.precision import wide
from jaxprop.core.taps import Tap
from jaxprop.errors import ShapeError
from jaxprop.train.spread import PARTS, spread
from jaxprop.types import Batch, Objective, PyTree, Sums

# Names under which a batch holds what a loss may weigh or leave out examples by.
WEIGHTS = frozenset(
    {
        "mask",
        "masks",
        "weight",
        "weights",
        "sample_weight",
        "loss_mask",
        "loss_weights",
        "attention_mask",
        "padding_mask",
    }
)


class Forward(NamedTuple):
    """What the forward pass leaves besides gradients: mean loss, its weight, new extras, metric sums."""

    loss: jax.Array
    weight: jax.Array
    extras: PyTree
    sums: Sums


class Backward(NamedTuple):
    """What the backward pass leaves.

    Args:
      params: gradient of the mean loss.
      collectors: what the taps collected, as gradients of their collectors.
      micro_square: mean of the microbatches' squared gradient norms, weighted like the loss; 0 where it was not
        asked for.
    """

    params: PyTree
    collectors: PyTree
    micro_square: jax.Array


def value_and_grad(
    objective: Objective,
    policy: Any,
    accumulate: int,
    scale: jax.Array | None,
    params: PyTree,
    extras: PyTree,
    batch: Batch,
    key: jax.Array,
    tapped: Sequence[Tap] = (),
    noise: bool = False,
    transform: Callable[..., Any] | None = None,
    over: Mesh | None = None,
) -> tuple[Forward, Backward]:
    """Loss and gradient of the whole batch: scaled, accumulated over microbatches, unscaled.

    With the mean loss l_k and the weight W_k of microbatch k,

        L = sum_k W_k l_k / sum_k W_k,   g = sum_k W_k dl_k/dparams / sum_k W_k

    which is the whole batch's mean whatever the masks; the mean of the means is not.

    Args:
      objective: what is differentiated.
      policy: dtypes to compute in.
      accumulate: number of microbatches.
      scale: loss scale, or None.
      params, extras, batch, key: what it is differentiated at.
      tapped: taps to measure, as `taps.find` found them.
      noise: add up the microbatches' squared gradient norms.
      transform: in place of `jax.value_and_grad`, see `make_train_step`; it measures no taps.
      over: devices whose number is not to change a bit; see `spread`.

    Returns:
      Mean loss and metrics; gradients and what the taps measured.
    """

    def scaled_loss(params, collectors, extras, batch, key):
        with taps.filling(collectors):
            loss, (weight, extras, sums) = objective.mean_loss(params, extras, batch, key, policy)
        if accumulate > 1 and isinstance(weight, np.generic):
            tell_unweighted(lambda batch: objective.mean_loss(params, extras, batch, key, policy)[0], batch, accumulate)
        scaled = loss if scale is None else loss * scale.astype(loss.dtype)
        return scaled, Forward(loss, jnp.asarray(weight), extras, jax.tree.map(jnp.asarray, sums))

    def differentiate(params: PyTree, collectors: PyTree, extras: PyTree, batch: Batch, key: jax.Array) -> Any:
        if transform is None:
            differentiated = jax.grad(scaled_loss, argnums=(0, 1), has_aux=True)
            (grads, filled), forward = differentiated(params, collectors, extras, batch, key)
            return (scattered(grads), filled), forward

        def loss(params: PyTree, batch: Batch, key: jax.Array) -> Any:
            return scaled_loss(params, collectors, extras, batch, key)

        (_, forward), grads = transform(loss)(params, batch, key)
        return (scattered(grads), collectors), forward

    collectors = taps.zero_collectors(tapped)
    if accumulate == 1 and over is None:
        (grads, collectors), forward = differentiate(params, collectors, extras, batch, key)
        collectors = collectors if scale is None else taps.rescaled(collectors, 1 / scale)
        return forward, Backward(divide(grads, scale), collectors, jnp.float32(0))

    def weighted(params, extras, batch, key):
        (grads, filled), forward = differentiate(params, collectors, extras, batch, key)
        square = jnp.square(layers.norm(grads)) if noise else jnp.float32(0)
        loss, square, *grads = weigh([forward.loss, square, *jax.tree.leaves(grads)], forward.weight)
        filled = taps.rescaled(filled, forward.weight)
        filled = jax.tree.map(lambda x: jnp.where(forward.weight != 0, x, 0), filled)
        grads = jax.tree.unflatten(jax.tree.structure(params), grads)
        return Backward(grads, filled, square.astype(jnp.float32)), forward._replace(loss=loss)

    if over is None:
        found = summed(partial(weighted, params), extras, microbatches(batch, accumulate), key)
    else:
        found = _spread(over, weighted, params, extras, batch, key, accumulate)
    forward, back = divided(found, scale)
    return forward, back._replace(params=jax.tree.map(lambda g, p: g.astype(p.dtype), back.params, params))


class Summed(NamedTuple):
    """Sums over microbatches: of losses and gradients times the weights, and whether any weight was not 0."""

    back: Backward
    forward: Forward
    some: jax.Array


def summed(weighted: Callable, extras: PyTree, batches: Batch, key: jax.Array) -> Summed:
    """Sums weighted gradients and losses over microbatches, one at a time in memory; extras go from one to the next."""

    def add(carry: Summed, batch_and_k: tuple[Batch, jax.Array]) -> tuple[Summed, None]:
        batch, k = batch_and_k
        back, forward = weighted(carry.forward.extras, batch, jax.random.fold_in(key, k))
        total = joined(carry, Summed(back, forward, forward.weight != 0))
        return total._replace(forward=total.forward._replace(extras=forward.extras)), None

    count = jax.tree.leaves(batches)[0].shape[0]
    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(weighted, extras, first, key)
    back, forward = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    start = Summed(back, forward._replace(extras=extras), jnp.array(False))
    return jax.lax.scan(add, start, (batches, jnp.arange(count, dtype=jnp.int32)))[0]


def joined(one: Summed, other: Summed) -> Summed:
    """Adds up two sums; of floats among the extras, too, while other extras are those of the first."""
    sums = {name: combine(name, pair, other.forward.sums[name]) for name, pair in one.forward.sums.items()}
    extras = jax.tree.map(
        lambda a, b: a + b if jnp.issubdtype(a.dtype, jnp.floating) else a, one.forward.extras, other.forward.extras
    )
    loss, weight = one.forward.loss + other.forward.loss, one.forward.weight + other.forward.weight
    params, square = jax.tree.map(
        jnp.add, (one.back.params, one.back.micro_square), (other.back.params, other.back.micro_square)
    )
    back = Backward(params, taps.merged(one.back.collectors, other.back.collectors), square)
    return Summed(back, Forward(loss, weight, extras, sums), one.some | other.some)


def _spread(
    over: Mesh, weighted: Callable, params: PyTree, extras: PyTree, batch: Batch, key: jax.Array, accumulate: int
) -> Summed:
    """The same sums of parts of the batch, whose order does not depend on the number of devices."""

    def part(common: tuple[PyTree, PyTree], batch: Batch, key: jax.Array) -> Summed:
        params, extras = common
        return summed(partial(weighted, params), extras, microbatches(batch, accumulate), key)

    found = spread(over, part, joined, (params, extras), batch, key)
    return found._replace(forward=found.forward._replace(extras=_shared(found.forward.extras)))


def _shared(extras: PyTree) -> PyTree:
    """The mean of the parts' floats, such as batch statistics, of which there is the sum."""
    return jax.tree.map(lambda x: x / PARTS if jnp.issubdtype(x.dtype, jnp.floating) else x, extras)


def divided(found: Summed, scale: Any) -> tuple[Forward, Backward]:
    """The means that the sums are of: divided by the weight, and by the loss scale."""
    back, total = found.back, found.forward
    # Padding alone leaves 0; weights of both signs that cancel have no mean.
    nothing = jnp.where(found.some, jnp.nan, 1).astype(total.weight.dtype)
    weight = jnp.where(total.weight != 0, total.weight, nothing)
    divisor = weight if scale is None else weight * scale
    mean_square = back.micro_square / (weight if scale is None else weight * jnp.square(scale))
    back = Backward(divide(back.params, divisor), taps.rescaled(back.collectors, 1 / divisor), mean_square)
    return total._replace(loss=total.loss / weight.astype(total.loss.dtype)), back


def combine(name: str, total: Any, new: Any) -> Any:
    """Joins a metric of microbatches: sums add up; of the largest output the larger one is kept."""
    if name == OUTPUT_SIGNALS[0]:
        return jnp.maximum(total[0], new[0]), jnp.maximum(total[1], new[1])
    return jax.tree.map(jnp.add, total, new)


def weigh(values: list[jax.Array], weight: jax.Array) -> list[jax.Array]:
    """Multiplies by a microbatch's weight, in float32 or wider; all padding leaves nothing, even of NaN."""
    return [jnp.where(weight != 0, _times(x, weight), 0) for x in values]


def microbatches(batch: Batch, count: int) -> Batch:
    """Splits `[B, ...]` into `[count, B / count, ...]`, microbatch k taking the rows k, k + count, ...

    Strided rows, so that a batch sharded over devices stays where it is.
    """
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)


def divide(grads: PyTree, divisor: jax.Array | None) -> PyTree:
    """Divides every leaf by a scalar; by nothing where it is None."""
    if divisor is None:
        return grads

    def quotient(g: jax.Array) -> jax.Array:
        x = g if jnp.iscomplexobj(g) else wide(g)
        return (x / divisor.astype(x.dtype)).astype(g.dtype)

    return jax.tree.map(quotient, grads)


def multiply(grads: PyTree, factor: jax.Array | None) -> PyTree:
    """Multiplies every leaf by a scalar; by nothing where it is None."""
    return grads if factor is None else jax.tree.map(lambda g: _times(g, factor).astype(g.dtype), grads)


def _times(x: jax.Array, factor: jax.Array) -> jax.Array:
    x = x if jnp.iscomplexobj(x) else wide(x)
    return x * factor.astype(x.dtype)


def tell_unweighted(loss: Callable[[Batch], jax.Array], batch: Batch, accumulate: int) -> None:
    """Warns where a loss gives microbatches no weight, but computes with what a mean is often taken by."""
    leaves, structure = jax.tree.flatten(batch)

    def is_used(i: int) -> bool:
        traced = jax.make_jaxpr(lambda x: loss(jax.tree.unflatten(structure, [*leaves[:i], x, *leaves[i + 1 :]])))
        jaxpr = traced(leaves[i]).jaxpr
        return any(atom is jaxpr.invars[0] for equation in jaxpr.eqns for atom in equation.invars)

    for i, path in enumerate(trees.leaf_paths(batch)):
        if path.split("/")[-1] in WEIGHTS and is_used(i):
            warnings.warn(
                f"accumulate={accumulate} weighs all microbatches alike, since loss_fn returns no weight, but it uses "
                f'the batch\'s {path}; return (loss, {{"weight": w}}), where w is the sum of what the mean is taken '
                "by, or 1.0 if it is taken over all examples",
                stacklevel=2,
            )
            return


def check_batch(batch: Batch, accumulate: int) -> None:
    """Raises ShapeError, while tracing, where the batch cannot be split into microbatches as asked.

    With a single one nothing is split, and a batch may be anything: a graph, a scalar, nothing at all.
    """
    if accumulate == 1:
        return
    paths = dict(zip(trees.leaf_paths(batch), jax.tree.leaves(batch), strict=True))
    sizes = {path: jnp.shape(leaf)[:1] for path, leaf in paths.items()}
    if not sizes or len(set(sizes.values())) > 1 or () in sizes.values():
        found = ", ".join(f"{path} {jnp.shape(leaf)}" for path, leaf in paths.items()) or "no array"
        raise ShapeError(
            f"accumulate={accumulate} splits the batch along the first axis of its arrays, so they have to share it; "
            f"got {found}"
        )
    size = next(iter(sizes.values()))[0]
    if size % accumulate:
        raise ShapeError(
            f"expected a batch size that is a multiple of accumulate={accumulate}, got {size}; "
            f"use a batch of {-(-size // accumulate) * accumulate}"
        )
