"""Digests of arrays that do not depend on where they lie: the same on any mesh and any number of processes."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

# The finalizers of MurmurHash3 and lowbias32, one after the other; each is a bijection of 32-bit words.
_STEP, _FIRST, _SECOND = 0x9E3779B1, ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)), ((0, 0x7FEB352D), (15, 0x846CA68B))
_LAST = 16
_WORD = 2**32
_BLOCK = 1 << 16  # words at a time on the host: what is mixed stays in the cache
_SMALL = 1 << 20  # bytes below which a copy to the host is cheaper than compiling for one more shape
_PART = 1 << 22  # words of an array that are worth a thread of their own


def digest(arrays: Mapping[str, Any], threads: int = 8) -> Callable[[], dict[str, str]]:
    r"""Begins to compute a digest of the bits of each array, and of where in the array they are.

    With the bits $x_i$ of the i-th word, an odd constant $g$ and bijections $a, b$ of 32-bit words, a digest is

    $$ \Big(\sum_i a(x_i + i g) \bmod 2^{32},\ \sum_i b(a(x_i + i g)) \bmod 2^{32}\Big). $$

    A single changed word always changes both sums; any other change is missed with probability $2^{-64}$. Sums do not
    depend on the order of their terms, so each device adds up what it holds. The work is done where it costs less: on
    the host for arrays that it shares memory with and for small ones, else on the devices, compiled once a shape.

    Args:
      arrays: NumPy and JAX arrays of any shape and dtype but keys; with several processes, the same ones in each.
      threads: most that the host may use for one array.

    Returns:
      A function that waits for the digests, 16 hexadecimal digits each. The arrays may be donated before it is called.

    Example:
      >>> digest({"w": jnp.arange(3.0)})() == digest({"w": np.arange(3, dtype=np.float32)})()
      True
      >>> digest({"w": np.zeros(3)})() == digest({"w": np.array([0.0, -0.0, 0.0])})()
      False

    Reference:
      Appleby, MurmurHash3 (2011), `fmix32`; Wellons, "Prospecting for Hash Functions" (2018), `lowbias32`.
    """
    on_devices = {name: _start(array) for name, array in arrays.items() if not _is_for_host(array)}
    # A view keeps its values: a buffer that is looked at is not donated.
    on_host = {name: np.asarray(array) for name, array in arrays.items() if name not in on_devices}

    def result() -> dict[str, str]:
        sums = {name: _sum_host(array, threads) for name, array in on_host.items()}
        sums |= {name: np.asarray(array).tolist() for name, array in on_devices.items()}
        return {name: f"{a:08x}{b:08x}" for name, (a, b) in sums.items()}

    return result


def _is_for_host(array: Any) -> bool:
    if not isinstance(array, jax.Array):
        return True
    shares_memory = all(device.platform == "cpu" for device in array.devices())
    return array.is_fully_addressable and (shares_memory or array.nbytes < _SMALL)


# -- on the devices -------------------------------------------------------------------------------


def _start(array: jax.Array) -> jax.Array:
    sharding = array.sharding
    device: Any = next(iter(sharding.device_set))
    usual = device.default_memory().kind
    if sharding.memory_kind not in (None, usual):  # what lies on host memory cannot be computed with there
        array = jax.device_put(array, sharding.with_memory_kind(usual))
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return _compiled(None if mesh is None else NamedSharding(mesh, PartitionSpec()))(array)


@functools.lru_cache(maxsize=8)
def _compiled(replicated: NamedSharding | None) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(sum_on_devices, out_shardings=replicated)


def sum_on_devices(array: jax.Array) -> jax.Array:
    """Returns the two sums of an array, `uint32[2]`; without a reshape, so that the array stays as it is sharded."""
    words = _words(array)
    index, stride = jnp.zeros(array.shape, jnp.uint32), len(words)
    for axis in reversed(range(array.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * jnp.uint32(stride % _WORD)
        stride *= array.shape[axis]
    first = [_mixed(word + (index + jnp.uint32(k)) * jnp.uint32(_STEP), _FIRST) for k, word in enumerate(words)]
    second = [_folded(_mixed(mixed, _SECOND), _LAST) for mixed in first]
    return jnp.stack([sum(jnp.sum(part, dtype=jnp.uint32) for part in parts) for parts in (first, second)])


def _words(array: jax.Array) -> list[jax.Array]:
    """The bits of every element as one or more arrays of 32-bit words, the lowest first."""
    dtype = array.dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return _words(array.real) + _words(array.imag)
    bits = _bits(dtype)
    if bits < 8 and jnp.issubdtype(dtype, jnp.integer):
        return [array.astype(jnp.int32).astype(jnp.uint32) & jnp.uint32(2**bits - 1)]
    if dtype == jnp.bool_:
        return [array.astype(jnp.uint32)]
    unsigned = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{bits}"))
    if bits <= 32:
        return [unsigned.astype(jnp.uint32)]
    return [unsigned.astype(jnp.uint32), (unsigned >> 32).astype(jnp.uint32)]


def _mixed(word: jax.Array, rounds: tuple[tuple[int, int], ...]) -> jax.Array:
    for shift, factor in rounds:
        word = _folded(word, shift) * jnp.uint32(factor)
    return word


def _folded(word: jax.Array, shift: int) -> jax.Array:
    return word ^ (word >> jnp.uint32(shift)) if shift else word


def _bits(dtype: Any) -> int:
    """How many bits of an element count: fewer than it takes up for those below a byte."""
    if dtype == np.bool_:
        return 8
    return int((jnp.iinfo if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo)(dtype).bits)


# -- on the host ----------------------------------------------------------------------------------


def _sum_host(array: np.ndarray, threads: int = 8) -> tuple[int, int]:
    flat, mask = np.ascontiguousarray(array).reshape(-1), 0
    if not np.issubdtype(flat.dtype, np.complexfloating) and _bits(flat.dtype) < 8:
        mask = 2 ** _bits(flat.dtype) - 1
    flat = flat.view({1: "<u1", 2: "<u2"}.get(flat.dtype.itemsize, "<u4"))
    parts = max(1, min(os.cpu_count() or 1, math.ceil(flat.size / _PART), threads))
    edges = [flat.size * i // parts for i in range(parts + 1)]
    if parts == 1:
        return _sum_part(flat, mask, 0, flat.size)
    with ThreadPoolExecutor(parts) as pool:  # NumPy lets go of the interpreter while it computes
        sums = list(pool.map(lambda ends: _sum_part(flat, mask, *ends), itertools.pairwise(edges)))
    return sum(a for a, _ in sums) % _WORD, sum(b for _, b in sums) % _WORD


def _sum_part(flat: np.ndarray, mask: int, begin: int, end: int) -> tuple[int, int]:
    """The two sums over a range of words, a block at a time and in place."""
    size = min(_BLOCK, end - begin)
    offsets, room, spare = np.arange(size, dtype=np.uint32), np.empty(size, np.uint32), np.empty(size, np.uint32)
    offsets *= np.uint32(_STEP)
    first = second = 0
    for low in range(begin, end, _BLOCK):
        part = flat[low : min(end, low + _BLOCK)]
        part = part & part.dtype.type(mask) if mask else part
        mixed, other = room[: part.size], spare[: part.size]
        np.add(part, offsets[: part.size], out=mixed)
        mixed += np.uint32(low * _STEP % _WORD)
        _mix(mixed, other, _FIRST)
        first += int(np.add.reduce(mixed, dtype=np.uint32))
        _mix(mixed, other, _SECOND)
        _fold(mixed, other, _LAST)
        second += int(np.add.reduce(mixed, dtype=np.uint32))
    return first % _WORD, second % _WORD


def _mix(words: np.ndarray, room: np.ndarray, rounds: tuple[tuple[int, int], ...]) -> None:
    for shift, factor in rounds:
        _fold(words, room, shift)
        if factor != 1:
            words *= np.uint32(factor)


def _fold(words: np.ndarray, room: np.ndarray, shift: int) -> None:
    if shift:
        np.right_shift(words, np.uint32(shift), out=room)
        np.bitwise_xor(words, room, out=words)
