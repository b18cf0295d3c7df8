"""The focal loss, a binary cross-entropy that counts easy entries for little. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def focal(logits: jax.Array, targets: jax.Array, *, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
    """Focal loss of independent binary answers.

    l = -a_t (1 - p_t)^g log p_t,   p_t = p if y = 1 else 1 - p,   a_t = a if y = 1 else 1 - a,   p = sigmoid(o)

    Args:
      logits: o `[...]`.
      targets: y `[...]`, 0 or 1.
      alpha: a, weight of the answers that are 1.
      gamma: g; the larger, the less an answer counts that is nearly right. 0 makes it a weighted cross-entropy.

    Returns:
      `[...]` in nats.

    Example:
      >>> round(focal(jnp.array(0.0), jnp.array(1.0)).item(), 4)
      0.0433

    Reference:
      Lin et al., Focal Loss for Dense Object Detection, 2017. https://arxiv.org/abs/1708.02002
    """
    signed = jnp.where(targets > 0, logits, -logits)
    weight = jnp.where(targets > 0, alpha, 1 - alpha).astype(logits.dtype)
    # 1 - p_t as a sigmoid of its own, and as exp of a logarithm, whose gradient is finite for any gamma.
    miss = jnp.exp(gamma * jax.nn.log_sigmoid(-signed))
    return -weight * miss * jax.nn.log_sigmoid(signed)
