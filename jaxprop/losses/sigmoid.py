"""Sigmoid cross-entropy. Pure."""

from __future__ import annotations

import jax
import optax

from jaxprop.losses.per_example import PerExample, _per_example, _targets
from jaxprop.types import Batch


def sigmoid_cross_entropy(outputs: jax.Array, batch: Batch, *, label_smoothing: float = 0.0) -> PerExample:
    """Independent binary cross-entropies, averaged over the K labels.

    l = mean_k(-y log sigmoid(o) - (1 - y) log sigmoid(-o)), y smoothed to (1 - s) y + s / 2.

    Args:
      outputs: logits `[B, K]`.
      batch: `labels` in 0..1 `[B, K]`; if present, `weight` `[B]`.
      label_smoothing: s.

    Returns:
      Loss in nats `[B]`, weight `[B]`.

    Raises:
      ShapeError: labels of another shape than the outputs.

    Example:
      >>> import jax.numpy as jnp
      >>> loss, _ = sigmoid_cross_entropy(jnp.zeros((1, 2)), {"labels": jnp.array([[0.0, 1.0]])})
      >>> loss.round(3).tolist()
      [0.6930000185966492]
    """
    logits, labels = _targets(outputs, batch)
    labels = (1 - label_smoothing) * labels + label_smoothing / 2
    return _per_example(optax.losses.sigmoid_binary_cross_entropy(logits, labels), batch)
