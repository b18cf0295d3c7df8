"""Matrix products and convolutions of a traced function, with the operations that they take. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

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
        key = one.name, tuple(sorted((name, str(value)) for name, value in equation.params.items()))
        found[key] = one._replace(times=times + (found[key].times if key in found else 0))
    return sorted(found.values(), key=lambda one: -one.flops * one.times)


def flops_of(equation: JaxprEqn) -> float:
    """Operations of a product or a convolution; 0 for everything else.

    Args:
      equation: of a jaxpr.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> flops_of(jax.make_jaxpr(jnp.dot)(jnp.ones((3, 2)), jnp.ones((2, 4))).eqns[0])
      48.0
    """
    if equation.primitive.name not in ("dot_general", "conv_general_dilated"):
        return _attention_flops(equation)
    left, right = (_aval(atom).shape for atom in equation.invars)
    out = math.prod(_aval(equation.outvars[0]).shape)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * out * math.prod(left[axis] for axis in contracted)
    layout, dilation = equation.params["dimension_numbers"], equation.params["lhs_dilation"]
    # Each output takes the whole kernel but for its output features; what a dilation fills with zeros is no work.
    return 2.0 * out * math.prod(right) / right[layout.rhs_spec[0]] / math.prod(dilation)


def _attention_flops(equation: JaxprEqn) -> float:
    """Operations of attention in one primitive, as of a GPU's library; masked ones count, as in the products."""
    name = equation.primitive.name
    if not name.startswith("dot_product_attention"):
        return 0.0
    query, key = (_aval(atom).shape for atom in equation.invars[:2])  # [B, T, H, D]
    two = 2 * 2.0 * math.prod(query) * key[1]
    return 2 * two if "bwd" in name else two


def _aval(atom: Any) -> Any:
    return atom.aval


def _with_counts(jaxpr: Jaxpr, times: int) -> Iterator[tuple[JaxprEqn, int]]:
    for equation in jaxpr.eqns:
        yield equation, times
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        # One branch of several runs; the one with the most work stands for it.
        inner = [list(_with_counts(body.jaxpr, times * turns)) for body in bodies(equation)]
        if equation.primitive.name == "cond" and inner:
            inner = [max(inner, key=lambda found: sum(flops_of(e) * n for e, n in found))]
        for found in inner:
            yield from found
