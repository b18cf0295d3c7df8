"""Which labels a model's answers contradict, where it has not been trained on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.core.detections import USUAL
from jaxprop.metrics.matches import overlaps
from jaxprop.run.predictor import Predictor
from jaxprop.tasks.pictures import OVERLAP, told
from jaxprop.tasks.words import class_name, number
from jaxprop.types import Batch, Source

QUANTILE = 0.99  # of the champion's losses on its own test examples
CONFIDENT = "confident learning (Northcutt et al. 2021)"
BEYOND = f"losses beyond the {QUANTILE:.0%} quantile of the champion's own test examples"
SURE = 0.5  # lowest score of a box that contradicts a label
CONTRADICTED = f"a box of another class that the champion finds there, with a score of at least {SURE:g}"


class Doubts(NamedTuple):
    """Which labels look wrong.

    Args:
      method: how that was found.
      which: boolean `[n]`.
      evidence: of each example what speaks against its label; None where the method tells of none.
    """

    method: str
    which: np.ndarray
    evidence: Sequence[Sequence[Mapping[str, Any]]] | None = None


def doubts_of(
    task: str, predictor: Predictor, source: Source, indices: np.ndarray, names: Sequence[str]
) -> Doubts | None:
    """Returns which labels of examples a model's answers contradict.

    Args:
      task: the task's name.
      predictor: of the model.
      source: the examples.
      indices: of those that are looked at, `[n]`.
      names: of the classes.

    Returns:
      The doubts, `[n]`; None where an answer of the task cannot be set against a label.
    """
    size = predictor.batch_size
    batches = (source.take(indices[start : start + size]) for start in range(0, len(indices), size))
    if task == "classify":
        found = [(predictor(batch)["probabilities"], np.asarray(batch["labels"])) for batch in batches]
        probabilities, labels = (np.concatenate(column) for column in zip(*found, strict=True))
        return Doubts(CONFIDENT, confident(probabilities, labels))
    if task == "detect":
        evidence = [one for batch in batches for one in _of_images(predictor, batch, names)]
        return Doubts(CONTRADICTED, np.array([bool(one) for one in evidence]), evidence)
    return None


def _of_images(predictor: Predictor, batch: Batch, names: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    answers = predictor({"inputs": batch["inputs"]})
    yield from (contradicted(answers, batch, i, names) for i in range(len(batch["boxes"])))


def confident(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns which labels confident learning takes for wrong, boolean `[n]`.

    The threshold of a class is the mean probability that the model gives it over the examples with that label,

        t_j = mean_{i: y_i = j} p_ij

    and a label is taken for wrong where another class reaches its threshold, and has the largest probability of those
    that do. The model must not have been trained on these examples.

    Args:
      probabilities: p, of each class, `[n, C]`.
      labels: y, int `[n]`.

    Example:
      >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.9, 0.1]])
      >>> confident(p, np.array([0, 0, 1, 1])).tolist()
      [False, False, False, True]

    Reference:
      Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021.
    """
    classes = probabilities.shape[1]
    thresholds = np.full(classes, np.inf)  # a class without an example has none to reach
    for kind in np.unique(labels).tolist():
        thresholds[kind] = probabilities[labels == kind, kind].mean()
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    return (reached.max(1) >= 0) & (reached.argmax(1) != labels)


def beyond(losses: np.ndarray, own: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the share of losses that are larger than a model's usual ones, and which these are.

    With q the quantile of the usual losses and f the fraction of new ones beyond it, f - (1 - q) of q more than usual
    are beyond, and the estimate is that share: (f - (1 - q)) / q. It counts hard examples, too.

    Args:
      losses: of new examples, `[n]`.
      own: of examples like those that the model was trained on.

    Example:
      >>> share, which = beyond(np.array([0.1, 9.0]), np.linspace(0, 1, 100))
      >>> round(share, 2), which.tolist()
      (0.49, [False, True])
    """
    which = losses > np.quantile(own, QUANTILE)
    return max(0.0, (float(which.mean()) - (1 - QUANTILE)) / QUANTILE), which


def contradicted(
    answers: Mapping[str, np.ndarray], batch: Batch, i: int, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Returns the labelled boxes of an image at which a model finds an object of another class, and none of theirs.

    A box that the model does not find, and an object that has no box, are not told: it misses some itself.

    Args:
      answers: of the task `detect`.
      batch: `boxes`, `labels` and `mask`.
      i: the image.
      names: of the classes; without any they are told by number.

    Example:
      >>> answers = {"boxes": np.array([[[0, 0, 4, 4]]]), "scores": np.array([[0.9]]), "classes": np.array([[1]])}
      >>> batch = {"boxes": np.array([[[0, 0, 4, 5]]]), "labels": np.array([[0]]), "mask": np.array([[1]])}
      >>> contradicted(answers, batch, 0, ["cat", "dog"])
      [{'box': [0.0, 0.0, 4.0, 5.0], 'given': 'cat', 'champion': 'dog', 'score': 0.9}]
    """
    slots = told(answers, i, SURE, USUAL.iou)
    found, kinds = np.asarray(answers["boxes"][i])[slots], np.asarray(answers["classes"][i])[slots]
    wrong = []
    for place in np.flatnonzero(np.asarray(batch["mask"][i])).tolist():
        box, given = np.asarray(batch["boxes"][i][place]), int(batch["labels"][i][place])
        covered = overlaps(box[None], found)[0]
        near = np.flatnonzero(covered >= OVERLAP)
        if near.size and not np.any(kinds[near] == given):
            best = int(near[np.argmax(covered[near])])
            wrong.append({
                "box": [round(float(edge), 2) for edge in box],
                "given": class_name(names, given),
                "champion": class_name(names, int(kinds[best])),
                "score": number(answers["scores"][i][slots[best]]),
            })  # fmt: skip
    return wrong
