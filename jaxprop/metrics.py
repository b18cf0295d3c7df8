"""Metrics: outputs and a batch to a sum and a count, float32 scalars that add up over batches. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.types import Batch, Metric

SumCount = tuple[jax.Array, jax.Array]


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


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "multilabel_accuracy": multilabel_accuracy,
    "mean_absolute_error": mean_absolute_error,
}


def _weighted(values: jax.Array, batch: Batch, masked: bool = False) -> SumCount:
    """Sums `values [B, ...]` by weight: every real token counts if masked, else every example's mean."""
    weight = batch.get("weight")
    weight = jnp.ones(values.shape[0], jnp.float32) if weight is None else jnp.asarray(weight).astype(jnp.float32)
    if not masked:
        each = values.reshape(values.shape[0], -1).mean(-1)
        return jnp.sum(jnp.where(weight > 0, weight * each, 0)), jnp.sum(weight)
    mask = batch.get("mask")
    mask = jnp.ones_like(values) if mask is None else jnp.asarray(mask).astype(jnp.float32)
    mask = mask * weight.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.sum(jnp.where(mask > 0, mask * values, 0)), jnp.sum(mask)
