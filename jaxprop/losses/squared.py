"""Squared error. Pure."""

from __future__ import annotations

import jax
import optax

from jaxprop.core.examples import per_example, targets
from jaxprop.losses.per_example import PerExample
from jaxprop.types import Batch


def squared_error(outputs: jax.Array, batch: Batch) -> PerExample:
    """Half the squared error, averaged over the K targets.

    l = mean_k((o - y)^2) / 2

    Args:
      outputs: predictions `[B, K]`.
      batch: `labels` `[B, K]`, or `[B]` if K = 1; if present,
        `mask` `[B, K]` or `[B]` and `weight` `[B]`. What they give the weight 0 may hold anything, NaN too.

    Returns:
      Loss in squared units of the labels `[B]`, weight `[B]`.

    Raises:
      ShapeError: labels of another shape than the outputs.

    Example:
      >>> import jax.numpy as jnp
      >>> squared_error(jnp.array([[3.0]]), {"labels": jnp.array([1.0])})[0].tolist()
      [2.0]
    """
    return per_example(optax.losses.l2_loss(*targets(outputs, batch)), batch, tokens=False)
