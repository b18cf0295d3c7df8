"""Multi-label classification: any number of labels for each example."""

from __future__ import annotations

from collections.abc import Mapping

from jaxprop.config.schema.config import Config
from jaxprop.losses.sigmoid import sigmoid_cross_entropy
from jaxprop.metrics.accuracy import multilabel_accuracy
from jaxprop.tasks.task import Task, bind
from jaxprop.types import Source


def multilabel(config: Config, sources: Mapping[str, Source]) -> Task:
    """Binds sigmoid cross-entropy and the share of labels told right.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on; `info["classes"]` is the number of labels.

    Returns:
      The task.
    """
    train = sources["train"]
    measured = {"accuracy": multilabel_accuracy}
    return Task(*bind(config, train, sigmoid_cross_entropy, measured))
