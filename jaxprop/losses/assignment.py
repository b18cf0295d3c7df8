"""Which point of a detector answers for which object. Pure."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprop.core.boxes import areas

REACH = 4.0  # longest side of a box that a level is for, in its strides; the coarsest is for all larger ones
RADIUS = 1.5  # distance from a box's centre, in strides, within which points answer for it


class Assigned(NamedTuple):
    """What the points of one image answer for.

    Args:
      box: index of the object of each point, int32 `[A]`; 0 where there is none.
      positive: whether the point answers for one, boolean `[A]`.
      ignored: whether it lies in a crowd, and counts for nothing, boolean `[A]`.
    """

    box: jax.Array
    positive: jax.Array
    ignored: jax.Array


def assign(points: jax.Array, boxes: jax.Array, mask: jax.Array, crowd: jax.Array | None = None) -> Assigned:
    """Assigns points to the objects of one image, by their size and centre.

    A box belongs to the level whose stride its longest side is at most `REACH` times. On it the points answer for the
    box that lie inside of it, at most `RADIUS` strides from its centre along each axis, and always the point of the
    cell that holds the centre, however small the box. A point that could answer for several takes the smallest.

    Args:
      points: x, y and stride in pixels, `[A, 3]`.
      boxes: `[N, 4]`, x0, y0, x1, y1 in pixels.
      mask: which boxes are objects, `[N]`.
      crowd: which boxes are regions full of objects that nobody has counted, `[N]`.

    Example:
      >>> at = jnp.array([[2.0, 2.0, 4.0], [6.0, 2.0, 4.0], [10.0, 2.0, 4.0], [14.0, 2.0, 4.0]])
      >>> found = assign(at, jnp.array([[9.0, 1.0, 12.0, 4.0], [0.0, 0.0, 0.0, 0.0]]), jnp.array([1, 0]))
      >>> found.positive.tolist()
      [False, False, True, False]

    Reference:
      Tian et al., FCOS, 2019. https://arxiv.org/abs/1904.01355
    """
    x, y, stride = (points[:, i, None] for i in range(3))  # [A, 1]
    objects = jnp.asarray(mask).astype(bool)
    regions = None if crowd is None else jnp.asarray(crowd).astype(bool)
    held = objects if regions is None else objects | regions
    boxes = jnp.where(held[:, None], boxes, 0)  # an empty slot may hold anything
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2  # [N, 2]
    apart = jnp.maximum(jnp.abs(x - centre[:, 0]), jnp.abs(y - centre[:, 1]))  # [A, N]
    inside = (x > boxes[:, 0]) & (x < boxes[:, 2]) & (y > boxes[:, 1]) & (y < boxes[:, 3])
    # The left and the upper edge of a cell belong to it, so that every centre lies in one cell.
    left, top = centre[:, 0] - (x - stride / 2), centre[:, 1] - (y - stride / 2)
    cell = (left >= 0) & (left < stride) & (top >= 0) & (top < stride)
    fits = objects & _of_level(stride, boxes) & (inside & (apart <= RADIUS * stride) | cell)
    size = jnp.where(fits, areas(boxes), jnp.inf)
    positive = jnp.any(fits, 1)
    box = jnp.where(positive, jnp.argmin(size, 1).astype(jnp.int32), 0)
    ignored = jnp.zeros_like(positive) if regions is None else jnp.any(inside & regions, 1) & ~positive
    return Assigned(box, positive, ignored)


def _of_level(stride: jax.Array, boxes: jax.Array) -> jax.Array:
    """Whether boxes `[N, 4]` are of the size that points of a stride `[A, 1]` answer for; strides double by level."""
    longest = jnp.max(boxes[:, 2:] - boxes[:, :2], -1)
    finest, coarsest = jnp.min(stride), jnp.max(stride)
    return ((longest > REACH * stride / 2) | (stride == finest)) & ((longest <= REACH * stride) | (stride == coarsest))
