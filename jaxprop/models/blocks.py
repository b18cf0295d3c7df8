"""Transformer blocks: attention and feed-forward layers on a residual stream."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.placing import BATCH, place
from jaxprop.core.taps import tap
from jaxprop.errors import ConfigError
from jaxprop.models.attention import Attention, CrossAttention, KeysAndValues
from jaxprop.models.dropout import Dropout
from jaxprop.models.layers import ACTIVATIONS, INITS, TAP_KINDS, Initializer, LayerNorm, RmsNorm, dense, scaled

NORMS: dict[str, Callable[..., nnx.Module]] = {"layer": LayerNorm, "rms": RmsNorm}


def normalization(config: schema.Blocks) -> nnx.Module:
    """Returns a new normalization layer of the model's width, as the section `model` has it.

    Example:
      >>> normalization(schema.Blocks(name="vit", width=8, norm="rms", norm_epsilon=1e-5)).epsilon
      1e-05
    """
    return NORMS[config.norm](config.width, epsilon=config.norm_epsilon)


class FeedForward(nnx.Module):
    """dense, activation, dense; `name` is its tap's."""

    def __init__(self, name: str, config: schema.Blocks, out_init: Initializer, *, rngs: nnx.Rngs):
        self.name, self.kind = name, TAP_KINDS.get(config.activation, "")
        inner = config.ff_multiple * config.width
        self.up = dense(config.width, inner, INITS[config.init], rngs=rngs)
        self.down = dense(inner, config.width, out_init, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        inner = place(self.activation(self.up(x)), BATCH, "sequence", "tensor")
        return self.down(tap(inner, self.name, self.kind))


class SwiGlu(nnx.Module):
    """Gated feed-forward layer, `(silu(x W_gate) * (x W_up)) W_down`, without biases; `name` is its tap's.

    Reference:
      Shazeer, GLU Variants Improve Transformer, 2020. https://arxiv.org/abs/2002.05202
    """

    def __init__(self, name: str, config: schema.Blocks, out_init: Initializer, *, rngs: nnx.Rngs):
        self.name = name
        inner, init = config.ff_multiple * config.width, INITS[config.init]
        self.gate = dense(config.width, inner, init, use_bias=False, rngs=rngs)
        self.up = dense(config.width, inner, init, use_bias=False, rngs=rngs)
        self.down = dense(inner, config.width, out_init, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        inner = place(jax.nn.silu(self.gate(x)) * self.up(x), BATCH, "sequence", "tensor")
        return self.down(tap(inner, self.name))


FEED_FORWARD: dict[str, Callable[..., nnx.Module]] = {"mlp": FeedForward, "swiglu": SwiGlu}


class Block(nnx.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), each with dropout on its branch.

    With `post`, norm(x + attention(x)), then norm(x + feed-forward(x)).

    Args:
      name: of its tap.
      config: sizes and kinds of the layers. The kernels that end a residual branch start 1/sqrt(2 L) as large as
        `init` says, as in GPT-2.
      causal: whether a token attends only to itself and to earlier ones.
      rope: whether attention has rotary positions.
      post: whether normalization follows the sums, rather than going before the layers.
      rngs: random streams.

    Reference:
      Xiong et al., On Layer Normalization in the Transformer Architecture, 2020. https://arxiv.org/abs/2002.04745
    """

    def __init__(
        self, name: str, config: schema.Blocks, *, causal: bool, rope: bool, post: bool = False, rngs: nnx.Rngs
    ):
        self.name, self.post = name, post
        out_init = scaled(INITS[config.init], (2 * config.layers) ** -0.5)
        self.attn_norm = normalization(config)
        self.attn = Attention(f"{name}/attn", config, out_init, causal=causal, rope=rope, rngs=rngs)
        self.mlp_norm = normalization(config)
        self.mlp = FEED_FORWARD[config.feed_forward](f"{name}/mlp", config, out_init, rngs=rngs)
        self.dropout = Dropout(config.dropout, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps `x [B, T, D]` to `[B, T, D]`; positions where `mask [B, T]` is False are not attended to."""
        with jax.named_scope("attn"):
            x = x + self.dropout(self.attn(self._before(self.attn_norm, x), mask))
            x = place(self._after(self.attn_norm, x), BATCH, "sequence", None)
        with jax.named_scope("mlp"):
            x = x + self.dropout(self.mlp(self._before(self.mlp_norm, x)))
            return tap(place(self._after(self.mlp_norm, x), BATCH, "sequence", None), self.name)

    def _before(self, norm: nnx.Module, x: jax.Array) -> jax.Array:
        return x if self.post else norm(x)

    def _after(self, norm: nnx.Module, x: jax.Array) -> jax.Array:
        return norm(x) if self.post else x

    def extend(self, x: jax.Array, held: KeysAndValues, start: jax.Array) -> tuple[jax.Array, KeysAndValues]:
        """Maps further tokens `x [B, t, D]`, of which `start` were read before; see `Attention.extend`."""
        mixed, held = self.attn.extend(self._before(self.attn_norm, x), held, start)
        x = self._after(self.attn_norm, x + mixed)
        return self._after(self.mlp_norm, x + self.mlp(self._before(self.mlp_norm, x))), held


class DecoderBlock(nnx.Module):
    """x + attention(norm(x)), x + attention to a source(norm(x)), then x + feed-forward(norm(x)), each with dropout.

    Args:
      name: of its tap.
      config: sizes and kinds of the layers. The kernels that end a residual branch start 1/sqrt(3 L) as large as
        `init` says.
      rope: whether attention to the sequence itself, which is causal, has rotary positions.
      rngs: random streams.

    Reference:
      Vaswani et al., Attention Is All You Need, 2017. https://arxiv.org/abs/1706.03762
    """

    def __init__(self, name: str, config: schema.Blocks, *, rope: bool, rngs: nnx.Rngs):
        self.name = name
        out_init = scaled(INITS[config.init], (3 * config.layers) ** -0.5)
        self.attn_norm = normalization(config)
        self.attn = Attention(f"{name}/attn", config, out_init, causal=True, rope=rope, rngs=rngs)
        self.cross_norm = normalization(config)
        self.cross = CrossAttention(f"{name}/cross", config, out_init, rngs=rngs)
        self.mlp_norm = normalization(config)
        self.mlp = FEED_FORWARD[config.feed_forward](f"{name}/mlp", config, out_init, rngs=rngs)
        self.dropout = Dropout(config.dropout, rngs=rngs)

    def __call__(self, x: jax.Array, source: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps `x [B, T, D]` to `[B, T, D]`; of the source `[B, S, D]`, what `mask [B, S]` leaves out is not read."""
        with jax.named_scope("attn"):
            x = place(x + self.dropout(self.attn(self.attn_norm(x))), BATCH, None, None)
        with jax.named_scope("cross"):
            x = x + self.dropout(self.cross(self.cross_norm(x), self.cross.read(source), mask))
            x = place(x, BATCH, None, None)
        with jax.named_scope("mlp"):
            x = place(x + self.dropout(self.mlp(self.mlp_norm(x))), BATCH, None, None)
            return tap(x, self.name)

    def shares(self, x: jax.Array, source: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns how much each position attends to each of the source, `[B, T, S]`, the mean over heads."""
        x = x + self.attn(self.attn_norm(x))
        return self.cross.shares(self.cross_norm(x), self.cross.read(source), mask)

    def extend(
        self,
        x: jax.Array,
        source: KeysAndValues,
        mask: jax.Array | None,
        held: KeysAndValues,
        start: jax.Array,
    ) -> tuple[jax.Array, KeysAndValues]:
        """Maps further tokens `x [B, t, D]`, of which `start` were read before; see `Attention.extend`.

        Args:
          x: of the tokens.
          source: what `cross.read` returns.
          mask: of the source.
          held: keys and values of the tokens before.
          start: how many these are.
        """
        mixed, held = self.attn.extend(self.attn_norm(x), held, start)
        x = x + mixed
        x = x + self.cross(self.cross_norm(x), source, mask)
        return x + self.mlp(self.mlp_norm(x)), held


def expect_heads(config: schema.Blocks, positions: str) -> None:
    """Raises ConfigError where heads do not divide a model's width into parts that fit, or heads of keys the heads.

    Args:
      config: the section `model`.
      positions: rotary ones turn pairs of features of a head, and sines and cosines of two axes fill quarters of D.

    Example:
      >>> expect_heads(schema.Transformer(name="transformer", width=8, heads=2), "rope")
    """
    heads = config.heads
    unit = {"rope": 2 * heads, "sincos": math.lcm(4, heads)}.get(positions, heads)
    if config.width % unit:
        fixed = -(-config.width // unit) * unit
        raise ConfigError(
            f"model.width: expected a multiple of {unit} for {heads} heads with {positions} positions, "
            f"got {config.width}; write width: {fixed}"
        )
    if config.kv_heads is not None and heads % config.kv_heads:
        fixed = max(n for n in range(1, heads + 1) if heads % n == 0 and n <= config.kv_heads)
        raise ConfigError(
            f"model.kv_heads: expected a divisor of heads ({heads}), got {config.kv_heads}; write kv_heads: {fixed}"
        )
