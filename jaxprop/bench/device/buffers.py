"""Random data, made on the device; and as many sets of it as no cache holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.bench.environment import last_cache_bytes, memory_limit

CACHE = 1 << 26  # bytes of the last cache where it cannot be read; the largest of today's accelerators' is 50 to 64 MiB
MOST_SETS = 64
SHARE = 4  # no more than one part in so many of a device's memory is rotated over


@partial(jax.jit, static_argnames=("shape", "dtype", "contents"))
def _make(seed: jax.Array, *, shape: tuple[int, ...], dtype: Any, contents: str) -> jax.Array:
    if contents == "zeros":
        return jnp.zeros(shape, dtype)
    # A hash of the index; `jax.random` would take longer to compile and to run than what is measured.
    x = jax.lax.iota(jnp.uint32, math.prod(shape)) * jnp.uint32(2654435761) + seed
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    x = x ^ (x >> 16)
    if jnp.issubdtype(dtype, jnp.integer):
        return (x >> 24).astype(jnp.int32).reshape(shape).astype(dtype)
    return (x.astype(jnp.float32) * 2**-31 - 1).astype(dtype).reshape(shape)


def random(shape: tuple[int, ...], dtype: Any, seed: int, device: jax.Device, contents: str = "random") -> jax.Array:
    """Random values on a device, uniform in [-1, 1); for integers, all that 8 bits hold.

    Args:
      shape: of the array.
      dtype: of the array.
      seed: another one gives other values.
      device: where they are made and kept.
      contents: `random`, or `zeros` for the contrast.

    Example:
      >>> random((2, 3), jnp.float32, 0, jax.devices("cpu")[0]).shape
      (2, 3)
    """
    at = jax.device_put(jnp.uint32(seed * 7919 + 1), device)
    return _make(at, shape=shape, dtype=jnp.dtype(dtype), contents=contents)


def sets(make: Callable[[int], Any], size: int, device: jax.Device) -> list[Any]:
    """As many sets of buffers as hold twice the last cache, so that none is found there when its turn comes again.

    Args:
      make: number of a set -> its arrays.
      size: bytes of one.
      device: its memory bounds the sets.

    Returns:
      At least one.
    """
    wanted = 2 * max(last_cache_bytes() or CACHE, CACHE)
    most = (memory_limit(device) or 1 << 32) // SHARE
    count = max(1, min(math.ceil(wanted / size), MOST_SETS, most // size))
    return [make(i) for i in range(count)]
