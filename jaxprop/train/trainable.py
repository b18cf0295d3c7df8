"""Which parameters are trained; the others are carried along, and no part of gradients, norms or alerts. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxprop.core import trees
from jaxprop.core.jaxprs.evaluate import run
from jaxprop.core.jaxprs.walk import body_of, is_call
from jaxprop.errors import UsageError
from jaxprop.types import PyTree

Trainable = str | Callable[[str], bool] | PyTree | None


def trainable_mask(trainable: Trainable, params: PyTree) -> list[bool]:
    """Says for every leaf of the parameters whether it is trained.

    Integers and booleans never are, since the loss has no derivative by them.

    Args:
      trainable: a regular expression that the whole path of a leaf has to match, a function of the path, a tree of
        booleans in the structure of the parameters, or None for all.
      params: the parameters.

    Returns:
      One boolean a leaf.

    Raises:
      UsageError: a pattern that matches nothing, or a tree of another structure.

    Example:
      >>> trainable_mask("head/.*", {"body": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}})
      [False, True]
    """
    leaves, paths = jax.tree.leaves(params), trees.leaf_paths(params)
    continuous = [jnp.issubdtype(jnp.asarray(leaf).dtype if not hasattr(leaf, "dtype") else leaf.dtype, jnp.inexact)
                  for leaf in leaves]  # fmt: skip
    wanted = _wanted(trainable, params, paths)
    mask = [bool(a and b) for a, b in zip(wanted, continuous, strict=True)]
    if leaves and not any(mask):
        listed = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
        raise UsageError(
            f"trainable={trainable!r} leaves no floating-point parameter to train; there are: {listed}"
            f"{_nearest(trainable, paths)}"
        )
    return mask


def _nearest(trainable: Trainable, paths: list[str]) -> str:
    """The pattern that is meant where one matches the start of paths instead of whole ones."""
    if not isinstance(trainable, str) or not any(re.match(f"(?:{trainable})/", path) for path in paths):
        return ""
    return f"; the pattern has to match a whole path, as {trainable + '/.*'!r} does"


def _wanted(trainable: Trainable, params: PyTree, paths: list[str]) -> list[Any]:
    if trainable is None:
        return [True] * len(paths)
    if isinstance(trainable, str):
        return [re.fullmatch(trainable, path) is not None for path in paths]
    if callable(trainable):
        return [trainable(path) for path in paths]
    expected, got = (str(jax.tree.structure(tree)) for tree in (params, trainable))
    if expected != got:
        raise UsageError(
            f"expected trainable to have the structure of the parameters, {expected}, got {got}; a path pattern such "
            "as 'head/.*' does not need one"
        )
    return jax.tree.leaves(trainable)


def moved(
    update: Callable[[PyTree, PyTree, PyTree], Any], grads: PyTree, opt_state: PyTree, params: PyTree
) -> list[bool]:
    """Says for every leaf of the parameters whether the optimizer moves it: its update is not constant.

    `optax.set_to_zero` in a partition freezes parameters by an update of zeros, which depends on nothing.

    Args:
      update: `(grads, opt_state, params) -> (updates, opt_state)`.
      grads, opt_state, params: what it is given, or their shapes.

    Returns:
      One boolean a leaf.

    Example:
      >>> import optax
      >>> tx = optax.partition({"on": optax.sgd(0.1), "off": optax.set_to_zero()}, {"a": "on", "b": "off"})
      >>> params = {"a": jnp.ones(2), "b": jnp.ones(2)}
      >>> moved(tx.update, params, tx.init(params), params)
      [True, False]
    """
    shapes = jax.eval_shape(lambda *args: args, grads, opt_state, params)
    traced = jax.make_jaxpr(lambda *args: update(*args)[0])(*shapes)
    return run(traced, [True] * len(jax.tree.leaves(shapes)), _depends, lambda _: False)


def _depends(equation: JaxprEqn, inputs: list[bool]) -> list[bool]:
    body = body_of(equation) if is_call(equation) else None
    if body is not None:
        return run(body, inputs, _depends, lambda _: False)
    return [any(inputs)] * len(equation.outvars)


def split(params: PyTree, mask: list[bool]) -> PyTree:
    """Returns the parameters that are trained, in their structure, with None in place of the others.

    Example:
      >>> split({"a": 1.0, "b": 2.0}, [True, False])
      {'a': 1.0, 'b': None}
    """
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [leaf if keep else None for leaf, keep in zip(leaves, mask, strict=True)])


def merge(trained: PyTree, params: PyTree, mask: list[bool]) -> PyTree:
    """Puts trained parameters back among the others.

    Example:
      >>> merge({"a": 5.0, "b": None}, {"a": 1.0, "b": 2.0}, [True, False])
      {'a': 5.0, 'b': 2.0}
    """
    leaves, structure = jax.tree.flatten(params)
    new = iter(jax.tree.leaves(trained))
    return jax.tree.unflatten(structure, [next(new) if keep else leaf for leaf, keep in zip(leaves, mask, strict=True)])
