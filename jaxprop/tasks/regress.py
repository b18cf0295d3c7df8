"""Regression: one or more numbers for each example."""

from __future__ import annotations

from collections.abc import Mapping

from jaxprop.config.schema.config import Config
from jaxprop.losses.squared import squared_error
from jaxprop.metrics.absolute_error import mean_absolute_error
from jaxprop.tasks.task import Task, bind
from jaxprop.types import Source


def regress(config: Config, sources: Mapping[str, Source]) -> Task:
    """Binds the squared error and the mean absolute error.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on; `info["targets"]` is the number of targets.

    Returns:
      The task.
    """
    train = sources["train"]
    measured = {"mean_absolute_error": mean_absolute_error}
    return Task(*bind(config, train, squared_error, measured))
