"""Multi-label classification: any number of labels for each example."""

from __future__ import annotations

from collections.abc import Mapping

from jaxprop import losses, metrics
from jaxprop.config.root import Config
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
    measured = {"accuracy": metrics.multilabel_accuracy}
    return Task(*bind(config, train, train.info["classes"], losses.sigmoid_cross_entropy, measured))
