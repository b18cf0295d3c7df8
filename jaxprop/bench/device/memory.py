"""Memory bandwidth: copy, scale, add and triad over sizes, so that the steps of the caches show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.bench.device.buffers import random, sets
from jaxprop.bench.environment import memory_limit
from jaxprop.bench.rounds import Job, Prepared
from jaxprop.core.datasheet import sheet_of

SIZES = tuple((1 << 15) << (2 * i) for i in range(9))  # 32 KiB to 2 GiB, all arrays of an operation together
LOOPED = (
    1 << 26
)  # bytes; a program goes over smaller arrays as often as makes this many, so that its start does not count
CHECKED = 1 << 16  # values
FACTOR = 0.5  # of scale and triad; an argument, so that the compiler does not know it


class Operation(NamedTuple):
    """One operation on arrays of the same size, float32: one of them is written, over and over.

    Args:
      arrays: how many.
      moved: of them read or written in one turn.
      turn: (written, read, factor) -> written anew.
      expected: (first values of the written one, of the read one, turns) -> those of the written one, in float64.
    """

    arrays: int
    moved: int
    turn: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    expected: Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def _triad_after(written: np.ndarray, read: np.ndarray, turns: int) -> np.ndarray:
    return FACTOR**turns * written + read * (1 - FACTOR**turns) / (1 - FACTOR)


OPERATIONS = {
    # Behind the barrier the compiler does not see that every turn makes the same copy.
    "copy": Operation(2, 2, lambda _, x, __: jax.lax.optimization_barrier(x), lambda _, x, __: x),
    # The sign changes in every turn; a smaller factor would end in denormal numbers.
    "scale": Operation(1, 2, lambda a, _, s: a * (s - 1.5), lambda a, _, turns: a * (-1.0) ** turns),
    "add": Operation(2, 3, lambda a, x, _: a + x, lambda a, x, turns: a + turns * x),
    "triad": Operation(2, 3, lambda a, x, s: x + s * a, _triad_after),
}


def jobs(device: jax.Device) -> Iterator[Job]:
    """The operations of one device, from small to large.

    Args:
      device: to be measured.

    Yields:
      One job an operation and size; those that would take more than a quarter of the memory are left out.
    """
    sheet = sheet_of(device)
    most = (memory_limit(device) or 1 << 32) // 4
    for name, operation in OPERATIONS.items():
        before = None
        for size in SIZES:
            if size > most:
                break
            # A cache may be faster than the memory that the datasheet speaks of.
            limit = sheet.bandwidth if sheet and size >= 1 << 29 else None
            share = operation.moved / operation.arrays
            turns = max(1, LOOPED // size)
            yield Job(
                "memory", _name(name, size), "GB/s", partial(prepare, operation, size, turns, device),
                per_call=size * share * turns / 1e9, device=device, limit=limit,
                follows=(_name(name, before), 4.0) if before and before >= LOOPED else None,
                facts={"operation": name, "bytes": size, "turns": turns},
            )  # fmt: skip
            before = size


def _name(operation: str, size: int) -> str:
    unit, power = next((unit, power) for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)) if size >= 1 << power)
    return f"{operation} {size >> power} {unit}"


def prepare(operation: Operation, size: int, turns: int, device: jax.Device) -> Prepared:
    """Compiles an operation and makes its arrays.

    Args:
      operation: one of `OPERATIONS`.
      size: bytes of all arrays.
      turns: how often a call goes over them.
      device: that does it.
    """
    length = size // 4 // operation.arrays
    factor = jax.device_put(jnp.float32(FACTOR), device)

    def arrays(number: int) -> list[jax.Array]:
        read_length = length if operation.arrays == 2 else 1
        return [random((n,), jnp.float32, 2 * number + i, device) for i, n in enumerate((length, read_length))]

    # Arrays that are gone over many times stay in the cache on purpose.
    rotated = sets(arrays, size, device) if turns == 1 else [arrays(0)]
    program = _program(operation, turns)
    before = [np.asarray(x[:CHECKED], np.float64) for x in rotated[0]]

    def call(i: int) -> jax.Array:
        chosen = rotated[i % len(rotated)]
        chosen[0] = program(chosen[0], chosen[1], factor)
        return chosen[0]

    return Prepared(call, partial(_check, operation, before, turns))


@cache
def _program(operation: Operation, turns: int) -> Callable[..., jax.Array]:
    def program(written: jax.Array, read: jax.Array, factor: jax.Array) -> jax.Array:
        if turns == 1:
            return jnp.copy(read) if operation.arrays == operation.moved else operation.turn(written, read, factor)
        # The array that is read is carried along, since the compiler keeps what is written apart from it.
        carry = jax.lax.fori_loop(0, turns, lambda _, x: (operation.turn(x[0], x[1], factor), x[1]), (written, read))
        return carry[0]

    return jax.jit(program, donate_argnums=0, keep_unused=True)


def _check(operation: Operation, before: list[np.ndarray], turns: int, found: Any) -> str:
    expected = operation.expected(before[0], before[1], turns)
    away = np.abs(np.asarray(found[:CHECKED], np.float64) - expected).max()
    # Each turn rounds once.
    return "" if away <= 2e-7 * turns * np.abs(expected).max() else f"the values differ by {away:.1e} from NumPy's"
