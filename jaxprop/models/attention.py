"""Self-attention: the function in every dtype, and the layer with rotary positions and grouped queries."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.precision import wide_dtype
from jaxprop.core.taps import tap_attention
from jaxprop.models.layers import INITS, Initializer, dense

MASKED = -1e30  # a logit that is finite: a query that may attend to nothing gets an average instead of NaN


def rotate(x: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Rotary position embedding: turns pairs of features by an angle that grows with the position.

    (a, b) -> (a cos t - b sin t, a sin t + b cos t), t = position * base^(-i / (D/2)) for pair i, which is
    features i and i + D/2.

    Args:
      x: queries or keys `[B, T, H, D]`, D even.
      base: longest period, in units of 2 pi positions.

    Returns:
      The same shape and dtype.

    Example:
      >>> x = jnp.ones((1, 3, 1, 4))
      >>> bool(jnp.allclose(rotate(x)[:, 0], x[:, 0]))
      True

    Reference:
      Su et al., RoFormer, 2021. https://arxiv.org/abs/2104.09864
    """
    time, half, dtype = x.shape[1], x.shape[-1] // 2, wide_dtype(x.dtype)
    frequency = base ** (-jnp.arange(half, dtype=dtype) / half)
    angle = jnp.arange(time, dtype=dtype)[:, None] * frequency  # [T, D/2]
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]  # [T, 1, D/2]
    a, b = jnp.split(x.astype(dtype), 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool, mask: jax.Array | None = None) -> jax.Array:
    """Scaled dot-product attention, `softmax(q k^T / sqrt(D) + mask) v` for each head.

    `jax.nn.dot_product_attention` for float32. In float64 that function takes its softmax in float32; in
    bfloat16 its gradient asks for implicit promotion of dtypes; in float16 it does not compile on CPU.

    In bfloat16 and float16, a GPU takes cuDNN's attention, which holds no `[T, T]` array. Forward and backward took
    0.45 ms where two products took 2.1 ms (bfloat16, 16 x 1024 tokens, 12 heads of 64, one H100). It was checked for
    causal attention without a mask and without groups, and only that takes it.

    Args:
      q: queries `[B, T, H, D]`.
      k, v: keys and values `[B, T, K, D]`; K divides H, and each of their heads is shared by H / K heads of queries.
      causal: whether query t attends to keys 0..t only.
      mask: boolean `[B, T]`, which keys are attended to; None for all. A query that may attend to none of them gets a
        mean of values.

    Returns:
      `[B, T, H, D]`, in the dtype of `q`.

    Example:
      >>> q = jnp.ones((1, 3, 2, 4))
      >>> bool(jnp.allclose(attention(q, q[:, :, :1], q[:, :, :1], causal=True), q))
      True

    Reference:
      Vaswani et al., Attention Is All You Need, 2017. https://arxiv.org/abs/1706.03762; Ainslie et al., GQA, 2023.
      https://arxiv.org/abs/2305.13245
    """
    if q.dtype == jnp.float32:
        seen = None if mask is None else mask[:, None, None, :]
        return jax.nn.dot_product_attention(q, k, v, mask=seen, is_causal=causal)
    plain = causal and mask is None and k.shape == q.shape
    if plain and has_fused_attention(jnp.dtype(q.dtype), q.shape[-1]):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    return attention_by_products(q, k, v, causal=causal, mask=mask)


def attention_by_products(
    q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool, mask: jax.Array | None = None
) -> jax.Array:
    """The same by two products, with the softmax in float32 or wider.

    Example:
      >>> q = jnp.ones((1, 3, 2, 4), jnp.bfloat16)
      >>> attention_by_products(q, q, q, causal=True).dtype.name
      'bfloat16'
    """
    dtype, shared = wide_dtype(q.dtype), q.shape[2] // k.shape[2]
    q_wide, k_wide = q.astype(dtype), _repeated(k.astype(dtype), shared)
    logits = jnp.einsum("bthd,bshd->bhts", q_wide, k_wide) / q.shape[-1] ** 0.5
    if causal:
        logits = jnp.where(jnp.tril(jnp.ones(logits.shape[-2:], bool)), logits, -jnp.inf)
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, MASKED)
    shares = jax.nn.softmax(logits, -1)  # [B, H, T, T]
    return jnp.einsum("bhts,bshd->bthd", shares.astype(v.dtype), _repeated(v, shared))


def _repeated(x: jax.Array, times: int) -> jax.Array:
    return x if times == 1 else jnp.repeat(x, times, axis=2)


@cache
def has_fused_attention(dtype: jnp.dtype, width: int) -> bool:
    """Whether cuDNN has attention for a dtype and a width of heads on the default device; JAX itself is asked.

    Example:
      >>> has_fused_attention(jnp.dtype("float32"), 64)
      False
    """
    if dtype not in (jnp.bfloat16, jnp.float16) or jax.default_backend() != "gpu":
        return False
    x = jax.ShapeDtypeStruct((1, 64, 1, width), dtype)
    fused = partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
    try:
        jax.eval_shape(jax.grad(lambda q, k, v: fused(q, k, v).astype(jnp.float32).sum()), x, x, x)
    except Exception:  # no cuDNN, or none that takes this width
        return False
    return True


class Attention(nnx.Module):
    """Multi-head self-attention, in which heads of queries may share a head of keys and values.

    Args:
      name: of its tap.
      config: sizes, and the initializer of the input kernel.
      out_init: initializer of the output kernel.
      causal: whether a token attends only to itself and to earlier ones.
      rope: whether queries and keys have rotary positions.
      rngs: random streams.
    """

    def __init__(
        self, name: str, config: schema.Blocks, out_init: Initializer, *, causal: bool, rope: bool, rngs: nnx.Rngs
    ):
        self.name, self.causal, self.rope = name, causal, rope
        self.heads = config.heads
        self.kv_width = config.width // config.heads * (config.kv_heads or config.heads)
        self.qkv = dense(config.width, config.width + 2 * self.kv_width, INITS[config.init], rngs=rngs)
        self.out = dense(config.width, config.width, out_init, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps `x [B, T, D]` to `[B, T, D]`; positions where `mask [B, T]` is False are not attended to."""
        b, t, d = x.shape
        parts = jnp.split(self.qkv(x), [d, d + self.kv_width], -1)
        q, k, v = (y.reshape(b, t, -1, d // self.heads) for y in parts)  # [B, T, H or K, D/H]
        if self.rope:
            q, k = rotate(q), rotate(k)
        mixed = attention(q, k, v, causal=self.causal, mask=mask)
        mixed = tap_attention(mixed, q, k, self.name, causal=self.causal, mask=mask)
        return self.out(mixed.reshape(b, t, d))
