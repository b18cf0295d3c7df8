"""The mesh of devices."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxprop.errors import UsageError

DATA_AXIS = "data"


def make_mesh(devices: int | Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of one axis, `data`, over local devices.

    Args:
      devices: the number of local devices, or the devices themselves; by default all local devices.

    Returns:
      The mesh.

    Raises:
      UsageError: the number is below 1, or above that of the local devices.

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
    # With an auto axis the compiler partitions the step; an explicit axis would make shardings part of every type.
    return Mesh(np.array(chosen), (DATA_AXIS,), axis_types=(AxisType.Auto,))
