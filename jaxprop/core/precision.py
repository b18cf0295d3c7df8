"""Mixed precision: which dtype holds parameters, which computes, casts, and the dynamic loss scale. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxprop.core.trees import leaf_paths
from jaxprop.errors import UsageError, one_of
from jaxprop.types import PyTree


class Policy(NamedTuple):
    """Dtypes of a training run.

    Args:
      param: of the parameters, and so of gradients and optimizer state.
      compute: parameters and inputs are cast to it for the forward and backward pass.
      output: model outputs are cast to it before the loss.

    Reference: Micikevicius et al., Mixed Precision Training, https://arxiv.org/abs/1710.03740
    """

    param: Any
    compute: Any
    output: Any


class LossScale(NamedTuple):
    """State of the dynamic loss scale; part of the train state.

    Args:
      scale: factor on the loss before differentiation, float32 scalar.
      good_steps: finite steps since the scale last changed, int32 scalar.
    """

    scale: jax.Array
    good_steps: jax.Array


class Scaling(NamedTuple):
    """Constants of the dynamic loss scale.

    Args:
      initial: first scale.
      growth_interval: finite steps in a row before the scale doubles.
      smallest, largest: bounds of the scale.
    """

    initial: float = 2.0**15
    growth_interval: int = 2000
    smallest: float = 1.0
    largest: float = 2.0**24


POLICIES = {
    "float64": Policy(jnp.float64, jnp.float64, jnp.float64),
    "float32": Policy(jnp.float32, jnp.float32, jnp.float32),
    "bfloat16": Policy(jnp.float32, jnp.bfloat16, jnp.float32),
    "float16": Policy(jnp.float32, jnp.float16, jnp.float32),
}


def policy(precision: str | Policy) -> Policy:
    """Returns the policy of a name: `float32`, `bfloat16`, `float16`, or `float64` under x64.

    Args:
      precision: a name, or a policy, which is returned as it is.

    Returns:
      The policy.

    Raises:
      UsageError: for an unknown name, or float64 where jax has x64 off.

    Example:
      >>> policy("bfloat16").compute.__name__
      'bfloat16'
    """
    if isinstance(precision, Policy):
        return precision
    if precision not in POLICIES:
        raise UsageError(one_of(precision, POLICIES, "precision"))
    if precision == "float64" and jax.dtypes.canonicalize_dtype("float64") != "float64":
        raise UsageError("precision 'float64' needs jax.config.update('jax_enable_x64', True) before the first array")
    return POLICIES[precision]


def needs_scaling(dtypes: Policy) -> bool:
    """Returns whether gradients can underflow in the compute dtype, as in float16 and not in bfloat16.

    Example:
      >>> needs_scaling(policy("float16")), needs_scaling(policy("bfloat16"))
      (True, False)
    """
    return jnp.dtype(dtypes.compute) == jnp.float16


def init_loss_scale(scaling: Scaling) -> LossScale:
    """Returns the loss scale's state before the first step.

    Example:
      >>> init_loss_scale(Scaling(initial=8.0)).scale.item()
      8.0
    """
    return LossScale(jnp.float32(scaling.initial), jnp.int32(0))


def next_loss_scale(state: LossScale, finite: jax.Array, scaling: Scaling) -> LossScale:
    """Halves the scale after a non-finite step, and doubles it after N finite steps in a row.

    Args:
      state: the scale used in this step.
      finite: whether loss and gradients were finite, boolean scalar.
      scaling: the constants.

    Returns:
      The state for the next step.

    Example:
      >>> now = init_loss_scale(Scaling(initial=8.0))
      >>> next_loss_scale(now, jnp.array(False), Scaling()).scale.item()
      4.0

    Reference: Micikevicius et al., Mixed Precision Training, section 3.2, https://arxiv.org/abs/1710.03740
    """
    good_steps = jnp.where(finite, state.good_steps + 1, 0)
    grow = good_steps >= scaling.growth_interval
    factor = jnp.where(finite, jnp.where(grow, jnp.float32(2.0), jnp.float32(1.0)), jnp.float32(0.5))
    scale = jnp.clip(state.scale * factor, jnp.float32(scaling.smallest), jnp.float32(scaling.largest))
    return LossScale(scale, jnp.where(grow, 0, good_steps))


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype that sums and statistics of a dtype are taken in: float64 of float64, else float32.

    Example:
      >>> wide_dtype(jnp.bfloat16).name
      'float32'
    """
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


def wide(x: jax.Array) -> jax.Array:
    """Returns an array in the dtype that its sums are taken in; see `wide_dtype`.

    Example:
      >>> wide(jnp.ones(2, jnp.float16)).dtype.name
      'float32'
    """
    return x.astype(wide_dtype(x.dtype))


def cast_floating(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Casts the floating-point leaves of a pytree and leaves the others as they are.

    Args:
      tree: any pytree of arrays.
      dtype: the floating dtype to cast to.

    Returns:
      The same structure.

    Example:
      >>> out = cast_floating({"x": jnp.zeros(2), "label": jnp.zeros(2, jnp.int32)}, jnp.bfloat16)
      >>> out["x"].dtype.name, out["label"].dtype.name
      ('bfloat16', 'int32')
    """

    def cast(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def cast_keys(batch: PyTree, dtype: DTypeLike, keys: Sequence[str] | bool) -> PyTree:
    """Casts the floating-point leaves of a batch that lie under some of its keys, and rounds no other.

    What is only compared or counted must not be rounded: in bfloat16 a target of 1001 would become 1000, and so would
    a sum of weights.

    Args:
      batch: any pytree of arrays.
      dtype: the compute dtype.
      keys: keys of the batch, or paths into it such as `"pair/left"`; True for everything. A leaf elsewhere is cast
        only where the compute dtype holds all its values, as float64 does those of float32.

    Returns:
      The same structure.

    Example:
      >>> out = cast_keys({"inputs": jnp.zeros(2), "weight": jnp.ones(2)}, jnp.bfloat16, ("inputs",))
      >>> out["inputs"].dtype.name, out["weight"].dtype.name
      ('bfloat16', 'float32')
    """
    if keys is True:
        return cast_floating(batch, dtype)
    leaves, treedef = jax.tree.flatten(batch)
    cast = [
        cast_floating(leaf, dtype) if lies_under(path, keys or ()) or _holds(dtype, leaf.dtype) else leaf
        for path, leaf in zip(leaf_paths(batch), leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, cast)


def _holds(dtype: DTypeLike, smaller: jnp.dtype) -> bool:
    if not jnp.issubdtype(smaller, jnp.floating):
        return False
    a, b = jnp.finfo(smaller), jnp.finfo(dtype)
    return a.nmant <= b.nmant and a.maxexp <= b.maxexp


def lies_under(path: str, keys: Iterable[str]) -> bool:
    """Whether a leaf's path is one of the keys or lies under one.

    Example:
      >>> lies_under("pair/left", ["pair"]), lies_under("pairs", ["pair"])
      (True, False)
    """
    return any(path == key or path.startswith(f"{key}/") for key in keys)


def promoting(function: Callable) -> Callable:
    """Runs optax under standard dtype promotion: it raises floats to integer powers, which strict mode refuses.

    Example:
      >>> with jax.numpy_dtype_promotion("strict"):
      ...     float(promoting(lambda x: x + jnp.int32(1))(jnp.float32(1)))
      2.0
    """

    def standard(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return standard
