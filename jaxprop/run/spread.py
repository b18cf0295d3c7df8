"""Lanes that lie on several devices, each whole on one of them: their arrays are split along the lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprop.types import Batch, PyTree


class Spread:
    """Where lanes lie: the first of them on the first device, and so on, equally many on each.

    Args:
      devices: of this process.
      count: lanes, a multiple of the number of devices.

    Example:
      >>> spread = Spread(jax.devices()[:2], 4)
      >>> [spread.device(slot).id for slot in range(4)]
      [0, 0, 1, 1]
    """

    def __init__(self, devices: Sequence[jax.Device], count: int):
        assert count % len(devices) == 0, "each device has equally many lanes"
        self._devices, self._each = tuple(devices), count // len(devices)
        mesh = Mesh(np.asarray(devices, dtype=object), ("lanes",))
        self.sharding = NamedSharding(mesh, PartitionSpec("lanes"))
        self.everywhere = NamedSharding(mesh, PartitionSpec())

    def device(self, slot: int) -> jax.Device:
        """Returns the device that a lane lies on."""
        return self._devices[slot // self._each]

    def stacked(self, batches: Sequence[Batch]) -> PyTree:
        """Returns the batches of all lanes stacked, each copied to the device of its lane alone.

        Args:
          batches: one for each lane, on the host or on any device.

        Example:
          >>> Spread(jax.devices()[:2], 2).stacked([{"x": np.zeros(3)}, {"x": np.ones(3)}])["x"].shape
          (2, 3)
        """
        return jax.tree.map(self._stack, *batches)

    def _stack(self, *leaves: Any) -> jax.Array:
        parts = []
        for i, device in enumerate(self._devices):
            mine = leaves[i * self._each : (i + 1) * self._each]
            if all(isinstance(leaf, np.ndarray) for leaf in mine):
                parts.append(jax.device_put(np.stack(mine), device))
            else:
                parts.append(jnp.stack([jax.device_put(leaf, device) for leaf in mine]))
        shape = (len(leaves), *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, self.sharding, parts)
