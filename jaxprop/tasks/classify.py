"""Classification: one class for each example."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxprop.config.schema.config import Config
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.metrics.accuracy import accuracy
from jaxprop.tasks.task import Task, bind
from jaxprop.types import Source


def classify(config: Config, sources: Mapping[str, Source]) -> Task:
    """Binds softmax cross-entropy and accuracy.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on; `info["classes"]` is the number of classes.

    Returns:
      The task; its reference is the accuracy of always answering the most frequent training class.
    """
    train = sources["train"]
    bound = bind(config, train, softmax_cross_entropy, {"accuracy": accuracy})
    return Task(*bound, reference=_majority(sources))


def _majority(sources: Mapping[str, Source]) -> dict[str, float]:
    if "test" not in sources:
        return {}
    counts = np.bincount(_labels(sources["train"]))
    return {"majority_accuracy": float(np.mean(_labels(sources["test"]) == counts.argmax()))}


def _labels(source: Source) -> np.ndarray:
    # In slices, since a record's inputs come along and a memory-mapped file may be larger than memory.
    rows = np.arange(source.length)
    return np.concatenate([source.take(part)["labels"] for part in np.array_split(rows, -(-len(rows) // 4096))])
