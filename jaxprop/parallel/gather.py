"""Arrays that lie on several processes, as every one of them can read them."""

from __future__ import annotations

import jax
from jax.experimental import multihost_utils

from jaxprop.types import PyTree


def gathered(tree: PyTree) -> PyTree:
    """Returns a pytree whose every array this process can read whole; all processes must call it together.

    Args:
      tree: arrays, some of which may lie on the devices of other processes in parts.

    Returns:
      The same tree; such arrays as NumPy arrays, the others as they are.

    Example:
      >>> gathered({"w": 1.0})
      {'w': 1.0}
    """
    return jax.tree.map(_whole, tree)


def _whole(leaf: PyTree) -> PyTree:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    return multihost_utils.process_allgather(leaf, tiled=True)
