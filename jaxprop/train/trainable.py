"""Which parameters are trained; the others are carried along, and no part of gradients, norms or alerts. Pure."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxprop.core import trees
from jaxprop.core.jaxprs.evaluate import run
from jaxprop.core.jaxprs.walk import body_of, is_call
from jaxprop.errors import UsageError
from jaxprop.models.lora import adapted_weights
from jaxprop.types import PyTree

Trainable = str | Callable[[str], bool] | PyTree | None


def trainable_mask(trainable: Trainable, params: PyTree) -> list[bool]:
    """Says for every leaf of the parameters whether it is trained.

    Integers and booleans never are, since the loss has no derivative by them. A weight with adapters has none either,
    and weight decay would move it, so that it is trained only where a pattern, function or tree says so.

    Args:
      trainable: a regular expression that the whole path of a leaf has to match, a function of the path, a tree of
        booleans in the structure of the parameters, or None for all but weights with adapters.
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
        frozen = adapted_weights(paths)
        return [path not in frozen for path in paths]
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


class Influence(NamedTuple):
    """What the gradient of each leaf of the parameters does in the optimizer.

    Args:
      counted: one boolean a leaf: its gradient changes its update, so that it is trained and part of measurements.
      heeded: it does not, and yet changes the updates of others, as in a clipping by the global norm.
    """

    counted: list[bool]
    heeded: list[bool]


def influence(
    update: Callable[[PyTree, PyTree, PyTree], Any], grads: PyTree, opt_state: PyTree, params: PyTree
) -> Influence:
    """Finds which leaves of the parameters an optimizer trains, and whose gradients it looks at.

    `optax.set_to_zero` in a partition freezes parameters by an update of zeros. In front of an optimizer it does so by
    a gradient of zeros, which the optimizer makes a constant update of.

    Args:
      update: `(grads, opt_state, params) -> (updates, opt_state)`.
      grads, opt_state, params: what it is given, or their shapes.

    Returns:
      What each gradient does.

    Raises:
      UsageError: some updates are the gradient itself, which `optax.masked` leaves as it is where its mask is False.

    Example:
      >>> import optax
      >>> tx = optax.partition({"on": optax.sgd(0.1), "off": optax.set_to_zero()}, {"a": "on", "b": "off"})
      >>> params = {"a": jnp.ones(2), "b": jnp.ones(2)}
      >>> influence(tx.update, params, tx.init(params), params)
      Influence(counted=[True, False], heeded=[False, False])
    """
    shapes = jax.eval_shape(lambda *args: args, grads, opt_state, params)
    traced = jax.make_jaxpr(lambda *args: update(*args)[0])(*shapes)
    masked = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, optax.MaskedState))
    if any(isinstance(node, optax.MaskedState) for node in masked):  # to look through the whole update takes time
        _check_signs(traced, grads)
    # What a value depends on, as the bits of an integer: one for each gradient, and one for everything else.
    count = len(jax.tree.leaves(shapes[0]))
    inputs = [1 << i for i in range(count)] + [1 << count] * (len(jax.tree.leaves(shapes)) - count)
    found = run(traced, inputs, _depends, lambda _: 0)
    counted = [bool(bits >> i & 1) for i, bits in enumerate(found)]
    if not any(counted):  # an optimizer that takes up a gradient one step later, or none
        counted = [bits > 0 for bits in found]
    read = functools.reduce(operator.or_, [bits for bits, keep in zip(found, counted, strict=True) if keep], 0)
    return Influence(counted, [not keep and bool(read >> i & 1) for i, keep in enumerate(counted)])


def _check_signs(traced: ClosedJaxpr, grads: PyTree) -> None:
    paths = trees.leaf_paths(grads)
    inputs: list[Any] = [*range(len(paths)), *[_OTHER] * (len(traced.jaxpr.invars) - len(paths))]
    signs = run(traced, inputs, _sign, _sign_of_constant)
    raised = [path for i, path in enumerate(paths) if signs[i] == i]
    if raised and len(raised) < len(paths):
        raise UsageError(
            f"the optimizer passes on the gradient of {raised[0]} as its update, which raises the loss, as "
            "optax.masked does where its mask is False; freeze parameters with trainable= of make_train_step, or in an "
            "optax.partition with optax.set_to_zero()"
        )


# What a value of an optimizer's update is known to be: the index of a gradient for a positive multiple of it, or:
_POSITIVE = "positive"  # a function of gradients that is not negative, such as their norm
_OTHER = "other"
_SAME = {"convert_element_type", "copy", "stop_gradient", "reduce_precision"}
_EVEN = {"abs", "square", "is_finite", "eq", "ne", "lt", "le", "gt", "ge"}
_MONOTONE = _SAME | _EVEN | {
    "add", "mul", "div", "max", "min", "sqrt", "rsqrt", "exp", "integer_pow", "pow", "select_n", "and", "or", "not",
    "broadcast_in_dim", "reshape", "squeeze", "reduce_sum", "reduce_max",
}  # fmt: skip


def _sign_of_constant(value: Any) -> Any:
    if isinstance(value, Tracer) or np.ndim(value) or not hasattr(value, "dtype"):
        return _OTHER
    ordered = not jnp.issubdtype(value.dtype, jax.dtypes.extended) and not jnp.iscomplexobj(value)
    return _POSITIVE if ordered and value >= 0 else _OTHER


def _sign(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    body = body_of(equation) if is_call(equation) else None
    if body is not None:
        return run(body, inputs, _sign, _sign_of_constant)
    name = equation.primitive.name
    result: Any = _OTHER
    gradients = {x for x in inputs if isinstance(x, int)}
    if name == "clamp":
        result = inputs[1]
    elif _OTHER in inputs:
        result = _OTHER
    elif not gradients:
        result = _POSITIVE if name in _MONOTONE else _OTHER
    elif name in _EVEN or (name == "mul" and inputs[0] == inputs[1]):
        result = _POSITIVE
    elif name == "integer_pow":
        result = _POSITIVE if equation.params["y"] % 2 == 0 else _OTHER
    elif len(gradients) == 1 and (
        name in _SAME
        or (name == "mul" and _POSITIVE in inputs)
        or (name == "div" and inputs[1] == _POSITIVE)
        or (name == "select_n" and inputs[0] == _POSITIVE and len(set(inputs[1:])) == 1)
    ):
        (result,) = gradients
    return [result] * len(equation.outvars)


def _depends(equation: JaxprEqn, inputs: list[int]) -> list[int]:
    body = body_of(equation) if is_call(equation) else None
    if body is not None:
        return run(body, inputs, _depends, lambda _: 0)
    return [functools.reduce(operator.or_, inputs, 0)] * len(equation.outvars)


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
