"""Sigmoid cross-entropy. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxprop.core.examples import per_example, targets
from jaxprop.losses.per_example import PerExample
from jaxprop.types import Batch


def sigmoid_cross_entropy(outputs: jax.Array, batch: Batch, *, label_smoothing: float = 0.0) -> PerExample:
    """Independent binary cross-entropies, averaged over the K labels.

    l = mean_k(-y log sigmoid(o) - (1 - y) log sigmoid(-o)), y smoothed to (1 - s) y + s / 2.

    Args:
      outputs: logits `[B, K]`.
      batch: `labels` in 0..1 `[B, K]`; if present, `mask` `[B, K]` or `[B]` and `weight` `[B]`. What they give the
        weight 0 may hold anything, NaN too.
      label_smoothing: s.

    Returns:
      Loss in nats `[B]`, weight `[B]`. A label outside 0..1 that counts makes the loss NaN.

    Raises:
      ShapeError: labels of another shape than the outputs.

    Example:
      >>> loss, _ = sigmoid_cross_entropy(jnp.zeros((1, 2)), {"labels": jnp.array([[0.0, 1.0]])})
      >>> loss.round(3).tolist()
      [0.6930000185966492]
    """
    logits, labels = targets(outputs, batch)
    known = jnp.where((labels >= 0) & (labels <= 1), jnp.ones_like(labels), jnp.nan)
    labels = (1 - label_smoothing) * labels + label_smoothing / 2
    # a factor, so that the gradient of such an entry is NaN too
    return per_example(known * optax.losses.sigmoid_binary_cross_entropy(logits, labels), batch, tokens=False)
