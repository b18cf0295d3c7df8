"""Where the time of a step goes: each of its products by itself, for the roofline, and what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxprop.bench.device.buffers import random, sets
from jaxprop.bench.document import Row
from jaxprop.bench.rounds import Job, Plan, Prepared, measure
from jaxprop.core.jaxprs.products import Product

MOST = 12  # products that are measured, those with the most operations
PLAN = Plan(seconds=3.0, burst=0.05, aim=0.03, fewest=3, longest=float("inf"))


def measure_parts(name: str, products: Sequence[Product], device: jax.Device) -> Iterator[Row]:
    """Measures the products of a step, each by itself, with the shapes and dtypes that it has there.

    Args:
      name: of the step's row.
      products: of its loss and gradient.
      device: that multiplies.

    Yields:
      A row a product: its rate, with its operations for each byte moved and the times it occurs.
    """
    simple = [one for one in products if one.equation.primitive.name in ("dot_general", "conv_general_dilated")]
    jobs = [_job(name, one, device) for one in simple[:MOST]]
    for row in measure(jobs, PLAN, [device]):
        yield row if row.value is None else row.model_copy(update={"facts": row.facts | {"tflops": row.value}})


def seconds_of(rows: Sequence[Row]) -> float:
    """Seconds that the measured products of a step take together."""
    return sum(
        row.per_call / row.value * int(row.facts["count"] or 0) for row in rows if row.value and "count" in row.facts
    )


def _job(name: str, one: Product, device: jax.Device) -> Job:
    equation = one.equation

    def run(*factors: jax.Array) -> Any:
        return equation.primitive.bind(*factors, **equation.params)

    return Job(
        "roofline", f"{name}: {one.name}", "TFLOP/s", partial(_prepare, one, jax.jit(run), device),
        per_call=one.flops / 1e12, device=device,
        facts={
            "of": name, "count": one.times, "flops": one.flops, "bytes": one.moved,
            "flops_per_byte": round(one.flops / one.moved, 2),
        },
    )  # fmt: skip


def _prepare(one: Product, program: Callable[..., jax.Array], device: jax.Device) -> Prepared:
    avals: list[Any] = [atom.aval for atom in one.equation.invars]
    shapes = [(aval.shape, aval.dtype) for aval in avals]

    def factors(i: int) -> tuple[jax.Array, ...]:
        return tuple(random(shape, dtype, len(shapes) * i + j, device) for j, (shape, dtype) in enumerate(shapes))

    pairs = sets(factors, one.moved, device)
    return Prepared(lambda i: program(*pairs[i % len(pairs)]), _check)


def _check(found: jax.Array) -> str:
    corner = np.asarray(found[(slice(0, 8),) * found.ndim], np.float64)
    return "" if np.isfinite(corner).all() and corner.any() else "the product is zero or not finite"
