"""Accuracy. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.core.examples import class_labels, targets, weighted_sum
from jaxprop.metrics.totals import SumCount, mean
from jaxprop.types import Batch, Metric


def right_answers(outputs: jax.Array, batch: Batch) -> SumCount:
    """Number of examples, or of tokens, whose largest logit is the label's.

    Args:
      outputs: logits `[B, C]` or `[B, T, V]`.
      batch: `labels` integer `[B]` or `[B, T]`, or shares of the classes `[B, C]` or `[B, T, V]`, whose
        largest is the label; if present, `mask` `[B]` or `[B, T]` and `weight` `[B]`.

    Returns:
      Weighted number of right answers, NaN if a label that counts is no class, and weighted number of answers.

    Raises:
      ShapeError: labels that do not fit the outputs.

    Example:
      >>> total, count = right_answers(jnp.eye(3), {"labels": jnp.array([0, 1, 1])})
      >>> total.item(), count.item()
      (2.0, 3.0)
    """
    logits, labels, known = class_labels(outputs, batch)
    if labels.ndim == logits.ndim:
        labels = jnp.argmax(labels, -1)
    right = (jnp.argmax(logits, -1).astype(labels.dtype) == labels).astype(logits.dtype)
    return weighted_sum(jnp.where(known, right, jnp.nan), batch, tokens=right.ndim > 1)


def right_labels(outputs: jax.Array, batch: Batch) -> SumCount:
    """Share of labels whose logit has the right sign, averaged over the K labels.

    Args:
      outputs: logits `[B, K]`.
      batch: `labels` in 0..1 `[B, K]`; if present, `mask` `[B, K]` or `[B]` and `weight` `[B]`.

    Returns:
      Weighted sum over examples, NaN if a label that counts lies outside 0..1, and sum of weights.

    Raises:
      ShapeError: labels of another shape than the outputs.

    Example:
      >>> outputs, labels = jnp.array([[2.0, -1.0], [3.0, 1.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
      >>> total, count = right_labels(outputs, {"labels": labels})
      >>> total.item(), count.item()
      (1.5, 2.0)
    """
    logits, labels = targets(outputs, batch)
    right = ((logits > 0) == (labels > 0.5)).astype(logits.dtype)
    return weighted_sum(jnp.where((labels >= 0) & (labels <= 1), right, jnp.nan), batch, tokens=False)


accuracy = Metric(right_answers, mean)
multilabel_accuracy = Metric(right_labels, mean)
