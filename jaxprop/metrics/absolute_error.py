"""Mean absolute error. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.core.examples import targets, weighted_sum
from jaxprop.metrics.totals import SumCount, mean
from jaxprop.types import Batch, Metric


def absolute_errors(outputs: jax.Array, batch: Batch) -> SumCount:
    """Absolute error in the labels' units, averaged over the K targets.

    Args:
      outputs: predictions `[B, K]`.
      batch: `labels` `[B, K]`, or `[B]` if K = 1; if present, `mask` `[B, K]` or `[B]` and `weight` `[B]`.

    Returns:
      Weighted sum over examples, sum of weights.

    Raises:
      ShapeError: labels of another shape than the outputs.

    Example:
      >>> total, count = absolute_errors(jnp.array([[3.0], [1.0]]), {"labels": jnp.array([1.0, 1.0])})
      >>> total.item(), count.item()
      (2.0, 2.0)
    """
    predicted, labels = targets(outputs, batch)
    return weighted_sum(jnp.abs(predicted - labels), batch, tokens=False)


mean_absolute_error = Metric(absolute_errors, mean)
