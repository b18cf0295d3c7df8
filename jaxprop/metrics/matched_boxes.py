"""Average precision of the same images, each counted some times: boxes are matched once, as COCO matches them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


class Kind(NamedTuple):
    """The boxes of one class in all images.

    Args:
      image: of each box that was found, those of the highest score first, int `[D]`.
      right: whether it is matched to an object, at each IoU, boolean `[10, D]`.
      ignored: whether it lies in a crowd, and is neither right nor wrong, boolean `[10, D]`.
      objects: number of objects in each image, int `[N]`.
    """

    image: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


def match(rows: Mapping[str, Any]) -> list[Kind]:
    """Matches the boxes of each image to its objects, once for all choices of images.

    Args:
      rows: `found` and `true`, arrays with one entry an image, as `jaxprop.metrics.average_precision` keeps them.

    Returns:
      The classes that have an object.

    Reference:
      https://github.com/cocodataset/cocoapi, `COCOeval.evaluateImg`
    """
    true, found = ({name: np.asarray(x) for name, x in rows[part].items()} for part in ("true", "found"))
    number = len(true["object"])
    most = max(100, found["scores"].shape[1])
    kinds = []
    for kind in np.unique(true["classes"][true["object"]]).tolist():
        images, scores, right, ignored = [], [], [], []
        for image in range(number):
            told = np.flatnonzero((found["scores"][image] > 0) & (found["classes"][image] == kind))
            told = told[np.argsort(-found["scores"][image, told], kind="stable")][:most]
            held = (true["object"][image] | true["crowd"][image]) & (true["classes"][image] == kind)
            slots = np.flatnonzero(held)
            slots = slots[np.argsort(true["crowd"][image, slots], kind="stable")]  # crowds last
            crowd = true["crowd"][image, slots]
            overlaps = _overlaps(found["boxes"][image, told], true["boxes"][image, slots], crowd)
            one, other = _matched(overlaps, crowd)
            images.append(np.full(len(told), image))
            scores.append(found["scores"][image, told])
            right.append(one)
            ignored.append(other)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        objects = (true["object"] & ~true["crowd"] & (true["classes"] == kind)).sum(1)
        kinds.append(
            Kind(
                np.concatenate(images)[order],
                np.concatenate(right, 1)[:, order],
                np.concatenate(ignored, 1)[:, order],
                objects,
            )
        )
    return kinds


def _overlaps(found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of each pair, float64 `[D, G]`; with a crowd, the part of the box that lies in it."""
    one, other = found.astype(np.float64)[:, None], true.astype(np.float64)[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.prod(np.maximum(sides, 0), -1)
    areas = [np.prod(box[..., 2:] - box[..., :2], -1) for box in (one, other)]
    whole = np.where(crowd[None], areas[0], areas[0] + areas[1] - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _matched(overlaps: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes are matched to an object and which to a crowd, boolean `[10, D]`; the surest takes the best one."""
    right, ignored = (np.zeros((len(IOUS), len(overlaps)), bool) for _ in range(2))
    for t, least in enumerate(IOUS):
        taken = np.zeros(len(crowd), bool)
        for box, row in enumerate(overlaps):
            best, at = min(float(least), 1 - 1e-10), -1
            for slot in range(len(crowd)):
                if taken[slot] and not crowd[slot]:
                    continue
                if at >= 0 and not crowd[at] and crowd[slot]:
                    break
                if row[slot] >= best:
                    best, at = float(row[slot]), slot
            if at >= 0:
                taken[at] = True
                (ignored if crowd[at] else right)[t, box] = True
    return right, ignored


def precision(kinds: list[Kind], weights: np.ndarray) -> dict[str, float]:
    """Returns `map` and `map_50` of images that are each counted some times.

    Args:
      kinds: from `match`.
      weights: how often each image counts, integers `[N]`.

    Returns:
      The figures; NaN where no image that counts has an object.
    """
    every = [_of_kind(kind, weights) for kind in kinds if weights @ kind.objects]
    if not every:
        return {"map": float("nan"), "map_50": float("nan")}
    means = np.mean(every, 0)  # [10]
    return {"map": float(means.mean()), "map_50": float(means[0])}


def _of_kind(kind: Kind, weights: np.ndarray) -> np.ndarray:
    """The area under precision by recall at each IoU, `[10]`."""
    counts = weights[kind.image]
    right = np.cumsum(kind.right * counts, 1)
    wrong = np.cumsum(~(kind.right | kind.ignored) * counts, 1)
    shares = right / (right + wrong + np.spacing(1))
    best = np.maximum.accumulate(shares[:, ::-1], 1)[:, ::-1]
    recalls = right / (weights @ kind.objects)
    areas = np.empty(len(IOUS))
    for t in range(len(IOUS)):
        at = np.searchsorted(recalls[t], RECALLS, side="left")
        inside = at < best.shape[1]
        areas[t] = best[t, at[inside]].sum() / len(RECALLS)
    return areas
