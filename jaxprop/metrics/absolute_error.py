"""Mean absolute error. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

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


def absolute_error_of(stds: Sequence[float]) -> Metric:
    """Returns the mean absolute error of standardized labels, in the units of the targets: |o - y| std.

    Args:
      stds: standard deviation of each of the K targets, by which their labels were divided.

    Example:
      >>> metric = absolute_error_of([10.0])
      >>> metric.finish(metric.update(jnp.array([[3.0]]), {"labels": jnp.array([[1.0]])}))
      20.0
    """
    units = np.array(stds, np.float32)

    def update(outputs: jax.Array, batch: Batch) -> SumCount:
        predicted, labels = targets(outputs, batch)
        return weighted_sum(jnp.abs(predicted - labels) * units.astype(predicted.dtype), batch, tokens=False)

    return Metric(update, mean)


mean_absolute_error = Metric(absolute_errors, mean)
