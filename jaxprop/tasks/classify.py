"""Classification: one class for each example."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.config.schema.config import Config
from jaxprop.core.precision import wide
from jaxprop.data.splits import labels_of
from jaxprop.tasks.panels import confusion, surest_mistakes
from jaxprop.tasks.task import Task, bind
from jaxprop.train.distillation import Teacher
from jaxprop.types import Batch, Source


def classify(config: Config, sources: Mapping[str, Source], teacher: Teacher | None = None) -> Task:
    """Binds softmax cross-entropy and accuracy.

    Args:
      config: the run's configuration.
      sources: `train`, and `validation` or `test` to evaluate on; `info["classes"]` is the number of classes.
      teacher: that the model learns from, or None.

    Returns:
      The task; its reference is the accuracy of always answering the most frequent training class.
    """
    names = sources["train"].info.get("class_names", ())
    return Task(
        *bind(config, sources["train"], teacher=teacher),
        predict=predict,
        reference=_majority(sources),
        panels=(partial(confusion, names=names), partial(surest_mistakes, names=names)),
    )


def predict(outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Returns the likeliest class of each example, int32 `[B]`, and the probability of it and of all, `[B]`, `[B, C]`.

    Args:
      outputs: logits `[B, C]`.
      batch: not looked at.

    Example:
      >>> {name: x.round().tolist() for name, x in predict(jnp.array([[0.0, 0.0, 50.0]]), {}).items()}
      {'class': [2], 'probability': [1.0], 'probabilities': [[0.0, 0.0, 1.0]]}
    """
    del batch
    shares = jax.nn.softmax(wide(outputs), -1)
    likeliest = jnp.argmax(shares, -1).astype(jnp.int32)
    return {"class": likeliest, "probability": jnp.max(shares, -1), "probabilities": shares}


def _majority(sources: Mapping[str, Source]) -> dict[str, float]:
    evaluated = sources.get("validation") or sources.get("test")
    if evaluated is None or "labels" not in evaluated.take(
        np.zeros(1, np.int64)
    ):  # data of the user's own may have none
        return {}
    counts = np.bincount(labels_of(sources["train"]))
    if not counts.size:  # the training data are gone, and their classes were not counted
        return {}
    return {"majority_accuracy": float(np.mean(labels_of(evaluated) == counts.argmax()))}
