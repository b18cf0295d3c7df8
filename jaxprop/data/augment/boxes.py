"""Boxes at random places of images, and the augmentation that fills them. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.data.augment.inputs import images
from jaxprop.errors import ShapeError
from jaxprop.types import Batch


def cutout(key: jax.Array, batch: Batch, *, size: int, fill: float = 0.0, probability: float = 1.0) -> Batch:
    """Fills a square of each image.

    The centre of the square is any pixel with the same probability. What of the square lies outside the image is lost.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, H, W, C]`.
      size: side of the square, in pixels.
      fill: what it is filled with.
      probability: that an image has such a square.

    Returns:
      The batch with other inputs, of the same shape and dtype.

    Raises:
      ShapeError: the inputs are no images, or smaller than the square.

    Example:
      >>> batch = {"inputs": jnp.ones((1, 5, 5, 1))}
      >>> cutout(jax.random.key(0), batch, size=1)["inputs"].sum().item()
      24.0

    Reference:
      DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017.
    """
    x = images(batch, "cutout")
    if size > min(x.shape[1:3]):
        raise ShapeError(f"cutout: expected size at most the side of the images ({min(x.shape[1:3])}), got {size}")
    chosen, place = jax.random.split(key)
    side = jnp.where(jax.random.bernoulli(chosen, probability, x.shape[:1]), size, 0)
    return {**batch, "inputs": jnp.where(inside(place, x, side, side), jnp.asarray(fill, x.dtype), x)}


def inside(key: jax.Array, x: jax.Array, height: jax.Array, width: jax.Array) -> jax.Array:
    """Returns which pixels lie in a box whose centre is any pixel with the same probability, `[B, H, W, 1]`.

    Args:
      key: a PRNG key.
      x: images `[B, H, W, C]`.
      height, width: of each image's box, integers `[B]`; the part outside of the image is cut off.

    Example:
      >>> inside(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), jnp.array([1]), jnp.array([1])).sum().item()
      1
    """
    down, across = jax.random.split(key)
    rows, columns = _between(down, x.shape[1], height), _between(across, x.shape[2], width)
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def _between(key: jax.Array, size: int, length: jax.Array) -> jax.Array:
    """Which places along an axis `[B, size]` belong to a stretch of this length around a random one."""
    length = length.astype(jnp.int32)
    first = jax.random.randint(key, length.shape, 0, size, jnp.int32) - length // 2
    places = jnp.arange(size, dtype=jnp.int32)
    return (places >= first[:, None]) & (places < (first + length)[:, None])
