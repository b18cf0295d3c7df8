"""Which arrays of a batch, left in a wide dtype, turn a computation in a narrow one wide again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Var

from jaxprop.core.jaxprs.walk import bodies, equations
from jaxprop.core.precision import cast_floating, lies_under
from jaxprop.core.trees import leaf_paths
from jaxprop.types import PyTree

# Where a loss finds its answers and weights by these names, they are nothing that it computes with.
COMPARED = ("labels", "targets", "mask", "weight")
PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general")


def widening_paths(function: Callable[[PyTree, PyTree], Any], params: PyTree, batch: PyTree, dtype: Any) -> list[str]:
    """Returns the paths of the batch's floats that, not cast, have matrix products or parameters computed wider.

    The function is traced with every float of the batch cast, and then with each one left as it is; an array counts
    if more products take wide operands, or more parameters are widened, than with all of them cast. That an output is
    compared to a wide target is neither.

    Args:
      function: `(params, batch) -> anything`.
      params: in the compute dtype.
      batch: not cast.
      dtype: the compute dtype.

    Returns:
      Paths as `leaf_paths` gives them; empty where the function cannot be traced so.

    Example:
      >>> loss = lambda params, batch: jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
      >>> batch = {"x": jnp.ones((4, 3)), "y": jnp.ones(4)}
      >>> widening_paths(loss, {"w": jnp.ones(3, jnp.bfloat16)}, batch, jnp.bfloat16)
      ['x']
    """
    paths, (leaves, treedef) = leaf_paths(batch), jax.tree.flatten(batch)
    wide = [i for i, leaf in enumerate(leaves) if is_wider(leaf, dtype) and not lies_under(paths[i], COMPARED)]
    if not wide:
        return []

    def wide_places(kept: Collection[int]) -> int:
        some = [leaf if i in kept else cast_floating(leaf, dtype) for i, leaf in enumerate(leaves)]
        shapes = jax.tree.map(_shape, (params, jax.tree.unflatten(treedef, some)))
        traced = jax.make_jaxpr(function)(*shapes).jaxpr
        products = sum(_is_wide_product(equation, dtype) for equation in equations(traced))
        return products + _widened(traced, traced.invars[: len(jax.tree.leaves(params))])

    try:
        with jax.numpy_dtype_promotion("standard"):
            least = wide_places(())
            return [paths[i] for i in wide if wide_places((i,)) > least]
    except (TypeError, ValueError):
        return []  # the function itself, traced with what it is given, tells what is wrong


def is_wider(leaf: Any, dtype: Any) -> bool:
    """Whether an array is of floats that hold more than a dtype does.

    Example:
      >>> is_wider(jnp.ones(2), jnp.bfloat16), is_wider(jnp.ones(2, jnp.int32), jnp.bfloat16)
      (True, False)
    """
    return jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.finfo(leaf.dtype).nmant > jnp.finfo(dtype).nmant


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype)


def _is_wide_product(equation: JaxprEqn, dtype: Any) -> bool:
    # a product of vectors is a weighted sum at the end of a loss
    product = equation.primitive.name in PRODUCTS and _aval(equation.outvars[0]).size > 1
    return product and any(is_wider(_aval(operand), dtype) for operand in equation.invars)


def _aval(atom: Any) -> Any:
    return atom.aval


def _widened(jaxpr: Jaxpr, params: Iterable[Any]) -> int:
    """How often a parameter itself is converted to a wider dtype, here or in the functions it is handed to."""
    held = {var for var in params if isinstance(var, Var)}
    found = 0
    for equation in jaxpr.eqns:
        given = [isinstance(var, Var) and var in held for var in equation.invars]
        if equation.primitive.name == "convert_element_type" and given[0]:
            before, after = _aval(equation.invars[0]), _aval(equation.outvars[0])
            found += is_wider(after, before.dtype)
        for body in bodies(equation):
            if any(given) and len(body.invars) == len(given):
                found += _widened(body.jaxpr, [var for var, ours in zip(body.invars, given, strict=True) if ours])
    return found
