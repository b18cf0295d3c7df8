"""Mixed precision: which dtype holds parameters, which computes, and the dynamic loss scale. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprop.errors import UsageError, one_of


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
