"""Signals of rounding: updates that change nothing, gradients that float16 flushes to zero. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.core.layers import Groups, _wide, row_sums
from jaxprop.types import PyTree


def swallowed_rows(groups: Groups, params: PyTree, updates: PyTree) -> jax.Array:
    """Share of entries whose update was nonzero and changed nothing, `w + dw = w` in the dtype of `w`, `[L]`.

    Example:
      >>> from jaxprop.core.layers import group_layers
      >>> params, updates = {"w": jnp.ones(2)}, {"w": jnp.array([1e-9, 1e-3])}
      >>> swallowed_rows(group_layers(params), params, updates).tolist()
      [0.5]
    """

    def terms(w: jax.Array, dw: jax.Array) -> tuple[jax.Array, ...]:
        return ((w + dw.astype(w.dtype) == w) & (dw != 0),)

    return row_sums(groups, terms, params, updates)[0] / jnp.asarray(groups.sizes, jnp.float32)


def flushed_rows(groups: Groups, grads: PyTree, scale: jax.Array) -> jax.Array:
    """Share of nonzero gradient entries, taken in float32, that float16 flushes to 0 at a loss scale, `[L]`.

        mean(0 < |s g| < 2^-24) / mean(g != 0)

    Example:
      >>> from jaxprop.core.layers import group_layers
      >>> grads = {"w": jnp.array([0.0, 1e-9, 1e-3])}
      >>> flushed_rows(group_layers(grads), grads, jnp.float32(1)).tolist()
      [0.5]

    Reference:
      Micikevicius et al., Mixed Precision Training, section 3.2, https://arxiv.org/abs/1710.03740
    """

    def terms(g: jax.Array) -> tuple[jax.Array, ...]:
        nonzero = g != 0
        return nonzero & (jnp.abs(_wide(g) * scale) < jnp.float32(2.0**-24)), nonzero

    flushed, nonzero = row_sums(groups, terms, grads)
    return flushed / jnp.maximum(nonzero, 1)
