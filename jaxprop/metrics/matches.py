"""COCO's average precision of images that are counted several times each. Pure.

Which box is found by which depends on its image alone. So the matches are made once, and each choice of images, such as
a resample of a bootstrap, costs only the sums over them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
RECALLS = np.linspace(0, 1, 101)
_BELOW_ONE = 1 - 1e-10  # the largest IoU that is asked for, since boxes that are the same have 1 up to rounding


class Matches(NamedTuple):
    """Boxes of one class in all images, those of the highest score first.

    Args:
      image: of each box that was found, int `[D]`.
      right: whether it matches an object, by threshold, `[T, D]`.
      wrong: whether it does not, `[T, D]`; a box that matches a crowd is neither.
      objects: number of objects in each image, int `[N]`.
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


def average_precisions(true: Any, found: Any) -> Callable[[np.ndarray], dict[str, float]]:
    """Returns `weights [N] -> {"map", "map_50"}` of images that are each counted as often as their weight says.

        AP_t = 1/101 sum_{r in 0, 0.01, ..., 1} max_{r' >= r} precision_t(r'),   map = mean of AP_t over classes and t

    Args:
      true: `boxes` `[N, M, 4]`, `classes`, `object` and `crowd` `[N, M]`.
      found: `boxes` `[N, K, 4]`, `scores` and `classes` `[N, K]`; a score of 0 is no box. Of boxes of one image and
        class whose scores are the same, COCO would take the first of each copy of the image, and then the second.

    Reference:
      https://cocodataset.org/#detection-eval
    """
    kinds = np.unique(true["classes"][true["object"] | true["crowd"]]).tolist()
    matches = [_matches_of(kind, true, found) for kind in kinds]

    def figures(weights: np.ndarray) -> dict[str, float]:
        each = [precision for one in matches if (precision := _precision(one, weights)) is not None]
        if not each:
            return {"map": float("nan"), "map_50": float("nan")}
        return {"map": float(np.mean(each)), "map_50": float(np.mean([precision[0] for precision in each]))}

    return figures


def _matches_of(kind: int, true: Any, found: Any) -> Matches:
    images, right, wrong, scores = [], [], [], []
    real = (found["scores"] > 0) & (found["classes"] == kind)
    for image in range(len(real)):
        slots = np.flatnonzero(real[image])
        slots = slots[np.argsort(-found["scores"][image, slots], kind="stable")]
        here = true["classes"][image] == kind
        # COCO's order: what is no crowd first
        objects = np.concatenate([np.flatnonzero(here & true["object"][image] & ~true["crowd"][image]),
                                  np.flatnonzero(here & true["crowd"][image])])  # fmt: skip
        crowd = true["crowd"][image, objects]
        hit, ignored = match(found["boxes"][image, slots], true["boxes"][image, objects], crowd)
        images.append(np.full(len(slots), image))
        scores.append(found["scores"][image, slots])
        right.append(hit & ~ignored)
        wrong.append(~hit)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    alone = (true["classes"] == kind) & true["object"] & ~true["crowd"]
    return Matches(
        np.concatenate(images)[order], np.concatenate(right, 1)[:, order], np.concatenate(wrong, 1)[:, order],
        alone.sum(1),
    )  # fmt: skip


def match(found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which boxes match an object or a crowd at each threshold, and which of these a crowd, `[T, D]` each.

    In the order of its score, each box takes the object that it overlaps most, of those that are left, if their IoU
    reaches the threshold; or else a crowd, which any number of boxes may match, by the share of the box inside it.

    Args:
      found: x0, y0, x1, y1 `[D, 4]`, the highest score first.
      true: `[G, 4]`, objects before crowds.
      crowd: `[G]`.

    Example:
      >>> box = np.array([[0.0, 0.0, 4.0, 4.0]])
      >>> match(np.repeat(box, 2, 0), box, np.array([False]))[0].sum(0).tolist()
      [10, 0]
    """
    shape = len(THRESHOLDS), len(found)
    hit, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    if not true.size or not found.size:
        return hit, ignored
    shares, free = overlaps(found, true, crowd), np.ones((shape[0], len(true)), bool)
    rows = np.arange(shape[0])
    for d in np.flatnonzero(shares.max(1) >= THRESHOLDS[0]).tolist():
        reaches = free & (shares[d] >= np.minimum(THRESHOLDS, _BELOW_ONE)[:, None])
        objects = reaches & ~crowd
        choice = np.where(objects.any(1)[:, None], objects, reaches & crowd)
        # of equal overlaps, COCO takes the last
        best = choice.shape[1] - 1 - np.argmax(np.where(choice, shares[d], -1.0)[:, ::-1], 1)
        hit[:, d] = choice.any(1)
        ignored[:, d] = hit[:, d] & crowd[best]
        free[rows, best] &= ~hit[:, d] | crowd[best]
    return hit, ignored


def overlaps(found: np.ndarray, true: np.ndarray, crowd: np.ndarray | bool = False) -> np.ndarray:
    """Returns the IoU of boxes with objects `[D, G]`; with a crowd, the share of the box that is inside it.

    Args:
      found, true: `[D, 4]` and `[G, 4]`.
      crowd: which of the objects are crowds, `[G]`.

    Example:
      >>> boxes = np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 5.0, 2.0]])
      >>> overlaps(*boxes).round(2).tolist(), overlaps(*boxes, np.array([True])).tolist()
      ([[0.2]], [[0.5]])
    """
    found, true = found.astype(np.float64), true.astype(np.float64)
    low, high = np.maximum(found[:, None, :2], true[None, :, :2]), np.minimum(found[:, None, 2:], true[None, :, 2:])
    inside = np.prod(np.maximum(high - low, 0), -1)
    mine, other = (np.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (found, true))
    whole = np.where(crowd, mine[:, None], mine[:, None] + other - inside)
    return np.divide(inside, whole, out=np.zeros_like(inside), where=whole > 0)


def _precision(of: Matches, weights: np.ndarray) -> np.ndarray | None:
    """The average precision at each threshold, `[T]`; None where no object counts."""
    objects = weights @ of.objects
    if not objects:
        return None
    times = weights[of.image]
    kept = times > 0
    right, wrong = (np.cumsum(x[:, kept] * times[kept], 1) for x in (of.right, of.wrong))
    precision = right / np.maximum(right + wrong, np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    precision = np.concatenate([precision, np.zeros((len(precision), 1))], 1)
    recall = right / objects
    at = np.stack([np.searchsorted(row, RECALLS, side="left") for row in recall])
    return np.take_along_axis(precision, at, 1).mean(1)
