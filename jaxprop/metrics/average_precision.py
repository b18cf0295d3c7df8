"""Average precision of boxes, as COCO measures it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.detections import USUAL, Decoding, decode
from jaxprop.core.precision import wide
from jaxprop.errors import MissingExtraError
from jaxprop.metrics.matched_boxes import match, precision
from jaxprop.types import Batch, Metric, Rows


def average_precision_of(decoding: Decoding) -> Metric:
    """Returns the average precision of boxes that are decoded in a way.

    mAP is the mean over classes, and over the IoUs 0.5, 0.55 ... 0.95, of the area under precision by recall at 101
    recalls. A crowd is no object: boxes in it are neither right nor wrong.

    Args:
      decoding: how outputs become boxes.

    Returns:
      A metric that reports `map`, over all IoUs, and `map_50`, at 0.5; both NaN where no image has an object.

    Example:
      >>> average_precision_of(Decoding(most=10))._fields
      ('update', 'finish', 'weighted')

    Reference:
      https://cocodataset.org/#detection-eval
    """

    def update(outputs: Any, batch: Batch) -> Rows:
        height, width = batch["inputs"].shape[1:3]
        found = decode(outputs, height, width, decoding)
        mask, crowd = jnp.asarray(batch["mask"]) != 0, batch.get("crowd")
        true = {
            "boxes": wide(jnp.asarray(batch["boxes"])),
            "classes": jnp.asarray(batch["labels"]),
            "object": mask,
            "crowd": jnp.zeros_like(mask) if crowd is None else jnp.asarray(crowd) != 0,
        }
        return Rows({"found": found._asdict(), "true": true})

    def weighted(rows: Any) -> Callable[[np.ndarray], dict[str, float]]:
        kinds = match(rows)
        return lambda weights: precision(kinds, weights)

    return Metric(update, finish, weighted)


def finish(rows: Any) -> dict[str, float]:
    """Returns `map` and `map_50` of all images.

    Args:
      rows: `found` and `true`, arrays with one entry an image, as `average_precision_of` keeps them.

    Raises:
      MissingExtraError: faster-coco-eval is not installed.
    """
    expect_installed()
    from faster_coco_eval import COCO, COCOeval_faster

    true, found = jax.tree.map(np.asarray, rows["true"]), jax.tree.map(np.asarray, rows["found"])
    held = true["object"] | true["crowd"]
    classes = np.unique(true["classes"][held]).tolist()
    if not true["object"].any():
        return {"map": float("nan"), "map_50": float("nan")}
    images = [{"id": i + 1} for i in range(len(held))]
    categories = [{"id": kind + 1, "name": str(kind)} for kind in classes]
    annotations = [
        _annotation(number, image, true["boxes"][image, slot], true["classes"][image, slot])
        | {"iscrowd": int(true["crowd"][image, slot])}
        for number, (image, slot) in enumerate(np.argwhere(held).tolist(), 1)
    ]
    real = np.argwhere((found["scores"] > 0) & np.isin(found["classes"], classes)).tolist()
    told = [
        _annotation(number, image, found["boxes"][image, slot], found["classes"][image, slot])
        | {"score": float(found["scores"][image, slot])}
        for number, (image, slot) in enumerate(real, 1)
    ]
    truth = COCO({"images": images, "annotations": annotations, "categories": categories})
    measured = COCOeval_faster(truth, truth.loadRes(told), "bbox", print_function=lambda *_: None)
    measured.params.maxDets = [1, 10, max(100, found["scores"].shape[1])]
    measured.evaluate()
    measured.accumulate()
    # [IoU, recall, class, area, number of boxes]; -1 for a class that no object of the area has
    precision = measured.eval["precision"][:, :, :, 0, -1]
    return {"map": _mean(precision), "map_50": _mean(precision[:1])}


def expect_installed() -> None:
    """Raises MissingExtraError where the library that measures is not installed."""
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("faster_coco_eval", "the task detect", install="faster-coco-eval") from error


def _annotation(number: int, image: int, box: np.ndarray, kind: int) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(x) for x in box)
    size = [x0, y0, x1 - x0, y1 - y0]
    return {"id": number, "image_id": image + 1, "category_id": int(kind) + 1, "bbox": size, "area": size[2] * size[3]}


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")


average_precision = average_precision_of(USUAL)
