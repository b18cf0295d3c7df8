"""What the device itself reaches, measured in the same process: the roofs that a step is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprop.bench.device import matmul, memory
from jaxprop.bench.document import Row
from jaxprop.bench.rounds import Job, Plan, measure

PLAN = Plan(seconds=4.0, burst=0.1, aim=0.02, fewest=3, longest=0.3)


class Peaks(NamedTuple):
    """Roofs of one precision.

    Args:
      tflops: of the fastest matrix product, or None where none ran.
      bandwidth: of the largest triad in GB/s, or None.
      noise: half the width of the interval of `tflops`, relative to it, where that makes it noisy; else 0.
    """

    tflops: float | None
    bandwidth: float | None
    noise: float = 0.0


def kind_of(precision: str) -> matmul.Kind:
    """How a model multiplies in a precision: elsewhere than on a GPU, float32 as JAX does by itself.

    Example:
      >>> kind_of("bfloat16").name, kind_of("float32").precision is None
      ('bfloat16', True)
    """
    usual = next(kind for kind in matmul.KINDS if kind.name == precision)
    if usual.dtype == jnp.float32 and jax.default_backend() != "gpu":
        return usual._replace(precision=None, tolerance=1e-2)
    return usual


def measure_peaks(precision: str, device: jax.Device, add: Callable[[Row], None]) -> Peaks:
    """Measures the fastest product and the bandwidth of a device.

    Args:
      precision: of the products.
      device: to be measured.
      add: takes the rows.

    Returns:
      The roofs.
    """
    rows: dict[tuple[str, str, str], Row] = {}
    for row in measure([*_jobs(precision, device)], PLAN, [device]):
        rows[row.key] = row
        add(row)

    def best(section: str) -> Row | None:
        found = [row for row in rows.values() if row.section == section and row.value]
        return max(found, key=lambda row: row.value or 0.0, default=None)

    product, triad = best("matmul"), best("memory")
    noise = 0.0
    if product and product.status == "noisy" and product.value and product.high and product.low is not None:
        noise = (product.high - product.low) / (2 * product.value)
    return Peaks(product.value if product else None, triad.value if triad else None, noise)


def _jobs(precision: str, device: jax.Device) -> Iterator[Job]:
    yield from matmul.jobs(device, kinds=[kind_of(precision)])
    largest = [job for job in memory.jobs(device) if job.name.startswith("triad")][-2:]
    yield from (job._replace(follows=None) for job in largest[:1])
