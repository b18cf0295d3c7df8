"""Copies of a state that a save can read while training goes on and writes the state over.

Where arrays lie in the host's memory, as on CPU, they are copied into buffers that are kept from one save to the next:
the kernel fills every page of a new buffer with zeros when it is first touched, which takes several times as long as
the copy. A view would cost nothing at first, but a buffer that is looked at cannot be donated, so that the next step
would have to find new memory for the whole state.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

KEPT_SHARE = 0.25  # of the machine's memory, that buffers may take between two saves
_ALIGNED = 64  # bytes; what jax asks of memory that it takes as it is
_UNKNOWN_MEMORY = 2**33


class Copies:
    """Takes copies of arrays; those of one time last until the next.

    Example:
      >>> import jax.numpy as jnp
      >>> copies, x = Copies(), jnp.arange(3.0)
      >>> taken, own = copies.take({"x": x})
      >>> _ = jax.jit(lambda x: x + 1, donate_argnums=0)(x)
      >>> taken["x"].tolist(), own
      ([0.0, 1.0, 2.0], True)
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, int], np.ndarray] = {}

    def take(self, arrays: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Returns copies of arrays that lie in this process's own memory, and the others as they are.

        Args:
          arrays: by their names, NumPy and JAX arrays of any shape and dtype but keys. Those of NumPy are taken for the
            save's own. The copies of the last time must not be in use any more.

        Returns:
          The arrays by their names; and whether none of them is the state's own, so that it may be changed at once.
        """
        shared = {name: x for name, x in arrays.items() if isinstance(x, jax.Array) and _is_in_a_usual_place(x)}
        copied = self._copy_on_host(shared)
        if sum(buffer.nbytes for buffer in self._buffers.values()) > KEPT_SHARE * _memory():
            self._buffers.clear()  # the copies hold what they need of them
        own = all(name in copied or not isinstance(x, jax.Array) for name, x in arrays.items())
        return {**arrays, **copied}, own

    def _copy_on_host(self, arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The same arrays, of the same sharding, with the shards of this process in buffers of our own."""
        buffers, devices = [], []
        for name, array in arrays.items():
            for i, shard in enumerate(array.addressable_shards):
                buffers.append(self._filled((name, i), np.asarray(shard.data)))
                devices.append(shard.device)
        shards = iter(jax.device_put(buffers, devices))  # one call: each has a cost of its own
        copied = {}
        for name, array in arrays.items():
            own = list(itertools.islice(shards, len(array.addressable_shards)))
            single = isinstance(array.sharding, SingleDeviceSharding)
            copied[name] = own[0] if single else _assembled(array, own)
        return copied

    def _filled(self, place: tuple[str, int], values: np.ndarray) -> np.ndarray:
        buffer = self._buffers.get(place)
        if buffer is None or buffer.shape != values.shape or buffer.dtype != values.dtype:
            buffer = self._buffers[place] = _aligned(values.shape, values.dtype)
        np.copyto(buffer, values)
        return buffer


def _assembled(array: jax.Array, shards: list[jax.Array]) -> jax.Array:
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of no particular values that jax takes without another copy."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    room = np.empty(size + _ALIGNED, np.uint8)
    start = -room.ctypes.data % _ALIGNED
    return room[start : start + size].view(dtype).reshape(shape)


def _is_in_a_usual_place(array: jax.Array) -> bool:
    """Whether an array lies in this one process's own memory, where a CPU computes with it."""
    on_cpu = all(device.platform == "cpu" for device in array.devices())
    device: Any = next(iter(array.sharding.device_set))
    usual = array.sharding.memory_kind in (None, device.default_memory().kind)
    return on_cpu and usual and jax.process_count() == 1


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else _UNKNOWN_MEMORY
