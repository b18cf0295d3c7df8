"""A gradient with the same bits on several numbers of devices: of the same parts, added up in one order. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxprop.core.placing import placing
from jaxprop.errors import ShapeError, UsageError
from jaxprop.parallel.mesh import DATA_AXIS
from jaxprop.types import Batch, PyTree

PARTS = 8


def spread(
    mesh: Mesh,
    function: Callable[[PyTree, Batch, jax.Array], PyTree],
    join: Callable[[PyTree, PyTree], PyTree],
    common: PyTree,
    batch: Batch,
    key: jax.Array,
) -> PyTree:
    """Returns what a function gives for each of 8 parts of a batch, joined in pairs, on every device.

        f = ((f_0 + f_1) + (f_2 + f_3)) + ((f_4 + f_5) + (f_6 + f_7))

    Each device takes its parts one after the other, in the same program whatever their number, and hands the values to
    all the others, which join them in this order. So every bit is the same on 2, 4 and 8 devices of a kind, and takes
    memory for 8 of the values. On one, XLA compiles by other passes, after which it may turn a division of all elements
    of a row by one number into a product, or not: the built-in models multiply by the reciprocal (`attention.softmax`).

    Args:
      mesh: from `make_mesh`, of the axis `data` alone.
      function: `(common, part, key) -> values`, of the part `[B / 8, ...]` of the batch.
      join: of two such values.
      common: what is the same for all parts.
      batch: `[B, ...]`.
      key: of the step; each part has one of its own.

    Raises:
      UsageError: the mesh has other axes, or a number of devices that does not divide 8.
      ShapeError: B is no multiple of 8.

    Example:
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> spread(make_mesh(1), lambda _, x, key: x.sum(), jnp.add, (), jnp.arange(16), jax.random.key(0)).item()
      120
    """
    _check(mesh, batch)
    here = PARTS // mesh.shape[DATA_AXIS]

    def local(common: PyTree, batch: Batch, key: jax.Array) -> PyTree:
        whole = lax.all_gather(batch, DATA_AXIS, tiled=True)
        parts = jax.tree.map(lambda x: x.reshape(PARTS, x.shape[0] // PARTS, *x.shape[1:]), whole)
        first = lax.axis_index(DATA_AXIS) * here

        def one(i: jax.Array) -> PyTree:
            part = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), parts)
            return function(common, part, jax.random.fold_in(key, i))

        room = jax.tree.map(lambda s: jnp.zeros((PARTS, *s.shape), s.dtype), jax.eval_shape(one, first))

        def taken(i: jax.Array, values: PyTree) -> PyTree:
            return jax.tree.map(lambda held, x: lax.dynamic_update_index_in_dim(held, x, i, 0), values, one(i))

        with placing(None):  # within a part nothing is split
            values = lax.fori_loop(first, first + _unforeseen(here, key), taken, room)
        own = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, first, here), values)
        return _by_itself(lambda: _tree(lax.all_gather(own, DATA_AXIS, tiled=True), join), key)

    split = jax.tree.map(lambda _: PartitionSpec(DATA_AXIS), batch)
    specs = (PartitionSpec(), split, PartitionSpec())
    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    return mapped(common, batch, key)


def _unforeseen(count: int, key: jax.Array) -> jax.Array:
    """A number that the compiler does not know: a loop of one or two rounds it would unroll, and compute other bits."""
    bits = lax.population_count(jax.random.key_data(key).reshape(-1)[0])
    return jnp.where(bits <= 32, jnp.int32(count), jnp.int32(0))


def _by_itself(function: Callable[[], PyTree], key: jax.Array) -> PyTree:
    """What a function returns, computed in a program of its own, which is fused with nothing that reads it.

    It leaves as flat arrays: whoever sums over an array of several axes does so in the order of its layout, which would
    otherwise be that of the product or the collective that made it.
    """
    shapes = jax.eval_shape(function)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.size, s.dtype), shapes)

    def flat(*_: Any) -> PyTree:
        return jax.tree.map(lambda x: x.reshape(-1), function())

    values = lax.fori_loop(jnp.int32(0), _unforeseen(1, key), flat, zeros)
    return jax.tree.map(lambda x, s: x.reshape(s.shape), values, shapes)


def _tree(values: PyTree, join: Callable[[PyTree, PyTree], PyTree]) -> PyTree:
    count = jax.tree.leaves(values)[0].shape[0]
    if count == 1:
        return jax.tree.map(lambda x: x[0], values)
    even, odd = (jax.tree.map(lambda x, start=start: x[start::2], values) for start in (0, 1))
    return _tree(jax.vmap(join)(even, odd), join)


def _check(mesh: Mesh, batch: Batch) -> None:
    devices = mesh.shape.get(DATA_AXIS, 0)
    if mesh.axis_names != (DATA_AXIS,) or PARTS % devices:
        sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
        raise UsageError(
            f"deterministic across devices takes a mesh of data 1, 2, 4 or 8 and no other axis, got {sizes}; without "
            "it, any mesh will do"
        )
    for leaf in jax.tree.leaves(batch):
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] % PARTS:
            raise ShapeError(
                f"deterministic across devices takes batches of a multiple of {PARTS} examples, got an array of shape "
                f"{list(jnp.shape(leaf))}"
            )
