"""Devices: one mesh with the axis `data`, the batch sharded over it, the state replicated."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxprop.errors import ShapeError, UsageError
from jaxprop.types import Batch, PyTree

DATA_AXIS = "data"


def make_mesh(devices: int | Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of one axis, `data`, over local devices.

    Args:
      devices: how many of the local devices, or which; all of them if not given.

    Returns:
      The mesh.

    Raises:
      UsageError: if more devices are asked for than there are.

    Example:
      >>> make_mesh(1).axis_names
      ('data',)

    Reference: https://docs.jax.dev/en/latest/sharded-computation.html
    """
    local: list[jax.Device] = jax.local_devices()
    chosen = local
    if isinstance(devices, int):
        if not 1 <= devices <= len(local):
            raise UsageError(
                f"expected parallel.devices between 1 and {len(local)}, the devices of this machine, got {devices}"
            )
        chosen = local[:devices]
    elif devices is not None:
        chosen = list(devices)
    # Auto axes: the compiler partitions the step; explicit axes would put shardings into every type.
    return Mesh(np.array(chosen), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts the whole array on every device.

    Example:
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
      >>> tuple(batch_sharding(make_mesh(1)).spec)
      ('data',)
    """
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS) if steps_per_call == 1 else PartitionSpec(None, DATA_AXIS))


def place_batch(batch: Batch, mesh: Mesh, steps_per_call: int = 1) -> dict[str, jax.Array]:
    """Copies a NumPy batch onto the mesh, split over its examples.

    Args:
      batch: arrays `[B, ...]`, or `[S, B, ...]` with `steps_per_call = S > 1`.
      mesh: from `make_mesh`.
      steps_per_call: as in the train step.

    Returns:
      The same batch as device arrays.

    Raises:
      ShapeError: if B is not a multiple of the number of devices.

    Example:
      >>> place_batch({"inputs": np.zeros((4, 2), np.float32)}, make_mesh(1))["inputs"].shape
      (4, 2)
    """
    axis = 0 if steps_per_call == 1 else 1
    size = next(iter(batch.values())).shape[axis]
    if size % mesh.size:
        raise ShapeError(
            f"expected a batch size that is a multiple of the {mesh.size} devices, got {size}; "
            f"set data.batch_size={-(-size // mesh.size) * mesh.size} or parallel.devices to a divisor"
        )
    return jax.device_put(dict(batch), batch_sharding(mesh, steps_per_call))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copies a pytree onto every device of the mesh.

    Example:
      >>> replicate({"w": np.zeros(2, np.float32)}, make_mesh(1))["w"].sharding.is_fully_replicated
      True
    """
    return jax.device_put(tree, replicated(mesh))
