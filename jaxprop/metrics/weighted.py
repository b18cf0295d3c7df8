"""What the metrics share. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.types import Batch

SumCount = tuple[jax.Array, jax.Array]


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
