"""Convolutional network for images."""

from __future__ import annotations

import itertools

import jax
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.taps import tap
from jaxprop.models.layers import (
    ACTIVATIONS,
    INITS,
    TAP_KINDS,
    BatchNorm,
    answers,
    as_numbers,
    dense,
    image_shape,
    max_pool,
)
from jaxprop.models.mlp import MlpLayer
from jaxprop.models.remat import NONE, call
from jaxprop.types import Spec


class ConvLayer(nnx.Module):
    """Convolution of stride 1 that keeps the size, batch norm (if any), activation; `name` is its tap's."""

    def __init__(self, name: str, n_in: int, n_out: int, config: schema.Cnn, *, rngs: nnx.Rngs):
        self.name, self.kind = name, TAP_KINDS.get(config.activation, "")
        side = (config.kernel, config.kernel)
        # batch norm subtracts the mean, so a bias before it would have no effect
        bias = not config.batch_norm
        self.conv = nnx.Conv(n_in, n_out, side, kernel_init=INITS[config.init], use_bias=bias, rngs=rngs)
        self.norm = BatchNorm(n_out) if config.batch_norm else None
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array, weight: jax.Array | None) -> jax.Array:
        x = self.conv(x)
        return tap(self.activation(x if self.norm is None else self.norm(x, weight)), self.name, self.kind)


class Cnn(nnx.Module):
    """Blocks of convolutions with 2 x 2 max pooling between them, then dense layers.

    Args:
      config: the section `model` of the configuration.
      spec: images `[H, W, C]` or `[H, W]` as `inputs`; `classes` or `targets` K.
      rngs: random streams.
      remat: policy of rematerialization; its units are the blocks and the dense layers.

    Raises:
      ShapeError: the inputs are not images.

    Example:
      >>> import jax.numpy as jnp
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)}, {"classes": 10})
      >>> images = jnp.ones((2, 8, 8, 1))
      >>> nnx.eval_shape(lambda: Cnn(schema.Cnn(name="cnn"), spec, rngs=nnx.Rngs(0))(images)).shape
      (2, 10)
    """

    def __init__(self, config: schema.Cnn, spec: Spec, *, rngs: nnx.Rngs, remat: str = NONE):
        self.remat = remat
        outputs = answers(spec, "cnn")
        height, width, channels = image_shape(spec, "cnn")
        blocks = []
        for i, features in enumerate(config.channels):
            if i:
                height, width = (height + 1) // 2, (width + 1) // 2
            n_in = [channels, *[features] * (config.convs_per_block - 1)]
            layers = [ConvLayer(f"blocks/{i}/{j}", n, features, config, rngs=rngs) for j, n in enumerate(n_in)]
            blocks.append(nnx.List(layers))
            channels = features
        self.blocks = nnx.List(blocks)
        sizes = [height * width * channels, *config.hidden]
        pairs = enumerate(itertools.pairwise(sizes))
        self.layers = nnx.List([MlpLayer(f"layers/{i}", a, b, config, rngs=rngs) for i, (a, b) in pairs])
        self.head = dense(sizes[-1], outputs, INITS[config.init], rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        """Maps `x [B, H, W, C]` to outputs `[B, K]`; `weight [B]` marks padding for batch norm."""
        x = as_numbers(x, self.head.kernel[...]).reshape(*x.shape[:3], -1)
        for i, block in enumerate(self.blocks):
            x = call(block, self.remat, f"blocks/{i}", x, weight, function=_pooled_block if i else _block)
        x = x.reshape(x.shape[0], -1)  # [B, H W C]
        for dense_layer in self.layers:
            x = call(dense_layer, self.remat, dense_layer.name, x, weight)
        with jax.named_scope("head"):
            return tap(self.head(x), "head", "output")


def _pooled_block(layers: nnx.List, x: jax.Array, weight: jax.Array | None) -> jax.Array:
    return _block(layers, max_pool(x), weight)


def _block(layers: nnx.List, x: jax.Array, weight: jax.Array | None) -> jax.Array:
    for j, layer in enumerate(layers):
        x = call(layer, NONE, str(j), x, weight)
    return x
