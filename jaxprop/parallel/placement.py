"""Placement of batches and states on a mesh."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from jaxprop.errors import ShapeError
from jaxprop.parallel.sharding import batch_sharding, replicated
from jaxprop.types import Batch, PyTree


def place_batch(batch: Batch, mesh: Mesh, steps_per_call: int = 1) -> PyTree:
    """Copies a NumPy batch onto the mesh, split over its examples.

    Args:
      batch: arrays `[B, ...]`, or `[S, B, ...]` with `steps_per_call = S > 1`.
      mesh: from `make_mesh`.
      steps_per_call: as in the train step.

    Returns:
      The same batch as device arrays.

    Raises:
      ShapeError: B is not a multiple of the number of devices.

    Example:
      >>> import numpy as np
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> place_batch({"inputs": np.zeros((4, 2), np.float32)}, make_mesh(1))["inputs"].shape
      (4, 2)
    """
    axis = 0 if steps_per_call == 1 else 1
    size = jax.tree.leaves(batch)[0].shape[axis]
    if size % mesh.size:
        raise ShapeError(
            f"expected a batch size that is a multiple of the {mesh.size} devices, got {size}; "
            f"set data.batch_size={-(-size // mesh.size) * mesh.size} or parallel.devices to a divisor"
        )
    return jax.device_put(batch, batch_sharding(mesh, steps_per_call))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copies a pytree onto every device of the mesh.

    Example:
      >>> import numpy as np
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> replicate({"w": np.zeros(2, np.float32)}, make_mesh(1))["w"].sharding.is_fully_replicated
      True
    """
    return jax.device_put(tree, replicated(mesh))
