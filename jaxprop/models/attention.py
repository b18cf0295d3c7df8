"""Attention: the function in every dtype, and the layers, to a sequence itself and to another one."""

from __future__ import annotations

import itertools
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.forms import traced_for
from jaxprop.core.overrides import softmax_dtype
from jaxprop.core.placing import BATCH, place, splits
from jaxprop.core.precision import wide_dtype
from jaxprop.core.taps import tap_attention
from jaxprop.models.layers import INITS, Initializer, added, dense, product
from jaxprop.models.multipliers import current, times

SHORT, STRETCHES = 128, 4  # queries from which on a causal sequence is taken in stretches, and how many of these
MASKED = -1e30  # a logit that is finite: a query that may attend to nothing gets an average instead of NaN
MASKED_FLOAT16 = -6e4  # the same, within the range of float16


class KeysAndValues(NamedTuple):
    """What attention keeps of the tokens it has read: keys and values, each `[B, L, K, D/H]` for at most L tokens."""

    keys: jax.Array
    values: jax.Array


def rotate(x: jax.Array, base: float = 10_000.0, start: jax.Array | int = 0) -> jax.Array:
    """Rotary position embedding: turns pairs of features by an angle that grows with the position.

    (a, b) -> (a cos t - b sin t, a sin t + b cos t), t = position * base^(-i / (D/2)) for pair i, which is
    features i and i + D/2.

    Args:
      x: queries or keys `[B, T, H, D]`, D even.
      base: longest period, in units of 2 pi positions.
      start: position of the first of them.

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
    positions = jnp.arange(time, dtype=dtype) + jnp.asarray(start, dtype)
    angle = positions[:, None] * frequency  # [T, D/2]
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]  # [T, 1, D/2]
    a, b = jnp.split(x.astype(dtype), 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool, mask: jax.Array | None = None) -> jax.Array:
    """Scaled dot-product attention, `softmax(q k^T / sqrt(D) + mask) v` for each head.

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
    plain = causal and mask is None and k.shape == q.shape and softmax_dtype(q.dtype) == wide_dtype(q.dtype)
    if plain and has_fused_attention(jnp.dtype(q.dtype), q.shape[-1]):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    if causal and mask is None and traced_for() == "cpu" and q.shape[1] >= SHORT and not splits("sequence"):
        return attention_in_stretches(q, k, v)
    return attention_by_products(q, k, v, causal=causal, mask=mask)


def attention_by_products(
    q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool, mask: jax.Array | None = None
) -> jax.Array:
    """The same by two products, with the softmax in float32 or wider, unless the precision overrides it.

    Example:
      >>> q = jnp.ones((1, 3, 2, 4), jnp.bfloat16)
      >>> attention_by_products(q, q, q, causal=True).dtype.name
      'bfloat16'
    """
    dtype, shared = softmax_dtype(q.dtype), q.shape[2] // k.shape[2]
    q_wide, k_wide = q.astype(dtype), _repeated(k.astype(dtype), shared)
    logits = jnp.einsum("bthd,bshd->bhts", q_wide, k_wide) / q.shape[-1] ** 0.5
    if causal:
        logits = jnp.where(jnp.tril(jnp.ones(logits.shape[-2:], bool)), logits, -jnp.inf)
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, masked_logit(dtype))
    shares = softmax(logits)  # [B, H, T, T]
    return jnp.einsum("bhts,bshd->bthd", shares.astype(v.dtype), _repeated(v, shared))


def attention_in_stretches(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal attention of one stretch of queries after the other, each to the keys up to its own end.

    With four stretches, 6 of 16 parts of the matrix of logits, which are masked, are neither computed nor kept. On two
    cores of a CPU this was 1.3 to 1.8 times as fast, forward and backward (`scripts/bench_layers.py`).

    Args:
      q, k, v: as of `attention`.

    Returns:
      `[B, T, H, D]`, in the dtype of `q`.

    Example:
      >>> q = jnp.ones((1, 8, 2, 4))
      >>> bool(jnp.allclose(attention_in_stretches(q, q, q), q))
      True
    """
    dtype, shared = softmax_dtype(q.dtype), q.shape[2] // k.shape[2]
    wide = q.astype(dtype), _repeated(k.astype(dtype), shared), _repeated(v, shared)
    q_all, k_all, v_all = (x.swapaxes(1, 2) for x in wide)  # [B, H, T, D], so that slices are taken of these
    bounds = sorted({q.shape[1] * i // STRETCHES for i in range(STRETCHES + 1)})
    mixed = []
    for start, end in itertools.pairwise(bounds):
        logits = jnp.einsum("bhtd,bhsd->bhts", q_all[:, :, start:end], k_all[:, :, :end]) / q.shape[-1] ** 0.5
        seen = jnp.tril(jnp.ones(logits.shape[-2:], bool), start)
        shares = softmax(jnp.where(seen, logits, -jnp.inf))
        mixed.append(jnp.einsum("bhts,bhsd->bhtd", shares.astype(v.dtype), v_all[:, :, :end]))
    return jnp.concatenate(mixed, 2).swapaxes(1, 2)


@jax.custom_jvp
def softmax(logits: jax.Array) -> jax.Array:
    """Shares of the last axis, `y = exp(x - max x) * (1 / sum exp(x - max x))`.

    `jax.nn.softmax`, but for the division, of which there is one a row. A compiler would make the same of a division of
    each element in some programs and not in others, and a run would have other bits on one device than on two.

    Args:
      logits: `[..., N]`.

    Returns:
      The same shape and dtype.

    Example:
      >>> softmax(jnp.zeros((2, 4))).tolist()[0]
      [0.25, 0.25, 0.25, 0.25]
    """
    raised = jnp.exp(logits - logits.max(-1, keepdims=True))
    return raised * (1 / raised.sum(-1, keepdims=True))


@softmax.defjvp
def _softmax_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    shares, (moved,) = softmax(*primals), tangents
    return shares, shares * (moved - (shares * moved).sum(-1, keepdims=True))


def masked_logit(dtype: jnp.dtype) -> float:
    """Returns a finite logit of a dtype that is next to nothing in a softmax.

    Example:
      >>> masked_logit(jnp.dtype("float32"))
      -1e+30
    """
    return MASKED_FLOAT16 if dtype == jnp.float16 else MASKED


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
        self.factor = current().attention
        self.qkv = dense(config.width, config.width + 2 * self.kv_width, INITS[config.init], rngs=rngs)
        self.out = dense(config.width, config.width, out_init, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps `x [B, T, D]` to `[B, T, D]`; positions where `mask [B, T]` is False are not attended to."""
        b, t, d = x.shape
        parts = split_outputs(self.qkv, x, [d, d + self.kv_width])
        q, k, v = (y.reshape(b, t, -1, d // self.heads) for y in parts)  # [B, T, H or K, D/H]
        # Each device attends from its part of the queries to all keys before them.
        q = place(q, BATCH, "sequence", "tensor", None)
        k, v = (place(y, BATCH, None, "tensor", None) for y in (k, v))
        if self.rope:
            q, k = rotate(q), rotate(k)
        q = times(q, self.factor)
        mixed = attention(q, k, v, causal=self.causal, mask=mask)
        mixed = tap_attention(mixed, q, k, self.name, causal=self.causal, mask=mask)
        return self.out(mixed.reshape(b, t, d))

    def room(self, size: int, length: int, dtype: jnp.dtype) -> KeysAndValues:
        """Returns room for the keys and values of `length` tokens of `size` sequences."""
        width = self.qkv.in_features // self.heads
        empty = jnp.zeros((size, length, self.kv_width // width, width), dtype)
        return KeysAndValues(empty, empty)

    def extend(self, x: jax.Array, held: KeysAndValues, start: jax.Array) -> tuple[jax.Array, KeysAndValues]:
        """Maps further tokens `x [B, t, D]` to `[B, t, D]`; they attend to themselves and to those that were read.

        Args:
          x: of the tokens at positions `start..start + t - 1`.
          held: keys and values of those before.
          start: how many tokens were read, an int32 scalar.
        """
        b, t, d = x.shape
        parts = jnp.split(self.qkv(x), [d, d + self.kv_width], -1)
        q, k, v = (y.reshape(b, t, -1, d // self.heads) for y in parts)
        if self.rope:
            q, k = rotate(q, start=start), rotate(k, start=start)
        q = times(q, self.factor)
        held = KeysAndValues(*(_written(old, new, start) for old, new in zip(held, (k, v), strict=True)))
        dtype, shared = softmax_dtype(q.dtype), q.shape[2] // k.shape[2]
        keys, values = _repeated(held.keys.astype(dtype), shared), _repeated(held.values, shared)
        logits = jnp.einsum("bthd,bshd->bhts", q.astype(dtype), keys) / q.shape[-1] ** 0.5
        seen = jnp.arange(keys.shape[1]) <= start + jnp.arange(t)[:, None]  # [t, L]
        shares = softmax(jnp.where(seen, logits, -jnp.inf))
        mixed = jnp.einsum("bhts,bshd->bthd", shares.astype(values.dtype), values)
        return self.out(mixed.reshape(b, t, d)), held


class CrossAttention(nnx.Module):
    """Multi-head attention of one sequence to another, in which heads of queries may share a head of keys and values.

    Args:
      name: of its tap.
      config: sizes, and the initializer of the input kernels.
      out_init: initializer of the output kernel.
      rngs: random streams.

    Reference:
      Vaswani et al., Attention Is All You Need, 2017. https://arxiv.org/abs/1706.03762
    """

    def __init__(self, name: str, config: schema.Blocks, out_init: Initializer, *, rngs: nnx.Rngs):
        self.name, self.heads, self.factor = name, config.heads, current().attention
        self.kv_width = config.width // config.heads * (config.kv_heads or config.heads)
        self.query = dense(config.width, config.width, INITS[config.init], rngs=rngs)
        self.kv = dense(config.width, 2 * self.kv_width, INITS[config.init], rngs=rngs)
        self.out = dense(config.width, config.width, out_init, rngs=rngs)

    def read(self, source: jax.Array) -> KeysAndValues:
        """Returns keys and values `[B, S, K, D/H]` of what is attended to, `[B, S, D]`."""
        b, s, d = source.shape
        read = split_outputs(self.kv, source, [self.kv_width])
        return KeysAndValues(*(y.reshape(b, s, -1, d // self.heads) for y in read))

    def __call__(self, x: jax.Array, read: KeysAndValues, mask: jax.Array | None = None) -> jax.Array:
        """Maps `x [B, T, D]` to `[B, T, D]`; what `mask [B, S]` leaves out of the other sequence is not attended to."""
        q = self._queries(x)
        mixed = attention(q, *read, causal=False, mask=mask)
        mixed = tap_attention(mixed, q, read.keys, self.name, mask=mask, cross=True)
        return self.out(mixed.reshape(x.shape))

    def shares(self, x: jax.Array, read: KeysAndValues, mask: jax.Array | None = None) -> jax.Array:
        """Returns how much each position attends to each of the other sequence, `[B, T, S]`: the mean over heads."""
        q = self._queries(x)
        dtype = softmax_dtype(q.dtype)
        keys = _repeated(read.keys.astype(dtype), q.shape[2] // read.keys.shape[2])
        logits = jnp.einsum("bthd,bshd->bhts", q.astype(dtype), keys) / q.shape[-1] ** 0.5
        if mask is not None:
            logits = jnp.where(mask[:, None, None, :], logits, masked_logit(dtype))
        return softmax(logits).mean(1)

    def _queries(self, x: jax.Array) -> jax.Array:
        b, t, d = x.shape
        return times(self.query(x), self.factor).reshape(b, t, self.heads, d // self.heads)


def split_outputs(layer: nnx.Linear, x: jax.Array, at: list[int]) -> list[jax.Array]:
    """Returns the outputs of a dense layer in parts: of one product, or of one each where kernels are split by columns.

    The columns that a device has of a kernel for queries, keys and values are not those of its heads. So the parts of
    the kernel are split over the devices anew, which moves less than to do so with the outputs.

    Args:
      layer: the layer.
      x: its inputs `[B, T, D]`.
      at: where the outputs are parted.
    """
    if not splits("tensor"):
        return jnp.split(layer(x), at, -1)
    assert layer.bias is not None
    kernels, biases = jnp.split(layer.kernel[...], at, -1), jnp.split(layer.bias[...], at, -1)
    return [
        added(product(x, place(kernel, None, "tensor")), place(bias, "tensor"))
        for kernel, bias in zip(kernels, biases, strict=True)
    ]


def _written(old: jax.Array, new: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, start, 0, 0))
