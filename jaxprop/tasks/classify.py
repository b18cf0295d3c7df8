"""Classification: one class for each example."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.config.schema.config import Config
from jaxprop.core.precision import wide
from jaxprop.tasks.panels import confusion, surest_mistakes
from jaxprop.tasks.task import Task, bind
from jaxprop.types import Batch, Source


def classify(config: Config, sources: Mapping[str, Source]) -> Task:
    """Binds softmax cross-entropy and accuracy.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on; `info["classes"]` is the number of classes.

    Returns:
      The task; its reference is the accuracy of always answering the most frequent training class.
    """
    return Task(
        *bind(config, sources["train"]),
        predict=predict,
        reference=_majority(sources),
        panels=(confusion, surest_mistakes),
    )


def predict(outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Returns the likeliest class of each example, int32 `[B]`, and its probability, float32 `[B]`.

    Args:
      outputs: logits `[B, C]`.
      batch: not looked at.

    Example:
      >>> {name: x.tolist() for name, x in predict(jnp.array([[0.0, 0.0, 50.0]]), {}).items()}
      {'class': [2], 'probability': [1.0]}
    """
    del batch
    shares = jax.nn.softmax(wide(outputs), -1)
    return {"class": jnp.argmax(shares, -1).astype(jnp.int32), "probability": jnp.max(shares, -1)}


def _majority(sources: Mapping[str, Source]) -> dict[str, float]:
    if "test" not in sources:
        return {}
    counts = np.bincount(_labels(sources["train"]))
    return {"majority_accuracy": float(np.mean(_labels(sources["test"]) == counts.argmax()))}


def _labels(source: Source) -> np.ndarray:
    # In slices, since a record's inputs come along and a memory-mapped file may be larger than memory.
    rows = np.arange(source.length)
    return np.concatenate([source.take(part)["labels"] for part in np.array_split(rows, -(-len(rows) // 4096))])
