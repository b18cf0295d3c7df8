"""Placement of batches and states on a mesh, of one process or of several."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, Sharding

from jaxprop.errors import ShapeError
from jaxprop.parallel.mesh import parts
from jaxprop.parallel.sharding import batch_sharding, replicated
from jaxprop.types import Batch, PyTree


def local_rows(mesh: Mesh, size: int) -> np.ndarray | None:
    """Returns which examples of a batch the devices of this process hold; None for all of them.

    Each process reads these alone. They depend on the mesh, and the batch does not, so that it is the same batch
    whatever the number of processes.

    Args:
      mesh: from `make_mesh`.
      size: B, number of examples in the batch of all processes.

    Example:
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> local_rows(make_mesh(1), 4) is None
      True
    """
    where = batch_sharding(mesh).addressable_devices_indices_map((size,))
    held = np.zeros(size, bool)
    for rows in where.values():
        assert rows is not None
        held[rows] = True
    return None if held.all() else np.flatnonzero(held)


def place_batch(batch: Batch, mesh: Mesh, steps_per_call: int = 1) -> PyTree:
    """Copies a NumPy batch onto the mesh, split over its examples.

    Args:
      batch: arrays `[B, ...]`, or `[S, B, ...]` with `steps_per_call = S > 1`. With several processes, B counts the
        examples of this process alone: those that `local_rows` names.
      mesh: from `make_mesh`.
      steps_per_call: as in the train step.

    Returns:
      The same batch as device arrays; with several processes, the batch of all of them.

    Raises:
      ShapeError: the examples cannot be divided over the devices.

    Example:
      >>> import numpy as np
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> place_batch({"inputs": np.zeros((4, 2), np.float32)}, make_mesh(1))["inputs"].shape
      (4, 2)
    """
    axis = 0 if steps_per_call == 1 else 1
    size, count = jax.tree.leaves(batch)[0].shape[axis], parts(mesh)
    sharding = batch_sharding(mesh, steps_per_call)
    # In a batch of one example for each part; one process has them all, and does not ask for every batch.
    own = None if sharding.is_fully_addressable else local_rows(mesh, count)
    here = count if own is None else len(own)
    if size % here:
        raise ShapeError(
            f"expected a batch size that is a multiple of the {count} devices, got {size * count // here}; "
            f"set data.batch_size={-(-size // here) * count} or parallel.devices to a divisor"
        )
    if sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)
    total = size // here * count
    rows = local_rows(mesh, total)
    held = np.arange(total) if rows is None else rows

    def place(array: np.ndarray) -> jax.Array:
        shape = (*array.shape[:axis], total, *array.shape[axis + 1 :])

        def part(index: Any) -> np.ndarray:
            first, last, _ = index[axis].indices(total)
            start = int(np.searchsorted(held, first))
            return array[(slice(None),) * axis + (slice(start, start + last - first),)]

        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(place, batch)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copies a pytree onto every device of the mesh.

    Example:
      >>> import numpy as np
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> replicate({"w": np.zeros(2, np.float32)}, make_mesh(1))["w"].sharding.is_fully_replicated
      True
    """
    return place_state(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def place_state(tree: PyTree, shardings: PyTree) -> PyTree:
    """Copies a pytree to where its shardings say.

    Args:
      tree: arrays; with several processes, the same ones in each of them, or such as lie on all of them already.
      shardings: in the structure of the tree.
    """

    def place(leaf: jax.Array, sharding: Sharding) -> jax.Array:
        if isinstance(leaf, Tracer) or sharding.is_fully_addressable or not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        # An array on a device of this process alone cannot be spread over those of others; its values can.
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = np.asarray(jax.random.key_data(leaf))
            placed = jax.make_array_from_callback(data.shape, sharding, lambda index: data[index])
            return jax.random.wrap_key_data(placed, impl=str(jax.random.key_impl(leaf)))
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(place, tree, shardings)


def gathered(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Returns a pytree as NumPy arrays, whole in every process; all processes have to call it.

    Args:
      tree: arrays.
      mesh: what they lie on, or None for a single device.

    Example:
      >>> import jax.numpy as jnp
      >>> gathered({"w": jnp.ones(2)}, None)["w"].tolist()
      [1.0, 1.0]
    """
    if mesh is None or all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return jax.device_get(jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree))
