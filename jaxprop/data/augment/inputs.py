"""What augmentations share: inputs that are checked, and draws of one number an example. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxprop.core.precision import wide_dtype
from jaxprop.errors import ShapeError
from jaxprop.types import Batch


def floats(batch: Batch, name: str) -> jax.Array:
    """Returns the inputs of a batch, which must be floating-point numbers.

    Args:
      batch: with `inputs` `[B, ...]`.
      name: of the augmentation, for the message.

    Raises:
      ShapeError: there are no inputs, or they are integers.

    Example:
      >>> floats({"inputs": jnp.zeros((2, 3))}, "noise").shape
      (2, 3)
    """
    x = batch.get("inputs") if isinstance(batch, Mapping) else None
    if x is None or not hasattr(x, "dtype"):
        keys = f"the keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        got = keys if x is None else type(x).__name__
        raise ShapeError(f"{name} changes batch['inputs'], an array [B, ...], got {got}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ShapeError(
            f"{name} needs floating-point inputs, got {x.dtype} {list(x.shape)}; divide pixels by 255, and leave "
            f"{name} out where the inputs are tokens"
        )
    if x.ndim == 0:
        raise ShapeError(f"{name} needs inputs [B, ...], an example for each entry of the first axis, got a scalar")
    return jnp.asarray(x)


def images(batch: Batch, name: str, *, moves: bool = False, boxes: bool = False) -> jax.Array:
    """Returns the inputs of a batch, which must be floating-point images `[B, H, W, C]`.

    Args:
      batch: with `inputs`.
      name: of the augmentation, for the message.
      moves: whether it moves pixels, so that labels of single pixels would no longer be theirs.
      boxes: whether it moves boxes with them.

    Raises:
      ShapeError: the inputs are no images, or the labels are of pixels, or boxes would stay where they are.

    Example:
      >>> images({"inputs": jnp.zeros((2, 8, 8, 1))}, "crop").shape
      (2, 8, 8, 1)
    """
    x = floats(batch, name)
    if x.ndim != 4:
        raise ShapeError(
            f"{name} needs images, inputs [B, H, W, C], got {list(x.shape)}; reshape them, or leave {name} out"
        )
    if moves and not boxes and "boxes" in batch:
        raise ShapeError(f"{name} moves pixels, and boxes would stay where they are; use flip, crop, scale or mosaic")
    labels = batch.get("labels")
    if moves and labels is not None and jnp.ndim(labels) > 2:
        raise ShapeError(
            f"{name} moves pixels, and labels {list(jnp.shape(labels))} would stay where they are; leave {name} out"
        )
    return x


def symmetric(key: jax.Array, x: jax.Array) -> jax.Array:
    """Draws a number between -1 and 1 for each example `[B, 1, ...]`, as many axes as `x`, in float32 or wider.

    Example:
      >>> symmetric(jax.random.key(0), jnp.zeros((2, 8, 8, 1))).shape
      (2, 1, 1, 1)
    """
    return along(jax.random.uniform(key, x.shape[:1], wide_dtype(x.dtype), minval=-1, maxval=1), x)


def along(values: jax.Array, x: jax.Array) -> jax.Array:
    """Returns `values [B]` with as many axes as `x [B, ...]` has, so that they go together.

    Example:
      >>> along(jnp.zeros(2), jnp.zeros((2, 8, 8, 1))).shape
      (2, 1, 1, 1)
    """
    return values.reshape(-1, *[1] * (x.ndim - 1))
