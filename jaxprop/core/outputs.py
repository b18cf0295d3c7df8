"""Signals of a model's outputs: how large they are, and how far logits have drifted. Pure."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.measurements import OUTPUT_SIGNALS
from jaxprop.types import Batch, Sums


def output_sums(outputs: Any, batch: Batch) -> Sums:
    """Returns the largest |output| and, of logits over classes, the mean of logsumexp^2, as metrics of a batch.

    Args:
      outputs: of the model, `[B, ..., classes]`; what is no array is not measured.
      batch: with integer `labels [B, ...]` if the outputs are logits; rows whose `weight` or `mask` is 0 are left out.

    Returns:
      `{name: (sum, count)}` by the names of `OUTPUT_SIGNALS`.

    Example:
      >>> outputs = jnp.array([[3.0, -4.0]])
      >>> {name: total.item() for name, (total, _) in output_sums(outputs, {}).items()}
      {'_output_max': 4.0}

    Reference:
      Chowdhery et al., PaLM, section 5 (z-loss), https://arxiv.org/abs/2204.02311
    """
    if not isinstance(outputs, jax.Array) or outputs.size == 0:
        return {}
    largest, spread = OUTPUT_SIGNALS
    logits, one = jax.lax.stop_gradient(outputs).astype(jnp.float32), jnp.float32(1)
    rows = logits.shape[:-1] if logits.ndim > 1 else logits.shape
    counts = _counts(batch, rows)
    real = counts if logits.ndim == len(rows) else counts[..., None]
    sums = {largest: (jnp.max(jnp.where(real, jnp.abs(logits), 0)), one)}
    labels = batch.get("labels")
    if labels is not None and jnp.shape(labels) == outputs.shape[:-1] and jnp.issubdtype(labels.dtype, jnp.integer):
        spreads = jnp.where(counts, jnp.square(jax.nn.logsumexp(jnp.where(real, logits, 0), axis=-1)), 0)
        sums[spread] = (jnp.sum(spreads) / jnp.maximum(jnp.sum(counts, dtype=jnp.float32), 1), one)
    return sums


def _counts(batch: Batch, shape: tuple[int, ...]) -> jax.Array:
    """Which rows of the outputs count: those whose weight and mask, as far as they fit, are not 0."""
    counts = jnp.ones(shape, bool)
    for name in ("weight", "mask"):
        held = batch.get(name)
        if held is not None and 0 < jnp.ndim(held) <= len(shape) and jnp.shape(held) == shape[: jnp.ndim(held)]:
            counts &= jnp.reshape(
                jnp.asarray(held).astype(bool), jnp.shape(held) + (1,) * (len(shape) - jnp.ndim(held))
            )
    return counts
