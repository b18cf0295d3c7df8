"""Detection: boxes with classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.config.schema.config import Config
from jaxprop.config.schema.model import Detector
from jaxprop.core.detections import USUAL, Decoding, decode
from jaxprop.data.readers.images.open import standardization
from jaxprop.errors import UsageError, one_of
from jaxprop.metrics.average_precision import average_precision_of, expect_installed
from jaxprop.tasks.pictures import TOLD, found_by_class, told, worst_images
from jaxprop.tasks.task import Raw, Task, bind
from jaxprop.tasks.words import class_name, number
from jaxprop.types import Batch, Source

NMS = ("class", "all")


def detect(config: Config, sources: Mapping[str, Source]) -> Task:
    """Binds the focal loss with one of boxes, and COCO's average precision.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on; `info["classes"]` is the number of classes.

    Returns:
      The task; its reference is the precision of finding nothing.

    Raises:
      MissingExtraError: faster-coco-eval, which measures the precision, is not installed.
    """
    expect_installed()
    section = config.model
    decoding = Decoding(iou=section.iou, most=section.most, nms=section.nms) if isinstance(section, Detector) else USUAL
    train = sources["train"]
    names, scale = train.info.get("class_names", ()), {name: train.prepared.get(name, ()) for name in ("mean", "std")}
    return Task(
        *bind(config, train, {"map": average_precision_of(decoding)}),
        predict=partial(predict, decoding=decoding),
        reference={"empty_map": 0.0},
        panels=(
            partial(worst_images, names=names, overlap=decoding.iou, **scale),
            partial(found_by_class, names=names, overlap=decoding.iou),
        ),
        shown=("inputs", "boxes", "crowd"),
        describe=partial(describe, overlap=decoding.iou),
        raw=raw_images(train.prepared),
    )


def predict(outputs: Any, batch: Batch, *, decoding: Decoding = USUAL) -> dict[str, jax.Array]:
    """Returns the boxes of each image, those of the highest score first; slots left over have the score 0.

    Args:
      outputs: levels as of `jaxprop.core.detections`.
      batch: `inputs` `[B, H, W, C]`; if present, `image_size` `[B, 2]`, height and width of each image before it was
        resized to H x W, whose pixels the boxes are then in.
      decoding: which boxes are kept.

    Returns:
      `boxes` float32 `[B, M, 4]`, x0, y0, x1, y1 in pixels; `scores` float32 `[B, M]`; `classes` int32 `[B, M]`;
      `count` int32 `[B]`, how many slots hold a box.

    Example:
      >>> level = {"logits": jnp.full((1, 2, 2, 1), -9.0).at[0, 0, 0, 0].set(9.0), "offsets": jnp.zeros((1, 2, 2, 4))}
      >>> batch = {"inputs": jnp.zeros((1, 8, 8, 1)), "image_size": jnp.array([[80.0, 16.0]])}
      >>> predict((level,), batch)["boxes"][0, 0].tolist()
      [0.0, 0.0, 8.0, 40.0]
    """
    height, width = batch["inputs"].shape[1:3]
    found = decode(outputs, height, width, decoding)
    boxes = found.boxes
    if batch.get("image_size") is not None:
        factor = jnp.asarray(batch["image_size"], boxes.dtype) / jnp.array([height, width], boxes.dtype)
        boxes = boxes * jnp.tile(factor[:, ::-1], 2)[:, None]
    count = jnp.sum(found.scores > 0, 1, dtype=jnp.int32)
    return {"boxes": boxes, "scores": found.scores, "classes": found.classes, "count": count}


def raw_images(prepared: Mapping[str, Any]) -> Raw | None:
    """Returns how pixels become the inputs of the model, for an exported program.

    Args:
      prepared: what was learned of the training images: `size`, `channels`, `resample`, `mean` and `std`.

    Returns:
      A program's `images` uint8 `[B, H, W, C]`; None for data that were no images.

    Example:
      >>> raw = raw_images({"size": [2, 4], "channels": 1, "resample": "bilinear", "mean": [0.5], "std": [0.25]})
      >>> raw.prepare({"images": jnp.full((1, 2, 4, 1), 255, jnp.uint8)})["inputs"][0, 0].tolist()
      [[2.0], [2.0], [2.0], [2.0]]
    """
    if not {"size", "channels", "mean", "std"} <= prepared.keys():
        return None
    height, width = prepared["size"]
    channels = prepared["channels"]
    centre, factor = standardization(prepared["mean"], prepared["std"])
    colours, by = {1: "grey", 3: "red, green and blue"}[channels], prepared.get("resample")

    def prepare(raw: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {"inputs": (raw["images"].astype(jnp.float32) - centre) * factor}

    resized = f", resized to this size whatever their own shape, with the filter {by}" if by else " of this size"
    return Raw(
        {"images": jax.ShapeDtypeStruct((height, width, channels), np.dtype(np.uint8))},
        prepare,
        (
            f"`images` are pixels from 0 to 255, {colours}, of {height} x {width} (height x width){resized}. The "
            "program standardizes them itself.",
            "`boxes` are x0, y0, x1, y1 in pixels of this size, the surest first, after non-maximum suppression. Of an "
            "image resized before, multiply them by its own width and height over these.",
            "`scores` are from 0 to 1; `classes` are places in the list of class names below, from 0. The first "
            "`count` slots of an image hold its boxes; the others are 0.",
        ),
    )


def describe(
    found: Mapping[str, np.ndarray],
    i: int,
    info: Mapping[str, Any],
    *,
    score: float = TOLD,
    nms: str = "all",
    overlap: float = USUAL.iou,
) -> dict[str, Any]:
    """Says which boxes an image has.

    Args:
      found: predictions of a batch, from `predict`.
      i: the image.
      info: of the training data: `class_names`.
      score: lowest score of a box to tell.
      nms: `all` leaves out a box that overlaps a surer one of whatever class, so that an object has one; `class` tells
        every box that is found.
      overlap: IoU from which it does.

    Returns:
      `boxes`, the surest first, each with `class`, `score` and `box`, x0, y0, x1, y1 in pixels.

    Raises:
      UsageError: `nms` is neither.

    Example:
      >>> boxes = np.array([[[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 9.0, 9.0]]])
      >>> told = {"boxes": boxes, "scores": np.array([[0.75, 0.1]]), "classes": np.array([[1, 0]])}
      >>> describe(told, 0, {"class_names": ["cat", "dog"]})
      {'boxes': [{'class': 'dog', 'score': 0.75, 'box': [1.0, 2.0, 3.0, 4.0]}]}
    """
    if nms not in NMS:
        raise UsageError(one_of(nms, NMS, "nms"))
    names = info.get("class_names") or ()
    return {
        "boxes": [
            {
                "class": class_name(names, int(found["classes"][i][slot])),
                "score": number(found["scores"][i][slot]),
                "box": [round(float(edge), 2) for edge in found["boxes"][i][slot]],
            }
            for slot in told(found, i, score, overlap if nms == "all" else None)
        ]
    }
