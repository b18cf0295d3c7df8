"""What rounding does to an update and to a gradient. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.layers import Groups, row_sums, square
from jaxprop.core.precision import wide
from jaxprop.types import PyTree


def update_rows(groups: Groups, params: PyTree, updates: PyTree, grads: PyTree) -> dict[str, jax.Array]:
    """Norms of parameters and update, and what of the gradient and of the update is nothing.

        swallowed = mean(w + dw = w | g != 0 and dw != 0),   zero_fraction = mean(g = 0)

    `w + dw` is in the dtype of `w`. An entry without a gradient, such as the embedding of a token that is not in the
    batch, is no part of `swallowed`: what moves it is the rest of its momentum, which fades on purpose.

    Args:
      groups: the layers.
      params: before the update.
      updates: what the optimizer proposes.
      grads: the gradient.

    Returns:
      `{name: [L]}`, float32: `param_norm` after the update, `update_norm`, `zero_fraction` and `swallowed`.

    Example:
      >>> from jaxprop.core.layers import group_layers
      >>> params, updates = {"w": jnp.ones(2)}, {"w": jnp.array([1e-9, 1e-3])}
      >>> rows = update_rows(group_layers(params), params, updates, {"w": jnp.ones(2)})
      >>> rows["swallowed"].tolist(), rows["zero_fraction"].tolist()
      ([0.5], [0.0])
    """

    def terms(w: jax.Array, dw: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
        after = _rounded(w + dw.astype(w.dtype))
        moved = (g != 0) & (dw != 0)
        return square(after), square(dw), g != 0, moved, moved & (after == w)

    after, update, nonzero, moved, swallowed = row_sums(groups, terms, params, updates, grads)
    sizes = np.maximum(np.asarray(groups.sizes, np.float32), 1)
    return {
        "param_norm": jnp.sqrt(after),
        "update_norm": jnp.sqrt(update),
        "zero_fraction": jnp.maximum(sizes - nonzero, 0) / sizes,
        "swallowed": swallowed / jnp.maximum(moved, 1),
    }


def _rounded(x: jax.Array) -> jax.Array:
    """Half precision as it is stored: a compiler may keep a sum in float32 as long as that stays in registers."""
    if x.dtype not in (jnp.bfloat16, jnp.float16):
        return x
    kind = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(x, exponent_bits=kind.nexp, mantissa_bits=kind.nmant)


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
        return nonzero & (jnp.abs(wide(g) * scale) < jnp.float32(2.0**-24)), nonzero

    flushed, nonzero = row_sums(groups, terms, grads)
    return flushed / jnp.maximum(nonzero, 1)
