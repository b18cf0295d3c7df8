"""Copies between host and device: bandwidth of large arrays, latency of a single value."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from jaxprop.bench.rounds import Job, Prepared

SIZES = {"4 B": 4, "1 MiB": 1 << 20, "64 MiB": 1 << 26, "256 MiB": 1 << 28}
SETS = 2  # arrays that are copied in turn
NOTHING = "the device uses the host's memory, so nothing is copied"


def jobs(device: jax.Device) -> Iterator[Job]:
    """Copies of one device, in both directions.

    Args:
      device: to be measured.

    Yields:
      One job a direction and size; a single value as a time, the others as a rate.
    """
    for direction, prepare in (("to the device", _to_device), ("to the host", _to_host)):
        before = None
        for label, size in SIZES.items():
            single = size == 4
            yield Job(
                "transfer", f"{direction} {label}", "us" if single else "GB/s", partial(prepare, size, device),
                better="lower" if single else "higher", per_call=1e6 if single else size / 1e9, device=device,
                follows=(f"{direction} {before}", size / SIZES[before]) if before and SIZES[before] > 4 else None,
                facts={"direction": direction, "bytes": size},
            )  # fmt: skip
            before = label


def _host_arrays(size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(-(2**31), 2**31, size // 4, dtype=np.int32) for _ in range(SETS)]


def _to_device(size: int, device: jax.Device) -> Prepared:
    arrays = _host_arrays(size)
    moved = jax.block_until_ready(jax.device_put(arrays[0], device))
    if size > 4 and moved.unsafe_buffer_pointer() == arrays[0].ctypes.data:
        raise NotImplementedError(NOTHING)

    def call(i: int) -> jax.Array:
        return jax.block_until_ready(jax.device_put(arrays[i % SETS], device))

    return Prepared(call, lambda found: "" if np.array_equal(np.asarray(found), arrays[0]) else "values differ")


def _to_host(size: int, device: jax.Device) -> Prepared:
    expected = _host_arrays(size)
    # A copy, since the device may use the memory of an array that it is given.
    arrays = [jax.block_until_ready(jax.numpy.copy(jax.device_put(x, device))) for x in expected]

    def call(i: int) -> np.ndarray:
        x = arrays[i % SETS]
        # A new array object of the same buffer: one that was fetched keeps its values on the host.
        fresh = jax.make_array_from_single_device_arrays(x.shape, x.sharding, [x])
        return np.asarray(fresh)

    if size > 4 and call(0).ctypes.data == arrays[0].unsafe_buffer_pointer():
        raise NotImplementedError(NOTHING)
    return Prepared(call, lambda found: "" if np.array_equal(found, expected[0]) else "values differ")
