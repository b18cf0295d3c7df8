"""Conformer over audio, with an output a frame for CTC."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.overrides import computed_dtype
from jaxprop.core.taps import tap
from jaxprop.errors import ConfigError
from jaxprop.models.attention import Attention
from jaxprop.models.dropout import Dropout
from jaxprop.models.layers import ACTIVATIONS, INITS, TAP_KINDS, Initializer, LayerNorm, dense, scaled
from jaxprop.models.remat import NONE, call
from jaxprop.models.speech import TimeConv, expect_audio, features, real_frames
from jaxprop.models.stack import apply_layers
from jaxprop.types import Spec


class HalfStep(nnx.Module):
    """Feed-forward layer with a norm before it: norm, dense, activation, dense; `name` is its tap's."""

    def __init__(self, name: str, config: schema.Conformer, out_init: Initializer, *, rngs: nnx.Rngs):
        self.name, self.kind = name, TAP_KINDS.get(config.activation, "")
        inner = config.ff_multiple * config.width
        self.norm = LayerNorm(config.width)
        self.up = dense(config.width, inner, INITS[config.init], rngs=rngs)
        self.down = dense(inner, config.width, out_init, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(tap(self.activation(self.up(self.norm(x))), self.name, self.kind))


class ConvModule(nnx.Module):
    """norm, gated dense, depthwise convolution over time, LayerNorm, activation, dense; `name` is its tap's.

    The convolution is a sum of shifted products, which on CPU takes a third of the time of a grouped convolution.
    """

    def __init__(self, name: str, config: schema.Conformer, out_init: Initializer, *, rngs: nnx.Rngs):
        self.name, self.kind = name, TAP_KINDS.get(config.activation, "")
        width, init = config.width, INITS[config.init]
        self.norm = LayerNorm(width)
        self.gated = dense(width, 2 * width, init, rngs=rngs)
        # as for a dense layer of as many inputs: he_normal and others would take the channels for inputs, too
        self.depthwise = nnx.Param(jax.nn.initializers.normal(config.kernel**-0.5)(
            rngs.params(), (config.kernel, width), jnp.float32
        ))  # fmt: skip
        self.inner_norm = LayerNorm(width)
        self.out = dense(width, width, out_init, rngs=rngs)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array, real: jax.Array) -> jax.Array:
        """Maps `x [B, T, D]` to `[B, T, D]`; frames where `real [B, T]` is False are read as zeros."""
        value, gate = jnp.split(self.gated(self.norm(x)), 2, -1)
        x = jnp.where(real[..., None], value * jax.nn.sigmoid(gate), 0)
        kernel, time = self.depthwise[...], x.shape[1]
        around = kernel.shape[0] // 2
        padded = jnp.pad(x, ((0, 0), (around, around), (0, 0)))
        mixed = sum((padded[:, i : i + time] * kernel[i] for i in range(kernel.shape[0])), jnp.zeros_like(x))
        return self.out(tap(self.activation(self.inner_norm(mixed)), self.name, self.kind))


class ConformerBlock(nnx.Module):
    """x + feed-forward / 2, + attention, + convolution, + feed-forward / 2, then a norm; `name` is its tap's."""

    def __init__(self, name: str, config: schema.Conformer, *, rngs: nnx.Rngs):
        self.name = name
        out_init = scaled(INITS[config.init], (4 * config.layers) ** -0.5)
        sizes = {"name": config.name, "width": config.width, "heads": config.heads, "init": config.init}
        attention = schema.Blocks.model_validate(sizes)
        self.first = HalfStep(f"{name}/first", config, out_init, rngs=rngs)
        self.attn_norm = LayerNorm(config.width)
        self.attn = Attention(f"{name}/attn", attention, out_init, causal=False, rope=True, rngs=rngs)
        self.conv = ConvModule(f"{name}/conv", config, out_init, rngs=rngs)
        self.second = HalfStep(f"{name}/second", config, out_init, rngs=rngs)
        self.norm = LayerNorm(config.width)
        self.dropout = Dropout(config.dropout, rngs=rngs)

    def __call__(self, x: jax.Array, real: jax.Array) -> jax.Array:
        """Maps `x [B, T, D]` to `[B, T, D]`; frames where `real [B, T]` is False are not read by others."""
        half = jnp.asarray(0.5, x.dtype)
        with jax.named_scope("first"):
            x = x + half * self.dropout(self.first(x))
        with jax.named_scope("attn"):
            x = x + self.dropout(self.attn(self.attn_norm(x), real))
        with jax.named_scope("conv"):
            x = x + self.dropout(self.conv(x, real))
        with jax.named_scope("second"):
            x = x + half * self.dropout(self.second(x))
        return tap(self.norm(x), self.name)


class Conformer(nnx.Module):
    """Log-mel features, convolutions with strides, conformer blocks, one output a frame.

    Two things differ from the paper, so that no other example and no padding changes an output: the convolution module
    has LayerNorm instead of batch normalization, and attention has rotary positions, which are relative, too.

    Args:
      config: the section `model` of the configuration. The kernels that end a residual branch start 1/sqrt(4 L) as
        large as `init` says.
      spec: samples `[N]` as `inputs`; the sizes `vocabulary` V, with the blank, and `sample_rate`.
      rngs: random streams.
      remat: policy of rematerialization; its unit is a block.

    Raises:
      ShapeError: the inputs are no audio.
      ConfigError: the heads do not divide the width into even parts.

    Example:
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((8000,), jnp.float32)}, {"vocabulary": 9, "sample_rate": 8000})
      >>> config = schema.Conformer(name="conformer", layers=1, width=8, heads=2)
      >>> audio = jnp.zeros((2, 8000))
      >>> nnx.eval_shape(lambda: Conformer(config, spec, rngs=nnx.Rngs(0))(audio))["logits"].shape
      (2, 25, 9)

    Reference:
      Gulati et al., Conformer, 2020. https://arxiv.org/abs/2005.08100
    """

    def __init__(self, config: schema.Conformer, spec: Spec, *, rngs: nnx.Rngs, remat: str = NONE):
        unit = 2 * config.heads
        if config.width % unit:
            raise ConfigError(
                f"model.width: expected a multiple of {unit} for {config.heads} heads, got {config.width}; write "
                f"width: {-(-config.width // unit) * unit}"
            )
        self.remat = remat
        self.mel, outputs = expect_audio(spec, config)
        sizes = [config.mels, *[config.width] * (len(config.strides) - 1)]
        self.convs = nnx.List([
            TimeConv(
                f"convs/{i}", n_in, config.width, kernel=3, stride=stride, activation=config.activation,
                init=config.init, rngs=rngs,
            )
            for i, (n_in, stride) in enumerate(zip(sizes, config.strides, strict=True))
        ])  # fmt: skip
        self.dropout = Dropout(config.dropout, rngs=rngs)
        self.blocks = nnx.List([ConformerBlock(f"blocks/{i}", config, rngs=rngs) for i in range(config.layers)])
        self.head = dense(config.width, outputs, INITS["glorot_uniform"], rngs=rngs)

    def __call__(
        self,
        samples: jax.Array,
        input_lengths: jax.Array | None = None,
        masked_bands: jax.Array | None = None,
        masked_times: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Maps `samples [B, N]` to logits `[B, T, V]` and the number of real frames among these `[B]`."""
        with jax.named_scope("features"):
            x, frames = features(samples, input_lengths, self.mel, masked_bands, masked_times)
        x = x.astype(computed_dtype(self.head.kernel[...].dtype))
        for conv in self.convs:
            x, frames = call(conv, self.remat, conv.name, x, frames)
        x, real = self.dropout(x), real_frames(x, frames)
        x = apply_layers(self.blocks, self.remat, x, real)
        with jax.named_scope("head"):
            return {"logits": tap(self.head(x), "head", "output"), "lengths": frames}
