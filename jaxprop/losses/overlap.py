"""The IoU family of losses for boxes. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprop.core.boxes import areas, intersections, ious


def iou(boxes: jax.Array, targets: jax.Array) -> jax.Array:
    """Loss of the intersection over union.

    l = 1 - IoU

    Args:
      boxes, targets: `[..., 4]`, x0, y0, x1, y1 in pixels.

    Returns:
      `[...]` in 0..1.

    Example:
      >>> iou(jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([0.0, 0.0, 2.0, 4.0])).item()
      0.5

    Reference:
      Yu et al., UnitBox, 2016. https://arxiv.org/abs/1608.01471
    """
    return 1 - ious(boxes, targets)


def giou(boxes: jax.Array, targets: jax.Array) -> jax.Array:
    """Loss of the generalized IoU, which has a gradient where boxes lie apart.

    l = 1 - IoU + |C without A u B| / |C|,   C the smallest box around both

    Args:
      boxes, targets: `[..., 4]`, x0, y0, x1, y1 in pixels.

    Returns:
      `[...]` in 0..2.

    Example:
      >>> giou(jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([3.0, 0.0, 4.0, 1.0])).item()
      1.5

    Reference:
      Rezatofighi et al., Generalized Intersection over Union, 2019. https://arxiv.org/abs/1902.09630
    """
    around = areas(_around(boxes, targets))
    union = areas(boxes) + areas(targets) - intersections(boxes, targets)
    return 1 - ious(boxes, targets) + _share(around - union, around)


def diou(boxes: jax.Array, targets: jax.Array) -> jax.Array:
    """Loss of the distance IoU.

    l = 1 - IoU + d^2 / c^2,   d between the centres, c the diagonal of the smallest box around both

    Args:
      boxes, targets: `[..., 4]`, x0, y0, x1, y1 in pixels.

    Returns:
      `[...]` in 0..2.

    Example:
      >>> diou(jnp.array([0.0, 0.0, 3.0, 4.0]), jnp.array([3.0, 4.0, 6.0, 8.0])).item()
      1.25

    Reference:
      Zheng et al., Distance-IoU Loss, 2020. https://arxiv.org/abs/1911.08287
    """
    around = _around(boxes, targets)
    diagonal = jnp.sum(jnp.square(around[..., 2:] - around[..., :2]), -1)
    apart = (boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]) / 2
    return 1 - ious(boxes, targets) + _share(jnp.sum(jnp.square(apart), -1), diagonal)


def ciou(boxes: jax.Array, targets: jax.Array) -> jax.Array:
    """Loss of the complete IoU, which also compares the proportions of the boxes.

    l = DIoU loss + a v,   v = (4 / pi^2) (atan(w'/h') - atan(w/h))^2,   a = v / (1 - IoU + v), held fixed

    Args:
      boxes, targets: `[..., 4]`, x0, y0, x1, y1 in pixels.

    Returns:
      `[...]`.

    Example:
      >>> ciou(jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([0.0, 0.0, 2.0, 2.0])).item()
      0.0

    Reference:
      Zheng et al., Distance-IoU Loss, 2020. https://arxiv.org/abs/1911.08287
    """
    v = (4 / math.pi**2) * jnp.square(_angle(targets) - _angle(boxes))
    # The weight is no part of what is minimized, as in the paper's own code.
    weight = jax.lax.stop_gradient(_share(v, 1 - ious(boxes, targets) + v))
    return diou(boxes, targets) + weight * v


OVERLAPS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "iou": iou,
    "giou": giou,
    "diou": diou,
    "ciou": ciou,
}


def _around(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], -1)


def _share(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)


def _angle(boxes: jax.Array) -> jax.Array:
    size = boxes[..., 2:] - boxes[..., :2]
    # A point has no proportions, and the angle of nothing no gradient.
    size = jnp.where(jnp.any(size != 0, -1, keepdims=True), size, 1)
    return jnp.arctan2(size[..., 0], size[..., 1])
