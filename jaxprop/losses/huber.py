"""The Huber loss. Pure."""

from __future__ import annotations

import jax
import optax

from jaxprop.core.examples import per_example, targets
from jaxprop.losses.per_example import PerExample
from jaxprop.types import Batch


def huber(outputs: jax.Array, batch: Batch, *, delta: float = 1.0) -> PerExample:
    """Huber loss, averaged over the K targets: square near 0, linear beyond `delta`.

    l = mean_k(e^2 / 2 if |e| <= d else d (|e| - d / 2)), e = o - y

    Args:
      outputs: predictions `[B, K]`.
      batch: `labels` `[B, K]`, or `[B]` if K = 1; if present,
        `mask` `[B, K]` or `[B]` and `weight` `[B]`. What they give the weight 0 may hold anything, NaN too.
      delta: d, in units of the labels.

    Returns:
      Loss in squared units of the labels `[B]`, weight `[B]`.

    Raises:
      ShapeError: labels of another shape than the outputs.

    Example:
      >>> import jax.numpy as jnp
      >>> huber(jnp.array([[3.0]]), {"labels": jnp.array([1.0])})[0].tolist()
      [1.5]

    Reference:
      Huber, Robust Estimation of a Location Parameter, 1964.
    """
    return per_example(optax.losses.huber_loss(*targets(outputs, batch), delta=delta), batch, tokens=False)
