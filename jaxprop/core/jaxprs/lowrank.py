"""Weights with a product of low rank added to them, in any function, without making their sum. Pure.

    x (W + s A B) = x W + s (x A) B

The left side needs the gradient by the whole matrix, which is a product as large as x W; the right side needs those by
A and B alone. A function is traced with the sum as its argument, and evaluated with the right side in place of the left
in each product and convolution that takes the sum. Where something else takes it, such as a lookup, the sum is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jax.extend.source_info_util import current_name_stack, user_context

from jaxprop.core.jaxprs.evaluate import bind, run
from jaxprop.core.jaxprs.walk import CALLS, body_of, scan_parts
from jaxprop.types import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
    """The weight W + scale * A B, which is not made before something needs it.

    Args:
      base: W as it is kept: an array, or codes and scales.
      a: `[*in, R]`.
      b: `[R, *out]`, in the dtype of `a`.
      scale: of the product.
      read: base -> W `[*in, *out]`, in the dtype of `a`.
      again: whether the backward pass reads the base once more, instead of keeping W.
    """

    base: PyTree
    a: jax.Array
    b: jax.Array
    scale: float = dataclasses.field(metadata={"static": True})
    read: Callable[[PyTree], jax.Array] = dataclasses.field(metadata={"static": True})
    again: bool = dataclasses.field(default=False, metadata={"static": True})

    def dense(self) -> jax.Array:
        """Returns the sum.

        Example:
          >>> weight = LowRank(jnp.eye(2), jnp.ones((2, 1)), jnp.ones((1, 2)), 0.5, lambda base: base)
          >>> weight.dense().tolist()
          [[1.5, 0.5], [0.5, 1.5]]
        """
        return self.read(self.base) + jnp.tensordot(self.a, self.b, 1) * self.scale


def call_with(function: Callable[[list[Any]], Any], weights: Sequence[LowRank]) -> Any:
    """Calls a function of arrays with weights that are not made.

    Args:
      function: of a list of arrays, one for each weight.
      weights: the weights.

    Returns:
      What the function returns of the sums, up to rounding.

    Example:
      >>> weight = LowRank(jnp.eye(2), jnp.ones((2, 1)), jnp.ones((1, 2)), 0.5, lambda base: base)
      >>> call_with(lambda weights: jnp.ones(2) @ weights[0], [weight]).tolist()
      [2.0, 2.0]
    """
    held: list[Any] = []

    def arrays(given: list[Any]) -> list[Any]:
        leaves, structure = jax.tree.flatten(function(given))
        are = [isinstance(leaf, jax.Array) for leaf in leaves]
        held[:] = [structure, are, [leaf for leaf, is_array in zip(leaves, are, strict=True) if not is_array]]
        return [leaf for leaf, is_array in zip(leaves, are, strict=True) if is_array]

    traced = jax.make_jaxpr(arrays)([jax.eval_shape(LowRank.dense, weight) for weight in weights])
    made = iter([_dense(value) for value in run(traced, list(weights), _apply, _itself)])
    structure, are, others = held
    rest = iter(others)
    return jax.tree.unflatten(structure, [next(made) if is_array else next(rest) for is_array in are])


def _itself(value: Any) -> Any:
    return value


def _dense(value: Any) -> Any:
    return value.dense() if isinstance(value, LowRank) else value


def _is_weight(value: Any) -> bool:
    return isinstance(value, LowRank)


def _apply(equation: JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
    info = equation.source_info  # so that what is traced once more is still of the line and the layer that wrote it
    with user_context(info.traceback, name_stack=current_name_stack() + info.name_stack):
        rule = _RULES.get(equation.primitive.name) if any(map(_is_weight, inputs)) else None
        made = None if rule is None else rule(equation, inputs)
        return bind(equation, [_dense(value) for value in inputs]) if made is None else made


# -- what takes a weight as it is: each returns None where it does not fit ------------------------


def _dot_general(equation: JaxprEqn, inputs: list[Any]) -> list[Any] | None:
    (left, right), (batch, _) = equation.params["dimension_numbers"]
    at = 0 if _is_weight(inputs[0]) else 1
    weight, x = inputs[at], inputs[1 - at]
    if batch or _is_weight(x):
        return None
    mine, others = (left, right) if at == 0 else (right, left)
    inside = weight.a.ndim - 1
    if set(mine) == set(range(inside)):
        first, axes, second, rank = weight.a, tuple(mine), weight.b, 0
    elif set(mine) == set(range(inside, inside + weight.b.ndim - 1)):  # as of a weight [out, in], or of a tied table
        first, axes, second, rank = weight.b, tuple(axis - inside + 1 for axis in mine), weight.a, inside
    else:
        return None

    def product(one: Any, of_one: Sequence[int], other: Any, of_other: Sequence[int]) -> jax.Array:
        """With the factor of the weight on the side where the weight is, so that axes come in the same order."""
        operands, contracted = ((one, other), (of_one, of_other)) if at == 0 else ((other, one), (of_other, of_one))
        return jax.lax.dot_general(
            *operands, (contracted, ((), ())), precision=equation.params["precision"],
            preferred_element_type=equation.params["preferred_element_type"],
        )  # fmt: skip

    narrow = product(first, axes, x, others)  # [R, ...], or [..., R]
    delta = product(second, (rank,), narrow.astype(second.dtype), (0 if at == 0 else narrow.ndim - 1,))
    return _added(equation, weight, delta, lambda value: [value, x] if at == 0 else [x, value])


def _convolution(equation: JaxprEqn, inputs: list[Any]) -> list[Any] | None:
    x, weight = inputs
    params = equation.params
    _, kernel, out = params["dimension_numbers"]
    last = weight.a.ndim - 1 if _is_weight(weight) else None
    grouped = params["feature_group_count"] * params["batch_group_count"] != 1
    if _is_weight(x) or grouped or kernel[0] != last or weight.b.ndim != 2:
        return None
    narrow = bind(equation, [x, weight.a])[0].astype(weight.b.dtype)
    numbers = (((out[1],), (0,)), ((), ()))
    delta = jax.lax.dot_general(narrow, weight.b, numbers, precision=_one(params["precision"]))
    return _added(equation, weight, jnp.moveaxis(delta, -1, out[1]), lambda value: [x, value])


def _one(precision: Any) -> Any:
    return precision[0] if isinstance(precision, tuple) else precision


def _added(equation: JaxprEqn, weight: LowRank, delta: jax.Array, operands: Callable[[Any], list[Any]]) -> list[Any]:
    def product(base: PyTree, *others: Any) -> jax.Array:
        return bind(equation, [weight.read(base) if value is None else value for value in others])[0]

    whole = jax.checkpoint(product) if weight.again else product
    # The base is no input of the derivative: what is kept for the backward pass are its codes.
    value = whole(weight.base, *operands(None))
    return [value + (delta * weight.scale).astype(value.dtype)]


def _convert(equation: JaxprEqn, inputs: list[Any]) -> list[Any] | None:
    (weight,), dtype = inputs, equation.params["new_dtype"]
    if not jnp.issubdtype(dtype, jnp.floating):
        return None
    read = weight.read
    return [
        dataclasses.replace(
            weight, a=weight.a.astype(dtype), b=weight.b.astype(dtype), read=lambda base: read(base).astype(dtype)
        )
    ]


def _transpose(equation: JaxprEqn, inputs: list[Any]) -> list[Any] | None:
    (weight,) = inputs
    if equation.params["permutation"] != (1, 0):
        return None
    read = weight.read
    return [dataclasses.replace(weight, a=weight.b.T, b=weight.a.T, read=lambda base: read(base).T)]


def _call(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    body = body_of(equation)
    assert body is not None, equation.primitive.name

    def inside(*args: Any) -> list[Any]:
        return run(body, args, _apply, _itself)

    if "policy" in equation.params:  # of jax.checkpoint, which has to stay one
        params = equation.params
        inside = jax.checkpoint(inside, prevent_cse=params["prevent_cse"], policy=params["policy"])
    return inside(*inputs)


def _scan(equation: JaxprEqn, inputs: list[Any]) -> list[Any] | None:
    params, (held, carried) = equation.params, scan_parts(equation)
    if any(map(_is_weight, inputs[held:])):
        return None

    def turn(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        made = [_dense(value) for value in run(params["jaxpr"], [*inputs[:held], *carry, *xs], _apply, _itself)]
        return made[:carried], made[carried:]

    carry, stacked = jax.lax.scan(
        turn, inputs[held : held + carried], inputs[held + carried :], params["length"], params["reverse"],
        params["unroll"],
    )  # fmt: skip
    return [*carry, *stacked]


_RULES: dict[str, Callable[[JaxprEqn, list[Any]], list[Any] | None]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "transpose": _transpose,
    "scan": _scan,
    **dict.fromkeys(CALLS, _call),
}
