"""Collectives over all devices: how fast data move between them, with the results checked.

The algorithm's bandwidth is the bytes of one device's data over the time. The bus bandwidth is what each link has to
carry for it, which does not depend on the number of devices: it is the one to hold against a datasheet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprop.bench.document import Fact
from jaxprop.bench.rounds import Job, Prepared

SIZES = (1 << 12, 1 << 20, 1 << 24, 1 << 26)  # bytes of the data on one device
AXIS = "devices"


class Collective(NamedTuple):
    """One collective.

    Args:
      run: on the data of one device.
      bus: number of devices -> what a link carries for each byte of a device's data.
      expected: the data of all devices `[N, n]` -> the result of each.
      reference: of the factor.
    """

    run: Callable[[jax.Array], jax.Array]
    bus: Callable[[int], float]
    expected: Callable[[np.ndarray], np.ndarray]


def _rotated(x: jax.Array) -> jax.Array:
    count = jax.lax.axis_size(AXIS)
    return jax.lax.ppermute(x, AXIS, [(i, (i + 1) % count) for i in range(count)])


COLLECTIVES = {
    "all-reduce": Collective(
        lambda x: jax.lax.psum(x, AXIS), lambda n: 2 * (n - 1) / n, lambda all_: np.tile(all_.sum(0), (len(all_), 1))
    ),
    "all-gather": Collective(
        # Of a share each, so that what a device holds in the end is the size that is stated.
        lambda x: jax.lax.all_gather(x[: len(x) // jax.lax.axis_size(AXIS)], AXIS, tiled=True),
        lambda n: (n - 1) / n,
        lambda all_: np.tile(all_[:, : all_.shape[1] // len(all_)].reshape(-1), (len(all_), 1)),
    ),
    "reduce-scatter": Collective(
        lambda x: jax.lax.psum_scatter(x, AXIS, tiled=True),
        lambda n: (n - 1) / n,
        lambda all_: all_.sum(0).reshape(len(all_), -1),
    ),
    "all-to-all": Collective(
        lambda x: jax.lax.all_to_all(x, AXIS, 0, 0, tiled=True),
        lambda n: (n - 1) / n,
        lambda all_: all_.reshape(len(all_), len(all_), -1).swapaxes(0, 1).reshape(len(all_), -1),
    ),
    "permute": Collective(_rotated, lambda _: 1.0, lambda all_: np.roll(all_, 1, 0)),
}


def jobs(devices: Sequence[jax.Device]) -> Iterator[Job]:
    """The collectives over some devices; none for a single one.

    Args:
      devices: that take part.

    Yields:
      One job a collective and size.
    """
    count = len(devices)
    if count < 2:
        return
    for name, collective in COLLECTIVES.items():
        before = None
        for size in SIZES:
            length = size // 4 // (count * count) * count * count  # divisible twice, for the shares of shares
            facts: dict[str, Fact] = {"collective": name, "bytes": length * 4, "bus_factor": collective.bus(count)}
            label = f"{name} {size >> 10} KiB"
            yield Job(
                "collectives", label, "GB/s", partial(_prepare, collective, length, tuple(devices)),
                per_call=length * 4 / 1e9, follows=(before, 4.0) if before else None, facts=facts,
            )  # fmt: skip
            before = label


def _prepare(collective: Collective, length: int, devices: tuple[jax.Device, ...]) -> Prepared:
    mesh = Mesh(np.array(devices), (AXIS,))
    placed = NamedSharding(mesh, P(AXIS))
    data = np.random.default_rng(0).integers(-8, 8, (len(devices), length)).astype(np.float32)
    x = jax.device_put(data.reshape(-1), placed)
    program = jax.jit(jax.shard_map(collective.run, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS), check_vma=False))
    expected = collective.expected(data)

    def check(found: Any) -> str:
        # Small integers, whose sums are exact.
        return "" if np.array_equal(np.asarray(found).reshape(len(devices), -1), expected) else "the result is wrong"

    # Waited for, since CPU devices deadlock where more calls are under way than there are threads.
    return Prepared(lambda _: jax.block_until_ready(program(x)), check)


def bus_bandwidth(value: float, facts: dict[str, Fact]) -> float:
    """What each link carries, in GB/s, for an algorithm's bandwidth.

    Args:
      value: the algorithm's bandwidth in GB/s.
      facts: of the row.

    Example:
      >>> bus_bandwidth(10.0, {"bus_factor": 1.75})
      17.5

    Reference:
      NCCL tests, Performance reported by NCCL tests. https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
    """
    return value * float(facts["bus_factor"] or 0)
