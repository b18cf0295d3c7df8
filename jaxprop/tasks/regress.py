"""Regression: one or more numbers for each example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from jaxprop.config.schema.config import Config
from jaxprop.core.precision import wide
from jaxprop.metrics.absolute_error import absolute_error_of
from jaxprop.tasks.panels import Drawable, Panel, Predictions, largest_errors, predicted_and_true
from jaxprop.tasks.task import Task, bind
from jaxprop.train.distillation import Teacher
from jaxprop.types import Batch, Source

Scale = Sequence[Sequence[float]]  # mean and standard deviation of each target, K pairs


def regress(config: Config, sources: Mapping[str, Source], teacher: Teacher | None = None) -> Task:
    """Binds the squared error and the mean absolute error.

    Where the source's labels are standardized, `info["target_scale"]` is the mean and the standard deviation of each
    target. The loss is that of the labels as they are; predictions, the mean absolute error and what the report shows
    are in the targets' own units.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on; `info["targets"]` is the number of targets.
      teacher: that the model learns from, or None.

    Returns:
      The task.
    """
    train, panels = sources["train"], (predicted_and_true, largest_errors)
    scale = train.info.get("target_scale")
    if scale is None:
        return Task(*bind(config, train, teacher=teacher), predict=predict, panels=panels)
    stds = [std for _, std in scale]
    return Task(
        *bind(config, train, {"mean_absolute_error": absolute_error_of(stds)}, teacher),
        predict=in_units(scale),
        panels=tuple(_in_units(panel, scale) for panel in panels),
    )


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


def in_units(scale: Scale) -> Callable[[jax.Array, Batch], dict[str, jax.Array]]:
    """Returns `predict` for standardized labels, whose values are in the targets' own units: std o + mean.

    Args:
      scale: mean and standard deviation of each of the K targets.

    Example:
      >>> import jax.numpy as jnp
      >>> in_units([[10.0, 4.0]])(jnp.array([[0.5]]), {})["value"].tolist()
      [[12.0]]
    """
    mean, std = (np.array(part, np.float32) for part in zip(*scale, strict=True))

    def predict_in_units(outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        values = predict(outputs, batch)["value"]
        return {"value": values * std.astype(values.dtype) + mean.astype(values.dtype)}

    return predict_in_units


def _in_units(panel: Panel, scale: Scale) -> Panel:
    """A panel that is given labels in the targets' own units, as the predictions are."""
    mean, std = (np.array(part) for part in zip(*scale, strict=True))

    def panel_in_units(predictions: Predictions, batch: Batch) -> Drawable:
        return panel(predictions, {**batch, "labels": np.asarray(batch["labels"], np.float64) * std + mean})

    return panel_in_units
