"""Multi-label classification: any number of labels for each example."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from jaxprop.config.schema.config import Config
from jaxprop.core.precision import wide
from jaxprop.tasks.panels import labels_told
from jaxprop.tasks.task import Task, bind
from jaxprop.train.distillation import Teacher
from jaxprop.types import Batch, Source


def multilabel(config: Config, sources: Mapping[str, Source], teacher: Teacher | None = None) -> Task:
    """Binds sigmoid cross-entropy and the share of labels told right.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on; `info["classes"]` is the number of labels.
      teacher: that the model learns from, or None.

    Returns:
      The task.
    """
    return Task(*bind(config, sources["train"], teacher=teacher), predict=predict, panels=(labels_told,))


def predict(outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Returns the probability of each label, float32 `[B, K]`.

    Args:
      outputs: logits `[B, K]`.
      batch: not looked at.

    Example:
      >>> import jax.numpy as jnp
      >>> predict(jnp.array([[0.0, 50.0]]), {})["probability"].tolist()
      [[0.5, 1.0]]
    """
    del batch
    return {"probability": jax.nn.sigmoid(wide(outputs))}
