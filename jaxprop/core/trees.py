"""Pytrees: leaf paths, layers and counts. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

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


def abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    """Shape, dtype and place of an array, for another one to be put there.

    An array that is not committed follows the arrays it meets, and so shall the one in its place.

    Args:
      leaf: the array.

    Example:
      >>> abstract(jax.numpy.ones(2)).shape
      (2,)
    """
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding if leaf.committed else None)
