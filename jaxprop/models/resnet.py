"""Residual network for images."""

from __future__ import annotations

import jax
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.taps import tap
from jaxprop.errors import ConfigError
from jaxprop.models.dropout import Dropout
from jaxprop.models.layers import (
    ACTIVATIONS,
    INITS,
    TAP_KINDS,
    BatchNorm,
    GroupNorm,
    answers,
    as_numbers,
    dense,
    image_shape,
    max_pool_3x3,
)
from jaxprop.models.remat import NONE, call
from jaxprop.types import Spec

EXPANSION = 4  # channels that a bottleneck block puts out, in units of its width


class ConvNorm(nnx.Module):
    """Convolution and normalization, and the activation with its tap where it has a name.

    Args:
      name: of the tap; empty for no activation.
      n_in, n_out: channels in and out.
      config: the section `model`.
      kernel: side of the kernel in pixels. Half of it is padded on each side, so that the size is kept but for the
        stride.
      stride: in pixels.
      scale: initial value of the normalization's scale.
      rngs: random streams.
    """

    def __init__(
        self,
        name: str,
        n_in: int,
        n_out: int,
        config: schema.ResNet,
        *,
        kernel: int,
        stride: int,
        scale: float = 1.0,
        rngs: nnx.Rngs,
    ):
        self.name, self.kind = name, TAP_KINDS.get(config.activation, "")
        self.conv = nnx.Conv(
            n_in, n_out, (kernel, kernel), (stride, stride),
            padding=((kernel // 2, kernel // 2),) * 2, use_bias=False, kernel_init=INITS[config.init], rngs=rngs,
        )  # fmt: skip
        batch = config.norm == "batch"
        self.norm = BatchNorm(n_out, scale=scale) if batch else GroupNorm(n_out, config.groups, scale=scale)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array, weight: jax.Array | None) -> jax.Array:
        """Maps `x [B, H, W, C]` to `[B, H / stride, W / stride, C']`; `weight [B]` marks padding for batch norm."""
        x = self.conv(x)
        x = self.norm(x, weight) if isinstance(self.norm, BatchNorm) else self.norm(x)
        return tap(self.activation(x), self.name, self.kind) if self.name else x


class Block(nnx.Module):
    """activation(x + f(x)), f two or three convolutions; `name` is its tap's.

    f ends in a normalization whose scale starts at zero, so that the block starts as the identity. Where the size or
    the channels change, x goes through a convolution of 1 x 1 pixels.

    Reference:
      Goyal et al., Accurate, Large Minibatch SGD, 2017. https://arxiv.org/abs/1706.02677 (zero scale)
    """

    def __init__(self, name: str, n_in: int, width: int, config: schema.ResNet, *, stride: int, rngs: nnx.Rngs):
        self.name, self.kind = name, TAP_KINDS.get(config.activation, "")
        if config.block == "basic":
            plan = [(3, width, stride), (3, width, 1)]
        else:
            plan = [(1, width, 1), (3, width, stride), (1, EXPANSION * width, 1)]
        layers, channels = [], n_in
        for i, (kernel, n_out, step) in enumerate(plan):
            last = i == len(plan) - 1
            of, scale = ("", 0.0) if last else (f"{name}/layers/{i}", 1.0)
            made = ConvNorm(of, channels, n_out, config, kernel=kernel, stride=step, scale=scale, rngs=rngs)
            layers.append(made)
            channels = n_out
        self.layers = nnx.List(layers)
        changes = stride != 1 or n_in != channels
        self.shortcut = ConvNorm("", n_in, channels, config, kernel=1, stride=stride, rngs=rngs) if changes else None
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array, weight: jax.Array | None) -> jax.Array:
        y = x
        for i, layer in enumerate(self.layers):
            y = call(layer, NONE, f"layers/{i}", y, weight)
        if self.shortcut is not None:
            x = call(self.shortcut, NONE, "shortcut", x, weight)
        return tap(self.activation(x + y), self.name, self.kind)


class ResNet(nnx.Module):
    """Stem, stages of residual blocks, mean over all positions, dense layer.

    The first block of every stage but the first halves height and width, in the 3 x 3 convolution of a bottleneck.

    Args:
      config: the section `model` of the configuration.
      spec: images `[H, W, C]` or `[H, W]` of any size as `inputs`; `classes` or `targets` K.
      rngs: random streams.
      remat: policy of rematerialization; its unit is a block.

    Raises:
      ShapeError: the inputs are not images.
      ConfigError: depths and widths are not of one length, or the groups do not divide a width.

    Example:
      >>> import jax.numpy as jnp
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)}, {"classes": 10})
      >>> config = schema.ResNet(name="resnet", depths=(1, 1), widths=(4, 8))
      >>> images = jnp.ones((2, 8, 8, 1))
      >>> nnx.eval_shape(lambda: ResNet(config, spec, rngs=nnx.Rngs(0))(images)).shape
      (2, 10)

    Reference:
      He et al., Deep Residual Learning for Image Recognition, 2015. https://arxiv.org/abs/1512.03385
    """

    def __init__(self, config: schema.ResNet, spec: Spec, *, rngs: nnx.Rngs, remat: str = NONE):
        _expect_stages(config)
        outputs, (_, _, channels) = answers(spec, "resnet"), image_shape(spec, "resnet")
        self.remat, self.large = remat, config.stem == "large"
        kernel, stride = (7, 2) if self.large else (3, 1)
        self.stem = ConvNorm("stem", channels, config.widths[0], config, kernel=kernel, stride=stride, rngs=rngs)
        channels, expansion = config.widths[0], EXPANSION if config.block == "bottleneck" else 1
        stages = []
        for i, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            blocks = []
            for j in range(depth):
                stride = 2 if i and not j else 1
                blocks.append(Block(f"stages/{i}/{j}", channels, width, config, stride=stride, rngs=rngs))
                channels = expansion * width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.dropout = Dropout(config.dropout, rngs=rngs)
        self.head = dense(channels, outputs, INITS[config.init], rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        """Maps `x [B, H, W, C]` to outputs `[B, K]`; `weight [B]` marks padding for batch norm."""
        x = as_numbers(x, self.head.kernel[...]).reshape(*x.shape[:3], -1)
        x = call(self.stem, NONE, "stem", x, weight)
        if self.large:
            x = max_pool_3x3(x)
        for stage in self.stages:
            for block in stage:
                x = call(block, self.remat, block.name, x, weight)
        x = self.dropout(x.mean((1, 2)))  # [B, C]
        with jax.named_scope("head"):
            return tap(self.head(x), "head", "output")


def _expect_stages(config: schema.ResNet) -> None:
    if len(config.depths) != len(config.widths):
        raise ConfigError(
            f"model.depths: expected one number for each of the {len(config.widths)} widths, got {len(config.depths)}"
        )
    odd = [width for width in config.widths if width % config.groups]
    if config.norm == "group" and odd:
        raise ConfigError(
            f"model.groups: expected a divisor of every width, got {config.groups}, which does not divide {odd[0]}"
        )
