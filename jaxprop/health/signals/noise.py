"""Noise of the gradient, estimated from microbatches. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def noise(
    batch_square: jax.Array, micro_square: jax.Array, examples: int | jax.Array, microbatches: int | jax.Array
) -> list[jax.Array]:
    """Unbiased estimates of the gradient's noise and signal, from microbatches of one step.

        E[S] = (m - |g|^2) / (1/b - 1/B),   E[G^2] = (B |g|^2 - b m) / (B - b)

    where m is the mean of `|g_k|^2` over microbatches of b examples and g the gradient of all B. The noise scale is
    `E[S] / E[G^2]` examples; each is noisy, so average them over steps before dividing.

    Args:
      batch_square: `|g|^2`.
      micro_square: m.
      examples: B, those of weight 0 left out.
      microbatches: B / b, those of padding alone left out; with a single one there is no estimate.

    Returns:
      E[S] and E[G^2], float32 scalars; both 0 without an estimate, which leaves the quotient of their sums as it is.

    Example:
      >>> [x.item() for x in noise(jnp.float32(2), jnp.float32(3), 8, 2)]
      [8.0, 1.0]

    Reference:
      McCandlish et al., An Empirical Model of Large-Batch Training, appendix A, https://arxiv.org/abs/1812.06162
    """
    several = microbatches > 1
    parts = jnp.where(several, microbatches, 2).astype(jnp.float32)
    examples = jnp.maximum(examples, 1).astype(jnp.float32)
    trace = (micro_square - batch_square) * examples / (parts - 1)
    signal = (parts * batch_square - micro_square) / (parts - 1)
    return [jnp.where(several, x, 0) for x in (trace, signal)]
