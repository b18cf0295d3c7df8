"""Random changes of the colours of images. Pure."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.precision import wide
from jaxprop.data.augment.inputs import images, symmetric
from jaxprop.errors import ShapeError
from jaxprop.types import Batch

GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601
# Brightness and two axes of colour (NTSC's YIQ), in whose plane a turn changes the hue alone.
YIQ = np.array([GREY, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
RGB = np.linalg.inv(YIQ)


def colour(
    key: jax.Array,
    batch: Batch,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Batch:
    """Changes hue, saturation, contrast and brightness of each image, in this order.

        x <- m + f (x - m),   f ~ U(1 - strength, 1 + strength)

    with m the grey of the pixel for the saturation, the mean of the image for the contrast, and 0 for the brightness.
    The hue is turned by an angle of U(-hue, hue) of the colour wheel, in the YIQ space. Values are not clipped, since
    inputs that are standardized have no bounds.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, H, W, C]`, red, green and blue where C = 3.
      brightness, contrast, saturation: strengths in 0..1.
      hue: in 0..0.5.

    Returns:
      The batch with other inputs, of the same shape and dtype.

    Raises:
      ShapeError: the inputs are no images, or saturation or hue are asked for of images without three channels.

    Example:
      >>> batch = {"inputs": jnp.full((2, 4, 4, 3), 0.5)}
      >>> colour(jax.random.key(0), batch, contrast=0.5)["inputs"].ravel()[:2].tolist()
      [0.5, 0.5]
    """
    x = images(batch, "colour")
    if (saturation or hue) and x.shape[-1] != 3:
        raise ShapeError(
            f"colour: saturation and hue need images of 3 channels, got {list(x.shape)}; set both of them to 0"
        )
    keys, y = jax.random.split(key, 4), wide(x)
    if hue:
        y = _turned(y, 2 * np.pi * hue * symmetric(keys[0], x))
    if saturation:
        y = _spread(y, _channels(y, GREY), saturation * symmetric(keys[1], x))
    if contrast:
        y = _spread(y, jnp.mean(y, (1, 2, 3), keepdims=True), contrast * symmetric(keys[2], x))
    if brightness:
        y = y * (1 + brightness * symmetric(keys[3], x))
    return {**batch, "inputs": y.astype(x.dtype)}


def _spread(x: jax.Array, middle: jax.Array, change: jax.Array) -> jax.Array:
    """`middle + (1 + change) (x - middle)`, written so that no change leaves x exactly as it is."""
    return x + change * (x - middle)


def _turned(x: jax.Array, angle: jax.Array) -> jax.Array:
    """Colours turned by an angle in the plane of I and Q, which leaves the brightness Y as it is."""
    i, q = _channels(x, YIQ[1]), _channels(x, YIQ[2])
    cos, sin = jnp.cos(angle) - 1, jnp.sin(angle)
    more_i, more_q = cos * i - sin * q, cos * q + sin * i
    parts = [more_i * column_i + more_q * column_q for column_i, column_q in RGB[:, 1:].tolist()]
    return x + jnp.concatenate(parts, -1)


def _channels(x: jax.Array, weights: np.ndarray) -> jax.Array:
    # Written out: as a product of matrices it would be rounded to a lower precision on accelerators.
    return functools.reduce(operator.add, (x[..., c : c + 1] * weight for c, weight in enumerate(weights.tolist())))
