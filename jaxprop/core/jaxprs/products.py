"""Matrix products and convolutions of a traced function, with the operations that they take. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from jaxprop.core.jaxprs.walk import bodies, closed


class Product(NamedTuple):
    """A matrix product, a convolution, or the products of attention in one primitive.

    Args:
      equation: one of those that are alike.
      flops: operations of one: two for each multiplication and addition.
      times: how often products like this one are made; in a `while` once a turn is not known, so once.
    """

    equation: JaxprEqn
    flops: float
    times: int

    @property
    def moved(self) -> int:
        """Bytes of both factors and of the product."""
        atoms = [*self.equation.invars, *self.equation.outvars]
        return sum(math.prod(_aval(atom).shape) * _aval(atom).dtype.itemsize for atom in atoms)

    @property
    def operands(self) -> str:
        """Dtypes of the factors, such as `float32`, or `float8_e5m2 x float8_e4m3fn` where they differ."""
        return " x ".join(dict.fromkeys(_aval(atom).dtype.name for atom in self.equation.invars[:2]))

    @property
    def name(self) -> str:
        """Shapes of the factors and the product, such as `dot 64x8 8x4 -> 64x4 float32`."""
        primitive = self.equation.primitive.name
        kind = {"dot_general": "dot", "conv_general_dilated": "conv"}.get(primitive, primitive)
        shapes = ["x".join(map(str, _aval(atom).shape)) for atom in self.equation.invars[:2]]
        out = self.equation.outvars[0]
        return f"{kind} {' '.join(shapes)} -> {'x'.join(map(str, _aval(out).shape))} {_aval(out).dtype.name}"


def products(jaxpr: Jaxpr | ClosedJaxpr) -> list[Product]:
    """Returns the products of a function, those that are alike as one, the most operations first.

    Args:
      jaxpr: of the function; what runs inside a scan counts once for each of its turns.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> traced = jax.make_jaxpr(lambda a, b: (a @ b) @ b)(jnp.ones((3, 2)), jnp.ones((2, 2)))
      >>> [(one.name, one.flops, one.times) for one in products(traced)]
      [('dot 3x2 2x2 -> 3x2 float32', 24.0, 2)]
    """
    found: dict[Any, Product] = {}
    for equation, times in _with_counts(closed(jaxpr).jaxpr, 1):
        flops = flops_of(equation)
        if not flops:
            continue
        one = Product(equation, flops, times)
        key = one.name, one.operands, tuple(sorted((name, str(value)) for name, value in equation.params.items()))
        found[key] = one._replace(times=times + (found[key].times if key in found else 0))
    return sorted(found.values(), key=lambda one: -one.flops * one.times)


def flops_of(equation: JaxprEqn) -> float:
    """Operations of a product, a convolution or a library's attention; 0 for everything else.

    A product of complex numbers counts as one of real numbers.

    Args:
      equation: of a jaxpr.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> flops_of(jax.make_jaxpr(jnp.dot)(jnp.ones((3, 2)), jnp.ones((2, 4))).eqns[0])
      48.0
    """
    return KINDS.get(equation.primitive.name, _attention_flops)(equation)


def _dot_flops(equation: JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _aval(equation.invars[0]).shape
    return 2.0 * math.prod(_aval(equation.outvars[0]).shape) * math.prod(left[axis] for axis in contracted)


def _ragged_flops(equation: JaxprEqn) -> float:
    """Rows `[M, K]` in groups, each times a matrix of its own `[G, K, N]`."""
    return 2.0 * math.prod(_aval(equation.outvars[0]).shape) * _aval(equation.invars[0]).shape[-1]


def _conv_flops(equation: JaxprEqn) -> float:
    """Operations of a convolution, without those whose input is padding or a zero between dilated values."""
    params = equation.params
    layout = params["dimension_numbers"]
    left, right = (_aval(atom).shape for atom in equation.invars)
    out = _aval(equation.outvars[0]).shape
    spatial = list(zip(layout.lhs_spec[2:], layout.rhs_spec[2:], layout.out_spec[2:], strict=True))
    # Everything but the spatial axes: each output takes all input features of its group.
    flops = 2.0 * math.prod(out) * math.prod(right) / right[layout.rhs_spec[0]]
    for axis, (i, k, o) in enumerate(spatial):
        taps = _taps(
            left[i], right[k], out[o], params["window_strides"][axis], params["padding"][axis][0],
            params["lhs_dilation"][axis], params["rhs_dilation"][axis],
        )  # fmt: skip
        flops *= taps / (right[k] * out[o])
    return flops


def _taps(size: int, kernel: int, out: int, stride: int, low: int, spread: int, apart: int) -> int:
    """Pairs of an output and a kernel's value along one axis that meet an input."""
    at = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * apart - low
    return int(np.sum((at >= 0) & (at <= (size - 1) * spread) & (at % spread == 0)))


def _attention_flops(equation: JaxprEqn) -> float:
    """Operations of attention in one primitive, as of a GPU's library; masked ones count, as in the products."""
    name = equation.primitive.name
    if not name.startswith("dot_product_attention"):
        return 0.0
    query, key = (_aval(atom).shape for atom in equation.invars[:2])  # [B, T, H, D]
    two = 2 * 2.0 * math.prod(query) * key[2 if equation.params.get("layout") == HEADS_FIRST else 1]
    return 2 * two if "bwd" in name else two


KINDS = {"dot_general": _dot_flops, "conv_general_dilated": _conv_flops, "ragged_dot_general": _ragged_flops}
HEADS_FIRST = 1  # how cuDNN's attention names the layout `[B, H, T, D]`


def _aval(atom: Any) -> Any:
    return atom.aval


def _with_counts(jaxpr: Jaxpr, times: int) -> Iterator[tuple[JaxprEqn, int]]:
    for equation in jaxpr.eqns:
        yield equation, times
        turns = _turns(equation)
        # One branch of several runs; the one with the most work stands for it.
        inner = [list(_with_counts(body.jaxpr, times * turns)) for body in bodies(equation)]
        if equation.primitive.name == "cond" and inner:
            inner = [max(inner, key=lambda found: sum(flops_of(e) * n for e, n in found))]
        for found in inner:
            yield from found


def _turns(equation: JaxprEqn) -> int:
    """How often the function inside an equation runs: turns of a scan, cells of a grid, devices of a mesh."""
    params = equation.params
    if equation.primitive.name == "scan":
        return int(params["length"])
    if equation.primitive.name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    if equation.primitive.name == "shard_map":
        return math.prod(
            params["mesh"].shape[axis] for axis in params.get("newly_manual_axes", params["mesh"].axis_names)
        )
    return 1
