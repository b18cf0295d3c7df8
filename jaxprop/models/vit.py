"""Vision transformer."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.precision import wide_dtype
from jaxprop.core.taps import tap
from jaxprop.errors import ConfigError
from jaxprop.models.blocks import Block, expect_heads, normalization
from jaxprop.models.dropout import Dropout
from jaxprop.models.layers import INITS, Embed, added, answers, as_numbers, dense, image_shape
from jaxprop.models.remat import NONE, call
from jaxprop.models.stack import apply_layers
from jaxprop.types import Spec


def patches(x: jax.Array, side: int) -> jax.Array:
    """Cuts images `[B, H, W, C]` into patches `[B, N, side * side * C]`, row by row.

    Example:
      >>> patches(jnp.arange(8.0).reshape(1, 2, 4, 1), 2)[0].tolist()
      [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).swapaxes(2, 3)
    return x.reshape(b, -1, side * side * c)


def sincos_positions(rows: int, columns: int, width: int, dtype: jnp.dtype) -> jax.Array:
    """Sines and cosines of row and column, `[rows * columns, width]`: a quarter of the features for each of the four.

    [sin(y w_i), cos(y w_i), sin(x w_i), cos(x w_i)], w_i = 10000^(-4 i / width).

    Example:
      >>> sincos_positions(2, 3, 8, jnp.dtype("float32")).shape
      (6, 8)

    Reference:
      Beyer, Zhai and Kolesnikov, Better plain ViT baselines for ImageNet-1k, 2022. https://arxiv.org/abs/2205.01580
    """
    quarter = width // 4
    frequency = 10_000.0 ** (-jnp.arange(quarter, dtype=dtype) / quarter)
    y, x = jnp.divmod(jnp.arange(rows * columns, dtype=jnp.int32), columns)
    parts = [wave(at.astype(dtype)[:, None] * frequency) for at in (y, x) for wave in (jnp.sin, jnp.cos)]
    return jnp.concatenate(parts, -1)


class Vit(nnx.Module):
    """Patches of an image as the tokens of a transformer: pre-LN, every patch attends to all.

    Args:
      config: the section `model` of the configuration. Learned positions and the class token start normal(0.02);
        dropout acts on the embedded patches and on each residual branch.
      spec: images `[H, W, C]` or `[H, W]` as `inputs`; `classes` or `targets` K.
      rngs: random streams.
      remat: policy of rematerialization; its unit is a block.

    Raises:
      ShapeError: the inputs are not images.
      ConfigError: patches that do not divide the image, or heads that do not divide the width.

    Example:
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)}, {"classes": 10})
      >>> config = schema.Vit(name="vit", layers=1, width=8, heads=2, patch=2)
      >>> images = jnp.ones((2, 8, 8, 1))
      >>> nnx.eval_shape(lambda: Vit(config, spec, rngs=nnx.Rngs(0))(images)).shape
      (2, 10)

    Reference:
      Dosovitskiy et al., An Image is Worth 16x16 Words, 2020. https://arxiv.org/abs/2010.11929
    """

    def __init__(self, config: schema.Vit, spec: Spec, *, rngs: nnx.Rngs, remat: str = NONE):
        outputs, (height, width, channels) = answers(spec, "vit"), image_shape(spec, "vit")
        expect_heads(config, config.positions)
        _expect_patches(config.patch, height, width)
        self.remat, self.patch = remat, config.patch
        self.grid = (height // config.patch, width // config.patch)
        self.embed = dense(config.patch**2 * channels, config.width, INITS[config.init], rngs=rngs)
        self.token = Embed(1, config.width, stddev=0.02, rngs=rngs) if config.pool == "token" else None
        count, learned = math.prod(self.grid) + (config.pool == "token"), config.positions == "learned"
        self.positions = Embed(count, config.width, stddev=0.02, rngs=rngs) if learned else None
        self.dropout = Dropout(config.dropout, rngs=rngs)
        names = [f"blocks/{i}" for i in range(config.layers)]
        self.blocks = nnx.List([Block(name, config, causal=False, rope=False, rngs=rngs) for name in names])
        self.final_norm = normalization(config)
        self.head = dense(config.width, outputs, INITS[config.init], rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x [B, H, W, C]` to outputs `[B, K]`."""
        x = as_numbers(x, self.head.kernel[...]).reshape(*x.shape[:3], -1)
        x = self._embedded(x)
        x = apply_layers(self.blocks, self.remat, x)
        x = call(self.final_norm, NONE, "final_norm", x)
        with jax.named_scope("head"):
            return tap(self.head(x.mean(1) if self.token is None else x[:, 0]), "head", "output")

    def _embedded(self, x: jax.Array) -> jax.Array:
        """Patches with their positions `[B, N, D]`, and before them the class token, if there is one."""
        x = call(self.embed, NONE, "embed", patches(x, self.patch))
        if self.positions is None:
            x = x + sincos_positions(*self.grid, x.shape[-1], wide_dtype(x.dtype)).astype(x.dtype)
        if self.token is not None:
            token = jnp.broadcast_to(self.token.embedding[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
            x = jnp.concatenate([token, x], 1)
        return self.dropout(x if self.positions is None else added(x, self.positions.embedding[...]))


def _expect_patches(side: int, height: int, width: int) -> None:
    if height % side or width % side:
        both = math.gcd(height, width)
        fitting = [str(n) for n in range(1, both + 1) if both % n == 0]
        named = fitting[0] if len(fitting) == 1 else f"{', '.join(fitting[:-1])} or {fitting[-1]}"
        raise ConfigError(
            f"model.patch: expected a divisor of the height and width of the images, {height} x {width}, got {side}; "
            f"write patch: {named}"
        )
