"""Pytrees: leaf paths, layers, norms, casts and counts. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxprop.types import PyTree


def leaf_paths(tree: PyTree) -> list[str]:
    """Returns the path of every leaf, joined by `/`, in `jax.tree.leaves` order.

    Args:
      tree: any pytree.

    Returns:
      One string a leaf; the leaf of a bare array is called `params`.

    Example:
      >>> leaf_paths({"dense": {"bias": 1, "kernel": 2}, "scale": 3})
      ['dense/bias', 'dense/kernel', 'scale']
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return ["/".join(_key_name(k) for k in path) or "params" for path, _ in flat]


def _key_name(key: object) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def layer_names(tree: PyTree) -> tuple[list[str], list[int]]:
    """Groups leaves into layers: a layer is the node that holds the leaf, `head` for `head/kernel`.

    A leaf at the root of the tree is a layer by itself.

    Args:
      tree: the parameters, any pytree.

    Returns:
      The names of the L layers in the order of their first leaf, and for every leaf its layer's row.

    Example:
      >>> layer_names({"dense": {"bias": 1, "kernel": 2}, "scale": 3})
      (['dense', 'scale'], [0, 0, 1])
    """
    owners = [path.rpartition("/")[0] or path for path in leaf_paths(tree)]
    names = list(dict.fromkeys(owners))
    row = {name: i for i, name in enumerate(names)}
    return names, [row[owner] for owner in owners]


def count(tree: PyTree) -> int:
    """Returns the number of scalars in a pytree of arrays.

    Example:
      >>> count({"w": jnp.zeros((3, 4)), "b": jnp.zeros(4)})
      16
    """
    return sum(int(jnp.size(leaf)) for leaf in jax.tree.leaves(tree))


def size_bytes(tree: PyTree) -> int:
    """Returns the bytes that the arrays of a pytree take.

    Example:
      >>> size_bytes({"w": jnp.zeros((3, 4), jnp.float32)})
      48
    """
    return sum(int(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def cast_floating(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Casts the floating-point leaves of a pytree and leaves the others as they are.

    Args:
      tree: any pytree of arrays.
      dtype: the floating dtype to cast to.

    Returns:
      The same structure.

    Example:
      >>> out = cast_floating({"x": jnp.zeros(2), "label": jnp.zeros(2, jnp.int32)}, jnp.bfloat16)
      >>> out["x"].dtype.name, out["label"].dtype.name
      ('bfloat16', 'int32')
    """

    def cast(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


KEPT = ("labels", "targets", "mask", "weight")


def cast_inputs(batch: PyTree, dtype: DTypeLike) -> PyTree:
    """Casts the floating-point leaves of a batch, but for what is only compared or counted: `KEPT`.

    In bfloat16 a target of 1001 would become 1000, and so would a sum of weights.

    Args:
      batch: any pytree of arrays with a leading axis B.
      dtype: the compute dtype.

    Returns:
      The same structure.

    Example:
      >>> out = cast_inputs({"inputs": jnp.zeros(2), "weight": jnp.ones(2)}, jnp.bfloat16)
      >>> out["inputs"].dtype.name, out["weight"].dtype.name
      ('bfloat16', 'float32')
    """

    def cast(path: tuple, leaf: jax.Array) -> jax.Array:
        return leaf if path and _key_name(path[0]) in KEPT else cast_floating(leaf, dtype)

    return jax.tree_util.tree_map_with_path(cast, batch)


def select(pred: jax.Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Chooses one of two pytrees leaf by leaf: a select, since 0 x NaN is NaN.

    Args:
      pred: boolean scalar.
      on_true, on_false: pytrees of one structure, shapes and dtypes.

    Returns:
      `on_true` where `pred`, else `on_false`, bit for bit.

    Example:
      >>> select(jnp.array(False), {"w": jnp.array(jnp.nan)}, {"w": jnp.array(1.0)})["w"].item()
      1.0
    """
    return jax.tree.map(lambda t, f: jax.lax.select(pred, t, f), on_true, on_false)


def square_sums(tree: PyTree, rows: list[int], layers: int) -> jax.Array:
    """Sums the squares of all leaves of each layer, accumulated in float32.

    s_l = sum over the leaves i of layer l of ||x_i||_2^2

    Args:
      tree: pytree of floating-point arrays.
      rows: for every leaf its layer, as `layer_names` returns.
      layers: number of layers, L.

    Returns:
      float32 `[L]`.

    Example:
      >>> square_sums({"dense": {"bias": jnp.ones(2), "kernel": jnp.ones((2, 3))}}, [0, 0], 1).tolist()
      [8.0]
    """
    sums: list[jax.Array | None] = [None] * layers
    for leaf, row in zip(jax.tree.leaves(tree), rows, strict=True):
        total = jnp.sum(jnp.square(leaf.astype(jnp.float32)))
        held = sums[row]
        sums[row] = total if held is None else held + total
    return jnp.stack([jnp.float32(0) if total is None else total for total in sums])
