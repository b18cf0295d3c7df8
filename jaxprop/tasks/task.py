"""What a task is: data, model, loss, metrics and predictions bound together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop import models
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.task import usual_loss
from jaxprop.config.tasks import TASK_TABLE
from jaxprop.core.precision import Policy, cast_floating, cast_keys
from jaxprop.data.augment import make_augmentation
from jaxprop.losses import make_loss
from jaxprop.metrics import METRICS
from jaxprop.models.arguments import masks_tokens
from jaxprop.tasks.panels import Panel
from jaxprop.tasks.tokens import loss_of_sequences, metric_of_sequences
from jaxprop.train.objective import loss_from, without_padding
from jaxprop.types import Batch, Metric, Model, Objective, PyTree, Source, Spec

SIZES = ("classes", "targets", "vocabulary", "categories")  # what a source may say in `info` and a model may need
COMPUTED = ("inputs",)  # what of a batch is computed with, and so cast; answers, masks and weights are not


def nothing_derived(_: Mapping[str, float]) -> dict[str, float]:
    """What a task reports besides its metrics if there is nothing more to say."""
    return {}


def no_predictions(_outputs: Any, _batch: Batch) -> dict[str, jax.Array]:
    """What is predicted where nobody has said what outputs mean."""
    return {}


class Task(NamedTuple):
    """A problem ready to be trained on.

    Args:
      model: the network; None where the objective is a plain function.
      objective: its loss and metrics, as the train step and the eval step want them.
      spec: what the data look like to the model.
      predict: `(outputs, batch) -> {name: [B, ...]}`, arrays that a person can be shown. Pure.
      derived: metrics of an evaluation -> further figures that follow from them.
      reference: figures of a trivial predictor on the same split, printed beside the result.
      panels: what the report shows of its predictions, each `(predictions, batch) -> Drawable`.
    """

    model: Model | None
    objective: Objective
    spec: Spec
    predict: Callable[[Any, Batch], dict[str, jax.Array]]
    derived: Callable[[Mapping[str, float]], dict[str, float]] = nothing_derived
    reference: Mapping[str, float] = {}
    panels: tuple[Panel, ...] = ()


def predictions(task: Task, policy: Policy) -> Callable[[PyTree, PyTree, Batch], dict[str, jax.Array]]:
    """Returns `(params, extras, batch) -> predictions` of a task, in evaluation and with the policy's casts. Pure.

    Args:
      task: the task.
      policy: of the precision that it is trained in.
    """

    def predict(params: PyTree, extras: PyTree, batch: Batch) -> dict[str, jax.Array]:
        params, narrow = (
            cast_floating(params, policy.compute),
            cast_keys(without_padding(batch), policy.compute, COMPUTED),
        )
        assert task.model is not None
        outputs, _ = task.model.apply(params, extras, narrow, key=None, train=False)
        return task.predict(cast_floating(outputs, policy.output), batch)

    return predict


def bind(config: Config, train: Source, more: Mapping[str, Metric] | None = None) -> tuple[Model, Objective, Spec]:
    """Builds the model for the data's shapes and binds it to augmentation and to the task's loss and metrics.

    Args:
      config: the run's configuration; its `task.loss` goes before the task's usual one.
      train: the training split; one record of it is read, and the sizes its `info` names.
      more: metrics beside those of the table, which the data make possible.

    Returns:
      The model, the objective, and the spec the model was built for.
    """
    example = train.take(np.zeros(1, np.int64))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), example)
    spec = Spec(shapes, {name: train.info[name] for name in SIZES if name in train.info})
    model = models.make_model(config.model, spec, config.run.remat)
    loss = make_loss(config.task.loss or usual_loss(config.task.name))
    figures = TASK_TABLE[config.task.name].figures
    metrics = {name: METRICS[figure.metric] for name, figure in figures.items() if figure.metric is not None}
    metrics |= more or {}
    if masks_tokens(spec):
        loss, metrics = loss_of_sequences(loss), {name: metric_of_sequences(metrics[name]) for name in metrics}
    augment = make_augmentation(config.data.augment, spec)
    return model, loss_from(model, loss, metrics, cast=COMPUTED, augment=augment), spec
