"""Signals of a model's outputs: how large they are, and how far logits have drifted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.measurements import OUTPUT_SIGNALS
from jaxprop.types import Batch, Sums


def output_parts(outputs: Any, batch: Batch) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Returns the largest |output| and, of logits over classes, the sum of logsumexp^2 and the number of rows.

    Args:
      outputs: of the model, `[B, ..., classes]`, or a part of them; what is no array is not measured.
      batch: with integer `labels [B, ...]` if the outputs are logits; rows whose `weight` or `mask` is 0 are left out.

    Returns:
      What adds up over parts of the outputs, and of what there is the largest; both for `joined_outputs`.

    Example:
      >>> output_parts(jnp.array([[3.0, -4.0]]), {})[1]["_output_max"].item()
      4.0
    """
    if not isinstance(outputs, jax.Array) or outputs.size == 0:
        return {}, {}
    largest, spread = OUTPUT_SIGNALS
    logits = jax.lax.stop_gradient(outputs).astype(jnp.float32)
    rows = logits.shape[:-1] if logits.ndim > 1 else logits.shape
    counts = _counts(batch, rows)
    real = counts if logits.ndim == len(rows) else counts[..., None]
    most = {largest: jnp.max(jnp.where(real, jnp.abs(logits), 0))}
    labels = batch.get("labels")
    if labels is None or jnp.shape(labels) != outputs.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        return {}, most
    spreads = jnp.where(counts, jnp.square(jax.nn.logsumexp(jnp.where(real, logits, 0), axis=-1)), 0)
    return {spread: jnp.sum(spreads), "rows": jnp.sum(counts, dtype=jnp.float32)}, most


def joined_outputs(added: Mapping[str, jax.Array], largest: Mapping[str, jax.Array]) -> Sums:
    """Returns the largest |output| and the mean of logsumexp^2 as metrics of a batch.

    Args:
      added: sums over the parts of the outputs.
      largest: the largest of the parts.

    Returns:
      `{name: (sum, count)}` by the names of `OUTPUT_SIGNALS`.

    Example:
      >>> {name: total.item() for name, (total, _) in joined_outputs({}, {"_output_max": jnp.array(4.0)}).items()}
      {'_output_max': 4.0}

    Reference:
      Chowdhery et al., PaLM, section 5 (z-loss), https://arxiv.org/abs/2204.02311
    """
    one, spread = jnp.float32(1), OUTPUT_SIGNALS[1]
    sums = {name: (value, one) for name, value in largest.items()}
    if spread in added:
        sums[spread] = (added[spread] / jnp.maximum(added["rows"], 1), one)
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
