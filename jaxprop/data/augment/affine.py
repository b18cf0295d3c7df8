"""Random rotations, shifts and sizes of images, in one bilinear interpolation. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.core.precision import wide
from jaxprop.data.augment.inputs import images, symmetric
from jaxprop.types import Batch

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # the four pixels around a point: down, right


def affine(
    key: jax.Array,
    batch: Batch,
    *,
    degrees: float = 0.0,
    shift: float = 0.0,
    scale: float = 0.0,
    mode: str = "zeros",
) -> Batch:
    """Rotates, shifts and scales each image around its centre.

        y(p) = x(c + R(-a) (p - c - t) / s)

    with c the centre, a ~ U(-degrees, degrees), t_i ~ U(-shift, shift), s ~ U(1 - scale, 1 + scale), and x between
    pixels interpolated bilinearly.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, H, W, C]`.
      degrees: largest angle, either way.
      shift: largest shift along each axis, in pixels.
      scale: largest relative change of the size, below 1.
      mode: what lies beyond the image: `zeros`, its `edge`, or the image mirrored (`reflect`).

    Returns:
      The batch with other inputs, of the same shape and dtype.

    Raises:
      ShapeError: the inputs are no images.

    Example:
      >>> batch = {"inputs": jnp.ones((2, 8, 8, 1))}
      >>> turned = affine(jax.random.key(0), batch, degrees=15, mode="edge")["inputs"]
      >>> turned.shape, bool(jnp.allclose(turned, 1.0))
      ((2, 8, 8, 1), True)
    """
    x = images(batch, "affine", moves=True)
    if not (degrees or shift or scale):
        return batch
    turn, size, down, right = (symmetric(own, x)[..., 0] for own in jax.random.split(key, 4))  # [B, 1, 1]
    angle, factor = jnp.deg2rad(degrees * turn), 1 + scale * size
    cos, sin = jnp.cos(angle) / factor, jnp.sin(angle) / factor
    _, height, width, _ = x.shape
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    row = jnp.arange(height, dtype=turn.dtype)[:, None] - middle_row - shift * down  # [B, H, 1]
    column = jnp.arange(width, dtype=turn.dtype)[None, :] - middle_column - shift * right  # [B, 1, W]
    rows, columns = cos * row + sin * column + middle_row, cos * column - sin * row + middle_column  # [B, H, W]
    return {**batch, "inputs": interpolated(x, rows, columns, mode)}


def interpolated(x: jax.Array, rows: jax.Array, columns: jax.Array, mode: str = "zeros") -> jax.Array:
    """Returns images at points between their pixels, interpolated bilinearly.

    Args:
      x: images `[B, H, W, C]`.
      rows, columns: points `[B, h, w]`, in pixels from the first one.
      mode: what lies beyond the image, as of `affine`.

    Returns:
      Images `[B, h, w, C]` in the dtype of `x`.

    Example:
      >>> x = jnp.arange(4.0).reshape(1, 1, 4, 1)
      >>> interpolated(x, jnp.zeros((1, 1, 3)), jnp.array([[[0.5, 2.25, 3.5]]])).ravel().tolist()
      [0.5, 2.25, 1.5]
    """
    count, height, width, channels = x.shape
    top, left = jnp.floor(rows), jnp.floor(columns)
    places, weights = [], []
    for down, right in CORNERS:
        row, column = top + down, left + right
        weight = (1 - jnp.abs(rows - row)) * (1 - jnp.abs(columns - column))
        if mode == "zeros":
            weight = jnp.where(_within(row, height) & _within(column, width), weight, 0)
        places.append(_index(row, height, mode) * width + _index(column, width, mode))
        weights.append(weight)
    # One gather for all four corners; every place lies in the image.
    at = jnp.stack(places, -1).reshape(count, -1)
    pixels = x.reshape(count, height * width, channels)
    found = jax.vmap(lambda image, at: image.at[at].get(mode="promise_in_bounds"))(pixels, at)
    found = wide(found).reshape(*rows.shape, len(CORNERS), channels)
    return jnp.sum(found * jnp.stack(weights, -1)[..., None], -2).astype(x.dtype)


def _within(place: jax.Array, size: int) -> jax.Array:
    return (place >= 0) & (place < size)


def _index(place: jax.Array, size: int, mode: str) -> jax.Array:
    if mode == "reflect" and size > 1:
        # a triangle wave: 0 1 2 1 0 1 2 ... of three pixels
        place = size - 1 - jnp.abs(jnp.mod(place, 2 * (size - 1)) - (size - 1))
    return jnp.clip(place, 0, size - 1).astype(jnp.int32)
