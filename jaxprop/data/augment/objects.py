"""Boxes that are moved with the pixels: cut at the edges of their image, and dropped where little is left. Pure."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.boxes import areas, clipped
from jaxprop.core.precision import wide
from jaxprop.errors import ShapeError
from jaxprop.types import Batch

VISIBLE = 0.3  # share of a box that has to lie in the image; less of an object is hard to tell from clutter


def boxes_of(batch: Batch) -> jax.Array | None:
    """Returns the boxes of a batch, `[B, N, 4]` in pixels, in float32 or wider; None where it has none.

    Raises:
      ShapeError: the batch has boxes, but no mask `[B, N]` that says which slots hold one.

    Example:
      >>> boxes_of({"inputs": jnp.zeros((2, 8, 8, 1))}) is None
      True
    """
    if "boxes" not in batch:
        return None
    boxes, mask = jnp.asarray(batch["boxes"]), batch.get("mask")
    if mask is None or boxes.shape != (*jnp.shape(mask), 4):
        raise ShapeError(
            f"expected boxes [B, N, 4] with a mask [B, N], got {list(boxes.shape)} and "
            f"{'no mask' if mask is None else list(jnp.shape(mask))}"
        )
    return wide(boxes)


def with_boxes(batch: dict[str, Any], boxes: jax.Array | None, limits: jax.Array | None = None) -> dict[str, Any]:
    """Returns a batch with boxes that have been moved, as far as they lie in its images.

    Args:
      batch: `inputs` `[B, H, W, C]`, `boxes`, `mask` and, if present, `crowd`.
      boxes: moved, `[B, N, 4]` in pixels of the inputs; None to return the batch as it is.
      limits: what each box is cut to, `[B, N, 4]`; None for the image.

    Returns:
      The batch with boxes inside the images. Of a slot whose box has less than `VISIBLE` of its area left, the box and
      the mask are 0; of one whose crowd has none left, the box and the crowd are.

    Example:
      >>> batch = {"inputs": jnp.zeros((1, 8, 8, 1)), "boxes": jnp.zeros((1, 2, 4)), "mask": jnp.ones((1, 2))}
      >>> moved = with_boxes(batch, jnp.array([[[-2.0, 0.0, 4.0, 4.0], [-9.0, 0.0, 1.0, 4.0]]]))
      >>> moved["boxes"].tolist(), moved["mask"].tolist()
      ([[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0]]], [[1.0, 0.0]])
    """
    if boxes is None:
        return batch
    height, width = batch["inputs"].shape[1:3]
    inside = clipped(boxes, height, width)
    if limits is not None:
        inside = jnp.concatenate(
            [jnp.maximum(inside[..., :2], limits[..., :2]), jnp.minimum(inside[..., 2:], limits[..., 2:])], -1
        )
    needed = VISIBLE * areas(boxes)
    if batch.get("crowd") is not None:
        needed = jnp.where(jnp.asarray(batch["crowd"]) != 0, 0, needed)  # any part says where not to look
    # Written so that a box of no area, as an empty slot is, is dropped, too.
    kept = areas(inside) >= jnp.maximum(needed, jnp.finfo(boxes.dtype).tiny)
    moved = {**batch, "boxes": jnp.where(kept[..., None], inside, 0).astype(batch["boxes"].dtype)}
    for name in ("mask", "crowd"):
        if batch.get(name) is not None:
            flags = jnp.asarray(batch[name])
            moved[name] = jnp.where(kept, flags, jnp.zeros_like(flags))
    return moved


def expect_no_mirror(batch: Batch, mode: str, name: str) -> None:
    """Raises ShapeError where what lies beyond the edges would be objects that have no box.

    Example:
      >>> expect_no_mirror({"boxes": jnp.zeros((1, 1, 4))}, "zeros", "crop")
    """
    if mode == "reflect" and "boxes" in batch:
        raise ShapeError(f"{name}: the mode reflect mirrors objects, which then have no box; use zeros or edge")
