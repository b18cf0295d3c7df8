"""Noise of the gradient, estimated from microbatches. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def noise(batch_square: jax.Array, micro_square: jax.Array, examples: int, microbatches: int) -> list[jax.Array]:
    """Unbiased estimates of the gradient's noise and signal, from microbatches of one step.

        E[S] = (m - |g|^2) / (1/b - 1/B),   E[G^2] = (B |g|^2 - b m) / (B - b)

    where m is the mean of `|g_k|^2` over microbatches of b examples and g the gradient of all B. The noise scale is
    `E[S] / E[G^2]` examples; each is noisy, so average them over steps before dividing.

    Args:
      batch_square: `|g|^2`.
      micro_square: m.
      examples: B.
      microbatches: B / b; with a single one there is no estimate, and both are NaN.

    Returns:
      E[S] and E[G^2], float32 scalars.

    Example:
      >>> [x.item() for x in noise(jnp.float32(2), jnp.float32(3), 8, 2)]
      [8.0, 1.0]

    Reference:
      McCandlish et al., An Empirical Model of Large-Batch Training, appendix A, https://arxiv.org/abs/1812.06162
    """
    if microbatches == 1:
        return [jnp.float32(jnp.nan)] * 2
    small = examples / microbatches
    trace = (micro_square - batch_square) / (1 / small - 1 / examples)
    signal = (examples * batch_square - small * micro_square) / (examples - small)
    return [trace, signal]
