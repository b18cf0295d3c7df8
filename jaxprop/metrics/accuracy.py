"""Accuracy. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.metrics.weighted import SumCount, _weighted
from jaxprop.types import Batch


def accuracy(outputs: jax.Array, batch: Batch) -> SumCount:
    """Share of examples, or of real tokens, whose largest logit is the label's.

    Args:
      outputs: logits `[B, C]` or `[B, T, V]`.
      batch: `labels` `[B]` or `[B, T]`; if present, `mask` `[B, T]` and `weight` `[B]`.

    Returns:
      Weighted number of right answers, weighted number of answers.

    Example:
      >>> total, count = accuracy(jnp.eye(3), {"labels": jnp.array([0, 1, 1])})
      >>> total.item(), count.item()
      (2.0, 3.0)
    """
    right = jnp.argmax(outputs, -1) == jnp.asarray(batch["labels"]).astype(jnp.int32)
    return _weighted(right.astype(jnp.float32), batch, masked=right.ndim > 1)


def multilabel_accuracy(outputs: jax.Array, batch: Batch) -> SumCount:
    """Share of labels whose logit has the right sign, averaged over the K labels.

    Args:
      outputs: logits `[B, K]`.
      batch: `labels` in 0..1 `[B, K]`; if present, `weight` `[B]`.

    Returns:
      Weighted sum over examples, sum of weights.

    Example:
      >>> outputs, labels = jnp.array([[2.0, -1.0], [3.0, 1.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
      >>> total, count = multilabel_accuracy(outputs, {"labels": labels})
      >>> total.item(), count.item()
      (1.5, 2.0)
    """
    right = (outputs > 0) == (jnp.asarray(batch["labels"]) > 0.5)
    return _weighted(right.astype(jnp.float32), batch)
