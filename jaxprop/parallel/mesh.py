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
