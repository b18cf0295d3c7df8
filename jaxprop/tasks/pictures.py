"""What a report shows of found boxes: images with what was found, missed and made up, and counts by class. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.metrics.matches import overlaps
from jaxprop.tasks.panels import CLASSES, Drawable, Predictions
from jaxprop.types import Batch

WORST = 8  # images that are shown
SIDE = 192  # largest side of a picture in pixels; of a larger image, every n-th pixel is taken
TOLD = 0.3  # lowest score of a box that a person is shown
OVERLAP = 0.5  # IoU from which a box has found an object


class Judged(NamedTuple):
    """What became of the boxes of one image.

    Args:
      found: slots of boxes that have found an object.
      alarms: slots of boxes that have found none.
      missed: slots of objects that no box has found.
    """

    found: list[int]
    alarms: list[int]
    missed: list[int]

    @property
    def errors(self) -> int:
        """How many boxes or objects are wrong."""
        return len(self.alarms) + len(self.missed)


def judge(predictions: Predictions, batch: Batch, i: int, overlap: float | None = None) -> Judged:
    """Compares the boxes of an image with its objects: the surest box first, each with the object it overlaps most.

    Args:
      predictions: of the task `detect`.
      batch: with `boxes`, `labels`, `mask` and, if present, `crowd`, in which a box is neither right nor wrong.
      i: the image.
      overlap: as of `told`.

    Example:
      >>> told = {"boxes": np.array([[[0, 0, 4, 4], [5, 5, 9, 9]]]), "scores": np.array([[0.9, 0.8]])}
      >>> true = {"boxes": np.array([[[0, 0, 4, 5]]]), "labels": np.array([[1]]), "mask": np.array([[1]])}
      >>> judge(told | {"classes": np.array([[1, 1]])}, true, 0)
      Judged(found=[0], alarms=[1], missed=[])
    """
    kinds = np.asarray(predictions["classes"][i])
    boxes, true = np.asarray(predictions["boxes"][i], np.float64), np.asarray(batch["boxes"][i], np.float64)
    labels, left = np.asarray(batch["labels"][i]), np.asarray(batch["mask"][i]) != 0
    crowd = np.asarray(batch["crowd"][i]) != 0 if batch.get("crowd") is not None else np.zeros_like(left)
    found, alarms = [], []
    for slot in told(predictions, i, overlap=overlap):
        covered = np.where(left & (labels == kinds[slot]), overlaps(boxes[slot][None], true)[0], 0)
        best = int(np.argmax(covered)) if len(covered) else -1
        if best >= 0 and covered[best] >= OVERLAP:
            found.append(slot)
            left = left & (np.arange(len(left)) != best)
        elif not np.any(crowd & (labels == kinds[slot]) & (overlaps(boxes[slot][None], true, crowd)[0] >= OVERLAP)):
            alarms.append(slot)
    return Judged(found, alarms, np.flatnonzero(left).tolist())


def told(predictions: Predictions, i: int, score: float = TOLD, overlap: float | None = None) -> list[int]:
    """Returns the boxes of an image that a person is told, the surest first.

    Args:
      predictions: of the task `detect`.
      i: the image.
      score: lowest score.
      overlap: IoU above which a box is left out beside a surer one, whatever their classes; None for none.

    Returns:
      Their slots.

    Example:
      >>> boxes = np.array([[[0, 0, 4, 4], [0, 0, 4, 4.5], [5, 5, 9, 9]]])
      >>> told({"boxes": boxes, "scores": np.array([[0.9, 0.8, 0.1]])}, 0, overlap=0.5)
      [0]
    """
    scores, boxes = np.asarray(predictions["scores"][i]), np.asarray(predictions["boxes"][i], np.float64)
    kept: list[int] = []
    for slot in np.argsort(-scores, kind="stable").tolist():
        if scores[slot] < max(score, np.finfo(np.float32).tiny):
            break
        if overlap is None or not np.any(overlaps(boxes[slot][None], boxes[kept]) > overlap):
            kept.append(slot)
    return kept


def worst_images(
    predictions: Predictions,
    batch: Batch,
    names: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    overlap: float | None = None,
) -> Drawable:
    """Shows the images with the most misses and false alarms.

    Args:
      predictions: of the task `detect`.
      batch: `inputs` `[n, H, W, C]`, and what `judge` reads.
      names: of the classes; without any they are told by number.
      mean, std: of each channel, which the inputs are standardized by; without them each image is stretched to 0..1.
      overlap: as of `told`.

    Example:
      >>> told = {"boxes": np.zeros((1, 1, 4)), "scores": np.zeros((1, 1)), "classes": np.zeros((1, 1), int)}
      >>> true = {"inputs": np.zeros((1, 8, 8, 1)), "boxes": np.array([[[0, 0, 4, 5]]]), "labels": np.array([[1]])}
      >>> shown = worst_images(told, true | {"mask": np.array([[1]])}).data["pictures"][0]
      >>> shown["title"], shown["boxes"]
      ('example 0: 1 missed', [{'box': [0.0, 0.0, 4.0, 5.0], 'kind': 'missed', 'text': '1'}])
    """
    judged = [judge(predictions, batch, i, overlap) for i in range(len(batch["boxes"]))]
    order = sorted(range(len(judged)), key=lambda i: -judged[i].errors)[:WORST]
    pictures = [_picture(predictions, batch, i, judged[i], names, (mean, std)) for i in order]
    hint = f"Found, missed and false alarms at a score of {TOLD:g} and an overlap (IoU) of {OVERLAP:g}; worst first."
    return Drawable("Boxes", "pictures", {"pictures": pictures}, hint)


def found_by_class(
    predictions: Predictions, batch: Batch, names: Sequence[str] = (), overlap: float | None = None
) -> Drawable:
    """Counts the objects of each class, and what of them was found; those with the most errors where classes are many.

    Args:
      predictions, batch: as of `judge`.
      names: of the classes.
      overlap: as of `told`.

    Example:
      >>> told = {"boxes": np.zeros((1, 1, 4)), "scores": np.zeros((1, 1)), "classes": np.zeros((1, 1), int)}
      >>> true = {"boxes": np.array([[[0, 0, 4, 5]]]), "labels": np.array([[1]]), "mask": np.array([[1]])}
      >>> found_by_class(told, true).data["rows"]
      [['1', 1, 0, 1, 0]]
    """
    counts: dict[int, list[int]] = {}
    for i in range(len(batch["boxes"])):
        judged = judge(predictions, batch, i, overlap)
        for place, slots, kinds in (
            (1, judged.found, predictions["classes"][i]),
            (2, judged.missed, batch["labels"][i]),
            (3, judged.alarms, predictions["classes"][i]),
        ):
            for slot in slots:
                counts.setdefault(int(kinds[slot]), [0, 0, 0, 0])[place] += 1
    worst = sorted(counts, key=lambda kind: -(counts[kind][2] + counts[kind][3]))[:CLASSES]
    rows = [[_name(kind, names), sum(counts[kind][1:3]), *counts[kind][1:]] for kind in sorted(worst)]
    headers = ["class", "objects", "found", "missed", "false alarms"]
    return Drawable("Classes", "table", {"headers": headers, "rows": rows})


def _picture(
    predictions: Predictions, batch: Batch, i: int, judged: Judged, names: Sequence[str], scale: Any
) -> dict[str, Any]:
    pixels = _grey_or_colour(np.asarray(batch["inputs"][i], np.float64), *scale)
    step = -(-max(pixels.shape[:2]) // SIDE)
    small = np.ascontiguousarray(pixels[::step, ::step])
    boxes = []
    for kind, slots in (("missed", judged.missed), ("alarm", judged.alarms), ("found", judged.found)):
        for slot in slots:
            if kind == "missed":
                box, text = batch["boxes"][i][slot], _name(int(batch["labels"][i][slot]), names)
            else:
                box = predictions["boxes"][i][slot]
                text = (
                    f"{_name(int(predictions['classes'][i][slot]), names)} {float(predictions['scores'][i][slot]):.2f}"
                )
            boxes.append({"box": [round(float(x) / step, 2) for x in box], "kind": kind, "text": text})
    parts = [
        f"{len(slots)} {what}"
        for slots, what in ((judged.missed, "missed"), (judged.alarms, "false"), (judged.found, "found"))
        if slots
    ]
    height, width, channels = small.shape
    return {
        "title": f"example {i}: {', '.join(parts) or 'nothing to find'}",
        "height": height,
        "width": width,
        "channels": channels,
        "pixels": base64.b64encode(small.tobytes()).decode(),
        "boxes": boxes,
    }


def _grey_or_colour(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Pixels uint8 `[H, W, 1 or 3]` of an image that was standardized."""
    image = image.reshape(*image.shape[:2], -1)
    if len(mean) == len(std) == image.shape[2]:
        values = image * [s or 1.0 for s in std] + np.asarray(mean)
    else:
        low, high = np.min(image), np.max(image)
        values = (image - low) / (high - low if high > low else 1)
    pixels = np.clip(np.round(np.nan_to_num(values) * 255), 0, 255).astype(np.uint8)
    return pixels if pixels.shape[2] in (1, 3) else pixels[:, :, :1]


def _name(index: int, names: Sequence[str]) -> str:
    return names[index] if index < len(names) else str(index)
