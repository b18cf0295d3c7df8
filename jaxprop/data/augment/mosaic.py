"""Mosaics: four images in one, with the boxes of all of them. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.core.precision import wide_dtype
from jaxprop.data.augment.affine import interpolated
from jaxprop.data.augment.inputs import images
from jaxprop.data.augment.mixing import partners
from jaxprop.data.augment.objects import boxes_of, with_boxes
from jaxprop.data.augment.scale import source_of
from jaxprop.errors import ShapeError
from jaxprop.types import Batch

MIDDLE = (0.25, 0.75)  # where the four meet, in units of the sides
PARTS = 4


def mosaic(key: jax.Array, batch: Batch, *, smallest: float = 0.5, probability: float = 0.5) -> Batch:
    """Sets each image together of itself, in the upper left, and of three others of its batch.

    The four meet at a random pixel, all made smaller by one factor s ~ U(smallest, 1), each with its corner there. What
    of them lies outside the image is lost, and what none of them reaches is 0. Examples of weight 0, which are padding,
    reach no other one.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, H, W, C]`, `boxes` `[B, N, 4]`, `labels` and `mask` `[B, N]`; if present, `crowd` `[B, N]`
        and `weight` `[B]`.
      smallest: of the factor, in 0.25..1.
      probability: that an image becomes a mosaic.

    Returns:
      The batch with other inputs, and with 4 N slots for boxes.

    Raises:
      ShapeError: the inputs are no images, or have no boxes.

    Example:
      >>> batch = {"inputs": jnp.ones((4, 8, 8, 1)), "boxes": jnp.zeros((4, 3, 4)), "mask": jnp.zeros((4, 3))}
      >>> mixed = mosaic(jax.random.key(0), {**batch, "labels": jnp.zeros((4, 3), jnp.int32)})
      >>> {name: values.shape for name, values in mixed.items()}
      {'inputs': (4, 8, 8, 1), 'boxes': (4, 12, 4), 'mask': (4, 12), 'labels': (4, 12)}

    Reference:
      Bochkovskiy et al., YOLOv4, 2020. https://arxiv.org/abs/2004.10934
    """
    x, boxes = images(batch, "mosaic", moves=True, boxes=True), boxes_of(batch)
    if boxes is None:
        raise ShapeError("mosaic is for images with boxes, and this batch has none; use cutmix")
    count, height, width, _ = x.shape
    dtype = wide_dtype(x.dtype)
    choosing, sizing, placing, *pairing = jax.random.split(key, 2 + PARTS)
    chosen = jax.random.bernoulli(choosing, probability, (count,))
    # One that becomes no mosaic is its own image at its own size, which meets the others in the last corner.
    size = jnp.where(chosen, jax.random.uniform(sizing, (count,), dtype, smallest, 1), 1)
    meet = jax.random.uniform(placing, (2, count), dtype, *MIDDLE) * jnp.array([[height], [width]], dtype)
    down, across = jnp.where(chosen, jnp.round(meet), jnp.array([[height], [width]], dtype))  # [B]
    of = jnp.stack([jnp.arange(count, dtype=jnp.int32), *(partners(one, batch, count) for one in pairing)], 1)  # [B, 4]
    # Of the parts: upper left, upper right, lower left, lower right.
    top = jnp.stack([down - size * height] * 2 + [down] * 2, 1)
    left = jnp.stack([across - size * width, across] * 2, 1)
    pixels = _pasted(x[of], down, across, top, left, size)
    moved = boxes[of] * size[:, None, None, None] + jnp.stack([left, top] * 2, -1)[:, :, None]  # [B, 4, N, 4]
    limits = _limits(down, across, height, width)[:, :, None]  # so that no box reaches into another part
    joined = {**batch, "inputs": pixels, "boxes": moved.reshape(count, -1, 4).astype(batch["boxes"].dtype)}
    for name in ("labels", "mask", "crowd"):
        if batch.get(name) is not None:
            joined[name] = jnp.asarray(batch[name])[of].reshape(count, -1)
    limits = jnp.broadcast_to(limits, moved.shape).reshape(count, -1, 4)
    return with_boxes(joined, moved.reshape(count, -1, 4), limits)


def _pasted(
    parts: jax.Array, down: jax.Array, across: jax.Array, top: jax.Array, left: jax.Array, size: jax.Array
) -> jax.Array:
    """The four parts `[B, 4, H, W, C]` in one image, each made smaller, and 0 where none of them reaches."""
    count, _, height, width, channels = parts.shape
    row, column = (jnp.arange(side, dtype=size.dtype) for side in (height, width))
    below, beyond = row >= down[:, None], column >= across[:, None]  # [B, H], [B, W]
    part = 2 * below[:, :, None].astype(jnp.int32) + beyond[:, None, :].astype(jnp.int32)  # [B, H, W]

    def along(places: jax.Array, starts: jax.Array, side: int) -> tuple[jax.Array, jax.Array]:
        start = jnp.take_along_axis(starts, part.reshape(count, -1), 1).reshape(part.shape)
        source = source_of(places, start, size[:, None, None])
        return jnp.clip(source, 0, side - 1), (source > -0.5) & (source < side - 0.5)

    rows, some = along(row[:, None], top, height)
    columns, others = along(column, left, width)
    # One gather from the parts below each other; a row that is clipped first takes nothing from the next part.
    stacked = parts.reshape(count, PARTS * height, width, channels)
    found = interpolated(stacked, rows + height * part.astype(rows.dtype), columns, "edge")
    return jnp.where((some & others)[..., None], found, jnp.zeros((), found.dtype))


def _limits(down: jax.Array, across: jax.Array, height: int, width: int) -> jax.Array:
    """The boxes of the four parts in the image, `[B, 4, 4]`."""
    zero, high, wide = jnp.zeros_like(down), jnp.full_like(down, height), jnp.full_like(down, width)
    parts = (
        (zero, zero, across, down),
        (across, zero, wide, down),
        (zero, down, across, high),
        (across, down, wide, high),
    )
    return jnp.stack([jnp.stack(part, -1) for part in parts], 1)
