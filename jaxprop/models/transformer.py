"""Decoder-only transformer."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.precision import wide_dtype
from jaxprop.core.taps import tap, tap_attention
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.models.layers import (
    ACTIVATIONS,
    INITS,
    TAP_KINDS,
    Embed,
    Initializer,
    LayerNorm,
    dense,
    is_integer,
    product,
    scaled,
    vocabulary,
)
from jaxprop.types import Spec


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


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal scaled dot-product attention, `softmax(q k^T / sqrt(D) + mask) v` for each head.

    `jax.nn.dot_product_attention` for float32. In float64 that function takes its softmax in float32; in
    bfloat16 its gradient asks for implicit promotion of dtypes; in float16 it does not compile on CPU.

    In bfloat16 and float16, a GPU takes cuDNN's attention, which holds no `[T, T]` array. Forward and backward took
    0.45 ms where two products took 2.1 ms (bfloat16, 16 x 1024 tokens, 12 heads of 64, one H100).

    Args:
      q, k, v: `[B, T, H, D]`.

    Returns:
      `[B, T, H, D]`, in the dtype of `q`.

    Example:
      >>> q = jnp.ones((1, 3, 2, 4))
      >>> bool(jnp.allclose(causal_attention(q, q, q), q))
      True

    Reference:
      Vaswani et al., Attention Is All You Need, 2017. https://arxiv.org/abs/1706.03762
    """
    if q.dtype == jnp.float32:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)
    if has_fused_attention(jnp.dtype(q.dtype), q.shape[-1]):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    return attention_by_products(q, k, v)


def attention_by_products(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The same by two products, with the softmax in float32 or wider.

    Example:
      >>> q = jnp.ones((1, 3, 2, 4), jnp.bfloat16)
      >>> attention_by_products(q, q, q).dtype.name
      'bfloat16'
    """
    dtype = wide_dtype(q.dtype)
    logits = jnp.einsum("bthd,bshd->bhts", q.astype(dtype), k.astype(dtype)) / q.shape[-1] ** 0.5
    causal = jnp.tril(jnp.ones(logits.shape[-2:], bool))
    shares = jax.nn.softmax(jnp.where(causal, logits, -jnp.inf), -1)  # [B, H, T, T]
    return jnp.einsum("bhts,bshd->bthd", shares.astype(v.dtype), v)


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
    """Causal multi-head self-attention; `name` is its tap's."""

    def __init__(self, name: str, config: schema.Transformer, out_init: Initializer, *, rngs: nnx.Rngs):
        self.name = name
        self.heads = config.heads
        self.rope = config.positions == "rope"
        self.qkv = dense(config.width, 3 * config.width, INITS[config.init], rngs=rngs)
        self.out = dense(config.width, config.width, out_init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        b, t, d = x.shape
        q, k, v = (y.reshape(b, t, self.heads, -1) for y in jnp.split(self.qkv(x), 3, -1))  # [B, T, H, D/H]
        if self.rope:
            q, k = rotate(q), rotate(k)
        mixed = tap_attention(causal_attention(q, k, v), q, k, self.name, causal=True)
        return self.out(mixed.reshape(b, t, d))


class FeedForward(nnx.Module):
    """dense, activation, dense; `name` is its tap's."""

    def __init__(self, name: str, config: schema.Transformer, out_init: Initializer, *, rngs: nnx.Rngs):
        self.name, self.kind = name, TAP_KINDS.get(config.activation, "")
        inner = config.ff_multiple * config.width
        self.up = dense(config.width, inner, INITS[config.init], rngs=rngs)
        self.down = dense(inner, config.width, out_init, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(tap(self.activation(self.up(x)), self.name, self.kind))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), each with dropout on its branch."""

    def __init__(self, name: str, config: schema.Transformer, *, rngs: nnx.Rngs):
        self.name = name
        out_init = scaled(INITS[config.init], (2 * config.layers) ** -0.5)
        self.attn_norm = LayerNorm(config.width)
        self.attn = Attention(f"{name}/attn", config, out_init, rngs=rngs)
        self.mlp_norm = LayerNorm(config.width)
        self.mlp = FeedForward(f"{name}/mlp", config, out_init, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.dropout(self.attn(self.attn_norm(x)))
        return tap(x + self.dropout(self.mlp(self.mlp_norm(x))), self.name)


class Transformer(nnx.Module):
    """Decoder-only transformer over tokens: pre-LN, causal, rotary or learned positions.

    Args:
      config: the section `model` of the configuration. `init` is of the dense kernels; those that end a
        residual branch start 1/sqrt(2 L) as large, and embeddings start normal(0.02), as in GPT-2.
        Dropout acts on the embeddings and on each residual branch, not on attention weights.
      spec: tokens `[T]` as `inputs`; their `vocabulary` V.
      rngs: random streams.

    Raises:
      ShapeError: the inputs are no tokens, or longer than learned positions reach.
      ConfigError: the heads do not divide the width into even parts.

    Example:
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((16,), jnp.int32)}, {"vocabulary": 256})
      >>> config = schema.Transformer(name="transformer", layers=1, width=8, heads=2)
      >>> tokens = jnp.zeros((2, 16), jnp.int32)
      >>> nnx.eval_shape(lambda: Transformer(config, spec, rngs=nnx.Rngs(0))(tokens)).shape
      (2, 16, 256)

    Reference:
      Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
    """

    def __init__(self, config: schema.Transformer, spec: Spec, *, rngs: nnx.Rngs):
        _expect_tokens(spec)
        _expect_heads(config)
        tokens, (time,) = vocabulary(spec, "transformer"), spec.batch["inputs"].shape
        self.embed = Embed(tokens, config.width, stddev=0.02, rngs=rngs)
        learned = config.positions == "learned"
        self.positions = Embed(time, config.width, stddev=0.02, rngs=rngs) if learned else None
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.blocks = nnx.List([Block(f"blocks/{i}", config, rngs=rngs) for i in range(config.layers)])
        self.final_norm = LayerNorm(config.width)
        head = partial(dense, config.width, tokens, INITS[config.init], use_bias=False, rngs=rngs)
        self.head = None if config.tie_embeddings else head()

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens `[B, T]` to logits `[B, T, V]`; position t sees tokens 0..t."""
        x = self.embed(tokens)  # [B, T, D]
        if self.positions is not None:
            x = x + _first_rows(self.positions.embedding[...], tokens.shape[1])
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.final_norm(x)
        logits = product(x, self.embed.embedding[...].T) if self.head is None else self.head(x)
        return tap(logits, "head", "output")


def _first_rows(table: jax.Array, time: int) -> jax.Array:
    if time > table.shape[0]:
        raise ShapeError(
            f"expected at most {table.shape[0]} tokens, the learned positions of this model, got {time}; "
            "use positions: rope for longer texts"
        )
    return table[:time]


def _expect_tokens(spec: Spec) -> None:
    inputs = spec.batch["inputs"]
    if len(inputs.shape) != 1 or not is_integer(inputs.dtype):
        raise ShapeError(
            f"model transformer expected integer tokens [T], got {jnp.dtype(inputs.dtype)} {list(inputs.shape)} an "
            "example; for floats use model.name: mlp, cnn or rnn"
        )
    if spec.sizes.keys() & {"classes", "targets"}:
        raise ShapeError(
            "model transformer expected data with an answer for every token, got sizes "
            f"{dict(spec.sizes)}; for one answer an example use model.name: rnn"
        )


def _expect_heads(config: schema.Transformer) -> None:
    unit = 2 * config.heads if config.positions == "rope" else config.heads
    if config.width % unit:
        fixed = -(-config.width // unit) * unit
        raise ConfigError(
            f"model.width: expected a multiple of {unit} for {config.heads} heads with {config.positions} positions, "
            f"got {config.width}; write width: {fixed}"
        )
