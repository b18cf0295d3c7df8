"""Regression: one or more numbers for each example."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from jaxprop.config.schema.config import Config
from jaxprop.core.precision import wide
from jaxprop.tasks.panels import largest_errors, predicted_and_true
from jaxprop.tasks.task import Task, bind
from jaxprop.types import Batch, Source


def regress(config: Config, sources: Mapping[str, Source]) -> Task:
    """Binds the squared error and the mean absolute error.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on; `info["targets"]` is the number of targets.

    Returns:
      The task.
    """
    return Task(*bind(config, sources["train"]), predict=predict, panels=(predicted_and_true, largest_errors))


def predict(outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Returns the predicted value of each target in the labels' units, float32 `[B, K]`.

    Args:
      outputs: predictions `[B, K]`.
      batch: not looked at.

    Example:
      >>> import jax.numpy as jnp
      >>> predict(jnp.array([[2.0]]), {})["value"].tolist()
      [[2.0]]
    """
    del batch
    return {"value": wide(outputs)}
