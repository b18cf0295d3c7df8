"""What a task is: data, model, loss and metrics bound together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from jaxprop import models
from jaxprop.config.schema.config import Config
from jaxprop.losses import make_loss
from jaxprop.train.objective import loss_from
from jaxprop.types import Loss, Metric, Model, Objective, Source, Spec

SIZES = ("classes", "targets", "vocabulary")  # what a source may say in `info` and a model may need


def nothing_derived(_: Mapping[str, float]) -> dict[str, float]:
    """What a task reports besides its metrics if there is nothing more to say."""
    return {}


class Task(NamedTuple):
    """A problem ready to be trained on.

    Args:
      model: the network.
      objective: its loss and metrics, as the train step and the eval step want them.
      spec: what the data look like to the model.
      derived: metrics of an evaluation -> further figures that follow from them.
      reference: figures of a trivial predictor on the same split, printed beside the result.
    """

    model: Model
    objective: Objective
    spec: Spec
    derived: Callable[[Mapping[str, float]], dict[str, float]] = nothing_derived
    reference: Mapping[str, float] = {}


def bind(config: Config, train: Source, loss: Loss, metrics: Mapping[str, Metric]) -> tuple[Model, Objective, Spec]:
    """Builds the model for the data's shapes and binds it to a loss and metrics.

    Args:
      config: the run's configuration; its `task.loss` goes before `loss`.
      train: the training split; one record of it is read, and the sizes its `info` names.
      loss: the task's usual loss.
      metrics: what is measured, by name.

    Returns:
      The model, the objective, and the spec the model was built for.
    """
    example = train.take(np.zeros(1, np.int64))
    spec = Spec(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), example), _sizes(train))
    model = models.make_model(config.model, spec)
    chosen = loss if config.task.loss is None else make_loss(config.task.loss)
    return model, loss_from(model, chosen, metrics), spec


def _sizes(train: Source) -> dict[str, int]:
    return {name: train.info[name] for name in SIZES if name in train.info}
