"""Softmax cross-entropy. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxprop.core.examples import class_labels, per_example
from jaxprop.losses.per_example import PerExample
from jaxprop.types import Batch


def softmax_cross_entropy(
    outputs: jax.Array, batch: Batch, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> PerExample:
    """Softmax cross-entropy for classes or tokens.

    l = lse(o) - (1 - s) o_y - s mean_c(o_c) + z lse(o)^2, lse the log-sum-exp over classes. Where a label is not one
    class, but shares y_c of all classes, o_y is sum_c(y_c o_c). With tokens, the mean by their mask, and the weight is
    multiplied by the sum of the mask, so that sum(w l) / sum(w) is the mean over tokens.

    Args:
      outputs: logits `[B, C]` or `[B, T, V]`.
      batch: `labels` integer `[B]` or `[B, T]`, or shares of the classes `[B, C]` or `[B, T, V]`, floats of at least 0
        that add up to 1; if present, `mask` `[B]` or `[B, T]` and `weight` `[B]`. What they give the weight 0 may hold
        anything, a label of -100 or an output of NaN too.
      label_smoothing: s, share of the target spread evenly over all classes.
      z_loss: z, keeps the log-sum-exp near 0.

    Returns:
      Loss in nats `[B]`, weight `[B]`. A label outside 0..C-1 that counts makes the loss NaN, and so do shares that
      are negative or do not add up to 1: to leave out labels of -100, give a mask that is 0 there.

    Raises:
      ShapeError: labels that do not fit the outputs.

    Example:
      >>> loss, weight = softmax_cross_entropy(jnp.zeros((1, 4)), {"labels": jnp.array([2])})
      >>> loss.round(3).tolist(), weight.tolist()
      ([1.3860000371932983], [1.0])

    Reference:
      Szegedy et al., Rethinking the Inception Architecture, 2015 (label smoothing); Chowdhery et al., PaLM,
      2022 (z-loss).
    """
    logits, labels, known = class_labels(outputs, batch)
    shares = labels.ndim == logits.ndim
    if shares:
        # NaN before the select in `_weighted`, so that the gradient of what is no distribution is NaN too
        labels = jnp.where(known[..., None], labels, jnp.nan)
        loss = -_weighted(labels, jax.nn.log_softmax(logits, -1))
    else:
        labels = jnp.where(known, labels, 0)
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not isinstance(label_smoothing, float) or label_smoothing:  # that of a lane is an array
        # one-hot targets of [B, T, V] would be as large as the logits
        at = labels[..., None]
        label_logits = _weighted(labels, logits) if shares else jnp.take_along_axis(logits, at, -1)[..., 0]
        loss = loss + label_smoothing * (label_logits - logits.mean(-1))
    if not isinstance(z_loss, float) or z_loss:
        loss = loss + z_loss * jnp.square(jax.nn.logsumexp(logits, -1))
    # a factor, so that the gradient of a label that is no class is NaN too
    return per_example(loss * jnp.where(known, jnp.ones_like(loss), jnp.nan), batch, tokens=loss.ndim > 1)


def _weighted(shares: jax.Array, values: jax.Array) -> jax.Array:
    """Sums over classes; one without a share counts for nothing, though its logit be -inf."""
    return jnp.sum(jnp.where(shares != 0, shares * values, 0), -1)
