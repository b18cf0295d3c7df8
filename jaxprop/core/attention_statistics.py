"""How sharp attention is, from a sample of its queries. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

SUBSET = 16  # queries of a sequence whose attention is looked at


def attention_statistics(
    queries: jax.Array, keys: jax.Array, causal: bool, mask: jax.Array | None = None, cross: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns the largest |logit| and the mean normalized entropy over the sampled queries, float32 scalars.

    Example:
      >>> q = jnp.ones((1, 4, 1, 4))
      >>> [round(float(x), 3) for x in attention_statistics(q, q, causal=False)]
      [2.0, 1.0]
    """
    time, heads = queries.shape[1], queries.shape[2]
    # The last query is among them; causal queries 0 have one key and no entropy to speak of.
    at = jnp.asarray([round((i + 1) * time / min(SUBSET, time)) - 1 for i in range(min(SUBSET, time))], jnp.int32)
    q = queries[:4, at].astype(jnp.float32)  # [b, t, H, D]
    k = jnp.repeat(keys[:4].astype(jnp.float32), heads // keys.shape[2], axis=2)  # [b, S, H, D]
    logits = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    seen = (
        jnp.arange(k.shape[1], dtype=jnp.int32)[None, :] <= at[:, None] if causal else jnp.ones(logits.shape[-2:], bool)
    )
    if mask is not None:
        real = mask[:4]
        seen = seen & real[:, None, None, :]  # [b, 1, t, S]
        seen = seen if cross else seen & real[:, at][:, None, :, None]
    log_share = jax.nn.log_softmax(jnp.where(seen, logits, -jnp.inf), -1)
    entropy = -jnp.sum(jnp.where(seen, jnp.exp(log_share) * log_share, 0), -1)  # [b, H, t]
    several = seen.sum(-1) > 1
    share = jnp.where(several, entropy / jnp.log(jnp.maximum(seen.sum(-1), 2).astype(jnp.float32)), 0)
    mean = jnp.sum(share) / jnp.maximum(jnp.sum(jnp.broadcast_to(several, share.shape)), 1).astype(jnp.float32)
    return jnp.max(jnp.where(seen, jnp.abs(logits), 0)), mean
