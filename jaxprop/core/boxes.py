"""Boxes of objects in images: areas, overlaps, what of a box lies in an image, non-maximum suppression. Pure.

A box is `x0, y0, x1, y1`: its left, upper, right and lower edge in pixels. The first pixel of an image covers 0 to 1 on
both axes, so that an image of H x W pixels is the box `0, 0, W, H`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def areas(boxes: jax.Array) -> jax.Array:
    """Returns the area of boxes, (x1 - x0) (y1 - y0), and 0 where an edge lies on the wrong side of the other.

    Args:
      boxes: `[..., 4]` in pixels.

    Returns:
      `[...]` in square pixels.

    Example:
      >>> areas(jnp.array([[0.0, 0.0, 2.0, 3.0], [5.0, 0.0, 2.0, 3.0]])).tolist()
      [6.0, 0.0]
    """
    return jnp.prod(jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0), -1)


def intersections(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the area that boxes have in common.

    Args:
      a, b: `[..., 4]` in pixels, of shapes that broadcast.

    Example:
      >>> intersections(jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([1.0, 0.0, 3.0, 2.0])).item()
      2.0
    """
    return areas(jnp.concatenate([jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])], -1))


def ious(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the intersection over union of boxes, |A n B| / |A u B|, and 0 where the union is empty.

    Args:
      a, b: `[..., 4]` in pixels, of shapes that broadcast.

    Returns:
      `[...]` in 0..1.

    Example:
      >>> round(ious(jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([1.0, 0.0, 3.0, 2.0])).item(), 4)
      0.3333
    """
    common = intersections(a, b)
    union = areas(a) + areas(b) - common
    return jnp.where(union > 0, common / jnp.where(union > 0, union, 1), 0)


def clipped(boxes: jax.Array, height: float, width: float) -> jax.Array:
    """Returns what of boxes lies in an image.

    Args:
      boxes: `[..., 4]` in pixels.
      height, width: of the image.

    Example:
      >>> clipped(jnp.array([-1.0, 2.0, 9.0, 9.0]), height=8, width=6).tolist()
      [0.0, 2.0, 6.0, 8.0]
    """
    return jnp.clip(boxes, 0, jnp.array([width, height, width, height], boxes.dtype))


def suppress(boxes: jax.Array, scores: jax.Array, classes: jax.Array, threshold: float) -> jax.Array:
    """Says which boxes non-maximum suppression keeps, class by class.

    From the highest score down, a box is kept unless it overlaps one that is kept, of its class, by an IoU above the
    threshold. Of equal scores the first goes first. A box whose score is 0 or less is never kept.

    Args:
      boxes: `[K, 4]` in pixels.
      scores: `[K]`.
      classes: integers `[K]`.
      threshold: IoU in 0..1.

    Returns:
      Boolean `[K]`.

    Example:
      >>> boxes = jnp.array([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 5.0], [0.0, 0.0, 4.0, 4.0]])
      >>> suppress(boxes, jnp.array([0.9, 0.8, 0.7]), jnp.array([1, 1, 2]), 0.5).tolist()
      [True, False, True]

    Reference:
      Neubeck and Van Gool, Efficient Non-Maximum Suppression, 2006.
    """
    order = jnp.argsort(-scores, stable=True)
    boxes, classes, counts = boxes[order], classes[order], scores[order] > 0
    rivals = (ious(boxes[:, None], boxes[None]) > threshold) & (classes[:, None] == classes[None])
    place = jnp.arange(len(boxes), dtype=jnp.int32)

    def decide(i: jax.Array, kept: jax.Array) -> jax.Array:
        beaten = jnp.any(rivals[i] & kept & (place < i))
        return kept.at[i].set(kept[i] & ~beaten)

    kept = jax.lax.fori_loop(0, len(boxes), decide, counts)
    return jnp.zeros_like(kept).at[order].set(kept)
