"""The loss of a detector: focal for classes, one of the IoU family for boxes. Pure."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.detections import boxes_at, flat, points
from jaxprop.core.examples import entry_weights
from jaxprop.core.precision import wide
from jaxprop.errors import ShapeError
from jaxprop.losses.assignment import assign
from jaxprop.losses.focal import focal
from jaxprop.losses.overlap import OVERLAPS
from jaxprop.losses.per_example import PerExample
from jaxprop.types import Batch


def focal_iou(
    outputs: Any,
    batch: Batch,
    *,
    overlap: str = "giou",
    box_weight: float = 2.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> PerExample:
    """Loss of a detector, over the points of its outputs and the objects that they answer for.

    l = (sum_a sum_k focal(o_ak, y_ak) + c sum_(a positive) (1 - IoU(b_a, t_a))) / max(1, number of positive points)

    Each image is divided by its own number, so that its loss is the same in any batch. Points in a crowd count for
    nothing. An image without objects has the loss of its background.

    Args:
      outputs: levels as of `jaxprop.core.detections`.
      batch: `inputs` `[B, H, W, C]`; `boxes` `[B, N, 4]`, x0, y0, x1, y1 in pixels; `labels` integer `[B, N]`; `mask`
        `[B, N]`, 0 where a slot is empty, which may hold anything; if present, `crowd` `[B, N]`, 1 for a region whose
        objects are not told apart, and `weight` `[B]`.
      overlap: which of the IoU family: `iou`, `giou`, `diou` or `ciou`.
      box_weight: c.
      alpha, gamma: of the focal loss.

    Returns:
      Loss `[B]`, weight `[B]`. A label outside 0..K-1 that counts makes the loss NaN.

    Raises:
      ShapeError: the outputs are no levels, or the batch holds no boxes.

    Example:
      >>> level = {"logits": jnp.zeros((1, 2, 2, 3)), "offsets": jnp.zeros((1, 2, 2, 4))}
      >>> batch = {"inputs": jnp.zeros((1, 8, 8, 1)), "boxes": jnp.array([[[0.0, 0.0, 4.0, 4.0]]])}
      >>> batch |= {"labels": jnp.array([[2]]), "mask": jnp.ones((1, 1))}
      >>> [x.round(3).tolist() for x in focal_iou((level,), batch)]
      [[1.4730000495910645], [1.0]]

    Reference:
      Lin et al., Focal Loss for Dense Object Detection, 2017. https://arxiv.org/abs/1708.02002
    """
    _expect_boxes(batch)
    height, width = batch["inputs"].shape[1:3]
    logits, offsets = flat(outputs)
    weight, _ = entry_weights({"weight": batch.get("weight")}, logits.shape[:1], logits.dtype)
    # Selected before the loss, so that nothing of an image without weight has a gradient.
    logits, offsets = (jnp.where(weight[:, None, None] != 0, x, 0) for x in (logits, offsets))
    at, dtype = jnp.asarray(points(outputs, height, width), logits.dtype), logits.dtype
    boxes, classes = wide(jnp.asarray(batch["boxes"])).astype(dtype), logits.shape[-1]

    def one(
        logits: jax.Array, offsets: jax.Array, boxes: jax.Array, labels: jax.Array, mask: jax.Array, crowd: jax.Array
    ) -> jax.Array:
        found = assign(at, boxes, mask, crowd)
        held = found.positive[:, None] & (labels[found.box][:, None] == jnp.arange(classes, dtype=labels.dtype))
        losses = focal(logits, held.astype(dtype), alpha=alpha, gamma=gamma)
        of_classes = jnp.sum(jnp.where(found.ignored[:, None], 0, losses))
        # Selected before the loss: the gradient of what counts for nothing must be 0, also where it is not finite.
        target = jnp.where(found.positive[:, None], boxes[found.box], jnp.array([0, 0, 1, 1], dtype))
        told = jnp.where(found.positive[:, None], boxes_at(offsets, at), target)
        of_boxes = jnp.sum(jnp.where(found.positive, OVERLAPS[overlap](told, target), 0))
        known = jnp.all(~mask | ((labels >= 0) & (labels < classes)))
        count = jnp.maximum(jnp.sum(found.positive, dtype=dtype), 1)
        return (of_classes + box_weight * of_boxes) / count * jnp.where(known, 1, jnp.nan).astype(dtype)

    mask = jnp.asarray(batch["mask"]) != 0
    crowd = jnp.zeros_like(mask) if batch.get("crowd") is None else jnp.asarray(batch["crowd"]) != 0
    losses = jax.vmap(one)(logits, offsets, boxes, jnp.asarray(batch["labels"]), mask, crowd)
    return jnp.where(weight != 0, losses, 0), weight


def _expect_boxes(batch: Batch) -> None:
    missing = [name for name in ("inputs", "boxes", "labels", "mask") if name not in batch]
    shapes = {name: jnp.shape(batch[name]) for name in ("boxes", "labels", "mask") if name in batch}
    if missing or shapes["boxes"] != (*shapes["labels"], 4) or shapes["mask"] != shapes["labels"]:
        raise ShapeError(
            "expected a batch with inputs [B, H, W, C], boxes [B, N, 4], labels [B, N] and mask [B, N], got "
            + (f"no {', '.join(missing)}" if missing else ", ".join(f"{name} {list(s)}" for name, s in shapes.items()))
        )
