"""Matrix products of each dtype over sizes, checked against NumPy in float64."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.bench.device.buffers import random, sets
from jaxprop.bench.document import Fact
from jaxprop.bench.rounds import Job, Prepared, WrongResult
from jaxprop.core.datasheet import sheet_of

SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)
# Not square: what a transformer multiplies, tokens by width by the inner width of its feed-forward layers.
SHAPES = ((4096, 1024, 4096), (4096, 4096, 1024))
CHECKED = 64  # rows and columns of a product
MULTIPLIES = re.compile(r"\b(dot|convolution)\(")


class Kind(NamedTuple):
    """A way to multiply.

    Args:
      name: as in the results.
      dtype: of the factors.
      output: dtype of the product.
      precision: as `jnp.matmul` takes it.
      tolerance: relative error of the product, in the norm of what is checked.
    """

    name: str
    dtype: Any
    output: Any
    precision: Any
    tolerance: float


TF32 = jax.lax.DotAlgorithmPreset.TF32_TF32_F32
KINDS = [
    Kind("float32", jnp.float32, jnp.float32, jax.lax.Precision.HIGHEST, 1e-5),
    Kind("tf32", jnp.float32, jnp.float32, TF32, 2e-3),
    Kind("bfloat16", jnp.bfloat16, jnp.bfloat16, None, 1e-2),
    Kind("float16", jnp.float16, jnp.float16, None, 2e-3),
    Kind("float8_e4m3fn", jnp.float8_e4m3fn, jnp.bfloat16, None, 1e-2),
    Kind("int8", jnp.int8, jnp.int32, None, 0.0),
]


def jobs(device: jax.Device, contents: str = "random", kinds: Sequence[Kind] = KINDS) -> Iterator[Job]:
    """The products of one device, from small to large, one dtype after the other.

    Args:
      device: to be measured.
      contents: of the factors, `random` or `zeros`.
      kinds: ways to multiply.

    Yields:
      One job a dtype and shape; larger ones are left out where they would take too long.
    """
    sheet = sheet_of(device)
    for kind in kinds:
        limit = sheet.tflops.get(kind.name) if sheet else None
        before = None
        for shape in [*((n, n, n) for n in SIZES), *SHAPES]:
            before = 1024 if shape in SHAPES else before
            follows = (_name(kind, (before,) * 3), np.prod(shape) / before**3) if before else None
            yield Job(
                "matmul" if contents == "random" else f"matmul of {contents}", _name(kind, shape), "TFLOP/s",
                partial(prepare, kind, shape, device, contents), per_call=2 * float(np.prod(shape)) / 1e12,
                device=device, follows=follows, limit=limit,
                facts={"dtype": kind.name, "m": shape[0], "k": shape[1], "n": shape[2]},
            )  # fmt: skip
            before = shape[0] if shape not in SHAPES else before


def _name(kind: Kind, shape: tuple[int, ...]) -> str:
    return f"{kind.name} {' x '.join(map(str, shape))}"


def prepare(kind: Kind, shape: tuple[int, int, int], device: jax.Device, contents: str = "random") -> Prepared:
    """Compiles a product and makes its factors.

    Args:
      kind: of the product.
      shape: m, k, n of `[m, k] @ [k, n]`.
      device: that multiplies.
      contents: of the factors.

    Raises:
      NotImplementedError: the device does not have the dtype.
      WrongResult: the compiled program has fewer operations than a product of this size.
    """
    m, k, n = shape
    product, facts = _compiled(kind, shape, device)

    def factors(i: int) -> tuple[jax.Array, jax.Array]:
        return (
            random((m, k), kind.dtype, 2 * i, device, contents),
            random((k, n), kind.dtype, 2 * i + 1, device, contents),
        )

    size = (m * k + k * n) * jnp.dtype(kind.dtype).itemsize
    pairs = sets(factors, size, device)
    return Prepared(
        lambda i: product(*pairs[i % len(pairs)]), partial(check, kind, pairs[0]), facts | {"sets": len(pairs)}
    )


@cache
def _compiled(kind: Kind, shape: tuple[int, int, int], device: jax.Device) -> tuple[Callable, dict[str, Fact]]:
    m, k, n = shape
    at = jax.sharding.SingleDeviceSharding(device)
    left, right = (jax.ShapeDtypeStruct(s, kind.dtype, sharding=at) for s in ((m, k), (k, n)))
    multiply = partial(jnp.matmul, precision=kind.precision, preferred_element_type=kind.output)
    compiled = jax.jit(multiply).lower(left, right).compile()
    return compiled, work_of(compiled, 2.0 * m * k * n)


def work_of(compiled: Any, flops: float) -> dict[str, Fact]:
    """Holds the operations of a compiled program against those of the formula.

    Args:
      compiled: the program.
      flops: that it has to have.

    Returns:
      A fact for the row: operations by the compiler's count, or None where it does not count.

    Raises:
      WrongResult: it has fewer, since the compiler could leave some of the work out.
    """
    counted, text = (compiled.cost_analysis() or {}).get("flops"), compiled.as_text() or ""
    # What is handed to a library is not always counted; without a text there is nothing to be seen.
    if "custom-call" in text or not text:
        return {"compiled_flops": counted}
    found = counted if MULTIPLIES.search(text) else 0.0
    if found is not None and found < 0.9 * flops:
        raise WrongResult(f"the compiled program has {found:.3g} operations where the product has {flops:.3g}")
    return {"compiled_flops": counted}


@jax.jit  # one program for all of them, since each takes about a second to compile on some devices
def _picked(
    left: jax.Array, right: jax.Array, product: jax.Array, rows: jax.Array, columns: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return left[rows], right[:, columns], product[rows][:, columns]


def check(kind: Kind, factors: tuple[jax.Array, jax.Array], product: jax.Array) -> str:
    """Compares rows and columns of a product with NumPy's in float64; returns what is wrong, or an empty text."""
    rows, columns = (np.linspace(0, size - 1, min(size, CHECKED)).astype(int) for size in product.shape)
    left, right, found = (np.asarray(x, np.float64) for x in _picked(*factors, product, rows, columns))
    expected = left @ right
    if kind.tolerance == 0:
        return "" if np.array_equal(found, expected) else "the product is not exact"
    norm = float(np.linalg.norm(expected))
    away = float(np.linalg.norm(found - expected))
    if not np.isfinite(away):
        return "the product is not finite"
    if away <= kind.tolerance * norm:
        return ""
    return f"the product is {away / norm:.1e} from NumPy's, where {kind.tolerance:.0e} was expected"
