"""Mean absolute error. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.metrics.weighted import SumCount, _weighted
from jaxprop.types import Batch


def mean_absolute_error(outputs: jax.Array, batch: Batch) -> SumCount:
    """Absolute error in the labels' units, averaged over the K targets.

    Args:
      outputs: predictions `[B, K]`.
      batch: `labels` `[B, K]`, or `[B]` if K = 1; if present, `weight` `[B]`.

    Returns:
      Weighted sum over examples, sum of weights.

    Example:
      >>> total, count = mean_absolute_error(jnp.array([[3.0], [1.0]]), {"labels": jnp.array([1.0, 1.0])})
      >>> total.item(), count.item()
      (2.0, 2.0)
    """
    labels = jnp.asarray(batch["labels"]).reshape(outputs.shape).astype(jnp.float32)
    return _weighted(jnp.abs(outputs.astype(jnp.float32) - labels), batch)
