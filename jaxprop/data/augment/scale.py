"""Random sizes of images, with the boxes in them. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.core.precision import wide_dtype
from jaxprop.data.augment.affine import interpolated
from jaxprop.data.augment.inputs import images
from jaxprop.data.augment.objects import boxes_of, expect_no_mirror, with_boxes
from jaxprop.types import Batch


def scale(key: jax.Array, batch: Batch, *, smallest: float = 0.75, largest: float = 1.33, mode: str = "zeros") -> Batch:
    """Makes each image larger or smaller, at a random place.

        y(p) = x((p - o) / s),   s = exp(U(log smallest, log largest)),   o_i ~ U between 0 and (1 - s) times the side

    so that a larger image fills the old one, and a smaller one lies within it. Pixels are interpolated bilinearly.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, H, W, C]`; if present, `boxes` `[B, N, 4]` and `mask` `[B, N]`.
      smallest, largest: of the size s.
      mode: what lies beyond the image: `zeros`, its `edge`, or the image mirrored (`reflect`).

    Returns:
      The batch with other inputs and boxes, of the same shapes and dtypes.

    Raises:
      ShapeError: the inputs are no images, or objects with boxes would be mirrored.

    Example:
      >>> batch = {"inputs": jnp.ones((2, 8, 8, 1))}
      >>> scale(jax.random.key(0), batch, smallest=0.5, largest=2.0, mode="edge")["inputs"].shape
      (2, 8, 8, 1)
    """
    x, boxes = images(batch, "scale", moves=True, boxes=True), boxes_of(batch)
    expect_no_mirror(batch, mode, "scale")
    sizing, placing = jax.random.split(key)
    count, height, width, _ = x.shape
    dtype = wide_dtype(x.dtype)
    bounds = jnp.log(jnp.array([smallest, largest], dtype))
    size = jnp.exp(jax.random.uniform(sizing, (count,), dtype, bounds[0], bounds[1]))
    place = jax.random.uniform(placing, (2, count), dtype) * (1 - size)
    top, left = place[0] * height, place[1] * width
    rows = source_of(jnp.arange(height, dtype=dtype), top[:, None], size[:, None])
    columns = source_of(jnp.arange(width, dtype=dtype), left[:, None], size[:, None])
    shape = (count, height, width)
    scaled = interpolated(
        x, jnp.broadcast_to(rows[:, :, None], shape), jnp.broadcast_to(columns[:, None, :], shape), mode
    )
    if boxes is not None:
        boxes = boxes * size[:, None, None] + jnp.stack([left, top] * 2, -1)[:, None]
    return with_boxes({**batch, "inputs": scaled}, boxes)


def source_of(pixels: jax.Array, offset: jax.Array, size: jax.Array) -> jax.Array:
    """Returns where pixels of a scaled image come from, in pixels from the centre of the first one.

    Args:
      pixels: numbers of pixels along an axis.
      offset: where the scaled image begins along it, in pixels from the edge.
      size: of the scaled image, in units of its own.

    Example:
      >>> source_of(jnp.arange(4.0), 0.0, 2.0).tolist()
      [-0.25, 0.25, 0.75, 1.25]
    """
    return (pixels + 0.5 - offset) / size - 0.5
