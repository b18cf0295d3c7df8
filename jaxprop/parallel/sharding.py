"""Shardings of batches and states over a mesh."""

from __future__ import annotations

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprop.parallel.mesh import DATA_AXIS


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts the whole array on every device.

    Example:
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> replicated(make_mesh(1)).is_fully_replicated
      True
    """
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, steps_per_call: int = 1) -> NamedSharding:
    """Returns the sharding of a batch: its example axis split over `data`.

    Args:
      mesh: from `make_mesh`.
      steps_per_call: above 1 the batch has a leading axis of steps, which is not split.

    Returns:
      The sharding for every array of the batch.

    Example:
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> tuple(batch_sharding(make_mesh(1)).spec)
      ('data',)
    """
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS) if steps_per_call == 1 else PartitionSpec(None, DATA_AXIS))
