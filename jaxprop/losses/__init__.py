"""Losses by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jaxprop.config.schema import task as schema
from jaxprop.losses.ctc import ctc
from jaxprop.losses.detection import focal_iou
from jaxprop.losses.divergence import DIVERGENCES, sigmoid_divergence, softmax_divergence, squared_divergence
from jaxprop.losses.huber import huber
from jaxprop.losses.own import own_loss
from jaxprop.losses.per_example import PerExample
from jaxprop.losses.sigmoid import sigmoid_cross_entropy
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.losses.squared import squared_error
from jaxprop.types import Loss

__all__ = [
    "DIVERGENCES", "LOSSES", "ctc", "focal_iou", "huber", "make_loss", "own_loss", "sigmoid_cross_entropy",
    "sigmoid_divergence", "softmax_cross_entropy", "softmax_divergence", "squared_divergence", "squared_error",
]  # fmt: skip

LOSSES: dict[str, Callable[..., PerExample]] = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "squared_error": squared_error,
    "huber": huber,
    "focal_iou": focal_iou,
    "ctc": ctc,
}


def make_loss(section: schema.LossSection) -> Loss:
    """Builds the loss a configuration names.

    Args:
      section: the section `task.loss`.

    Returns:
      A `Loss`.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = make_loss(schema.Huber(name="huber", delta=2.0))
      >>> loss(jnp.array([[3.0]]), {"labels": jnp.array([1.0])})[0].tolist()
      [2.0]
    """
    return partial(LOSSES[section.name], **{name: value for name, value in section if name != "name"})
