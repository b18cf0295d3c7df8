"""What the outputs of a detector mean: a class and a box at every point of a pyramid of grids. Pure.

The outputs are a tuple of levels, the finest first. A level of stride s has a point for every cell of s x s pixels, in
its centre, and there

    logits [B, h, w, K]     of the K classes, each by itself
    offsets [B, h, w, 4]    dx, dy, log w, log h: a box around the point + s (dx, dy), of s w x s h pixels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.boxes import clipped, suppress
from jaxprop.core.precision import wide
from jaxprop.errors import ShapeError

LARGEST = 6.0  # of log w and log h, so that no box is infinite; a box of 400 strides


class Decoding(NamedTuple):
    """How outputs become a list of boxes.

    Args:
      candidates: number of boxes of the highest scores that are compared with each other.
      most: number of boxes that are kept of an image.
      iou: overlap from which the lower one of two boxes is dropped.
      score: lowest score that counts.
      nms: which boxes are compared, those of one `class` or `all`.
    """

    candidates: int = 200
    most: int = 100
    iou: float = 0.6
    score: float = 0.01
    nms: str = "class"


USUAL = Decoding()


class Detections(NamedTuple):
    """Boxes of each image, those of the highest score first; slots that are left over have the score 0.

    Args:
      boxes: `[B, M, 4]` in pixels of the inputs, inside the image.
      scores: `[B, M]` in 0..1.
      classes: int32 `[B, M]`.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array


def points(outputs: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Returns the points of all levels and their strides in pixels, `x, y, s`, float32 `[A, 3]`.

    Args:
      outputs: of a detector, or the shapes of them.
      height, width: of the inputs in pixels.

    Raises:
      ShapeError: the outputs are no levels of logits and offsets.

    Example:
      >>> level = {"logits": jnp.zeros((1, 1, 2, 3)), "offsets": jnp.zeros((1, 1, 2, 4))}
      >>> points((level,), height=4, width=8).tolist()
      [[2.0, 2.0, 4.0], [6.0, 2.0, 4.0]]
    """
    found = []
    for level in _levels(outputs):
        rows, columns = level["logits"].shape[1:3]
        # A level is as large as the image divided by its stride, a power of two, and rounded up.
        stride = 2 ** math.ceil(math.log2(max(height / rows, width / columns)))
        y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        grid = (np.stack([x, y], -1) + 0.5) * stride
        found.append(np.concatenate([grid, np.full((rows, columns, 1), stride)], -1).reshape(-1, 3))
    return np.concatenate(found).astype(np.float32)


def flat(outputs: Sequence[Any]) -> tuple[jax.Array, jax.Array]:
    """Returns logits `[B, A, K]` and offsets `[B, A, 4]` of the A points of all levels, in float32 or wider.

    Example:
      >>> level = {"logits": jnp.zeros((2, 4, 4, 3)), "offsets": jnp.zeros((2, 4, 4, 4))}
      >>> [x.shape for x in flat((level, level))]
      [(2, 32, 3), (2, 32, 4)]
    """
    levels = _levels(outputs)
    logits, offsets = (
        jnp.concatenate([wide(x[name]).reshape(x[name].shape[0], -1, x[name].shape[-1]) for x in levels], 1)
        for name in ("logits", "offsets")
    )
    return logits, offsets


def boxes_at(offsets: jax.Array, at: jax.Array | np.ndarray) -> jax.Array:
    """Returns the boxes that offsets stand for.

    Args:
      offsets: `[..., 4]`.
      at: points and strides `[..., 3]`.

    Returns:
      `[..., 4]` in pixels; they may reach over the edge of the image.

    Example:
      >>> boxes_at(jnp.array([0.5, 0.0, 0.0, 0.0]), jnp.array([8.0, 8.0, 4.0])).tolist()
      [8.0, 6.0, 12.0, 10.0]
    """
    at = jnp.asarray(at, offsets.dtype)
    stride = at[..., 2:]
    centre = at[..., :2] + stride * offsets[..., :2]
    half = stride * jnp.exp(jnp.minimum(offsets[..., 2:], LARGEST)) / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def decode(outputs: Sequence[Any], height: int, width: int, decoding: Decoding = USUAL) -> Detections:
    """Returns the boxes that outputs stand for: those of the highest scores, without the ones that others cover.

    Args:
      outputs: of a detector.
      height, width: of the inputs in pixels.
      decoding: what is kept.

    Example:
      >>> level = {"logits": jnp.full((1, 2, 2, 3), -9.0).at[0, 1, 0, 2].set(9.0), "offsets": jnp.zeros((1, 2, 2, 4))}
      >>> found = decode((level,), height=8, width=8, decoding=Decoding(most=1))
      >>> found.boxes.tolist(), found.classes.tolist(), found.scores.round(2).tolist()
      ([[[0.0, 4.0, 4.0, 8.0]]], [[2]], [[1.0]])
    """
    logits, offsets = flat(outputs)
    at, classes = points(outputs, height, width), logits.shape[-1]
    candidates = min(decoding.candidates, logits.shape[1] * classes)

    def one(logits: jax.Array, offsets: jax.Array) -> Detections:
        # A point may stand for several classes, so that candidates are pairs of a point and a class.
        scores, index = jax.lax.top_k(jax.nn.sigmoid(logits).reshape(-1), candidates)
        where, kinds = index // classes, (index % classes).astype(jnp.int32)
        boxes = clipped(boxes_at(offsets[where], jnp.asarray(at)[where]), height, width)
        scores = jnp.where(scores >= decoding.score, scores, 0)
        rivals = kinds if decoding.nms == "class" else jnp.zeros_like(kinds)
        scores = jnp.where(suppress(boxes, scores, rivals, decoding.iou), scores, 0)
        scores, kept = jax.lax.top_k(scores, min(decoding.most, candidates))
        real = scores > 0
        return Detections(jnp.where(real[:, None], boxes[kept], 0), scores, jnp.where(real, kinds[kept], 0))

    return Detections(*jax.vmap(one)(logits, offsets))


def _levels(outputs: Any) -> Sequence[Any]:
    if (
        isinstance(outputs, tuple | list)
        and outputs
        and all(hasattr(level, "keys") and {"logits", "offsets"} <= set(level.keys()) for level in outputs)
    ):
        return outputs
    raise ShapeError(
        "expected the outputs of a detector, a tuple of levels, each {'logits': [B, h, w, K], 'offsets': "
        f"[B, h, w, 4]}}, got {jax.tree.map(jnp.shape, outputs)}"
    )
