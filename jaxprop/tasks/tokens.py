"""Padded token sequences with one answer each: their mask is of the inputs, and a loss reads one of answers. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxprop.types import Batch, Loss, Metric


def with_example_mask(batch: Batch) -> Batch:
    """Returns the batch with a mask `[B]` for its mask of tokens `[B, T]`: an example without any token counts not.

    Example:
      >>> with_example_mask({"mask": jnp.array([[1.0, 0.0], [0.0, 0.0]])})["mask"].tolist()
      [True, False]
    """
    return {**batch, "mask": jnp.any(jnp.asarray(batch["mask"]) != 0, axis=1)}


def loss_of_sequences(loss: Loss) -> Loss:
    """Returns a loss for batches whose mask is of tokens.

    Args:
      loss: `(outputs, batch) -> (per_example [B], weight [B])`, which reads a mask of answers.

    Example:
      >>> from jaxprop.losses.softmax import softmax_cross_entropy
      >>> batch = {"labels": jnp.array([0, 1]), "mask": jnp.array([[1.0, 0.0], [0.0, 0.0]])}
      >>> loss_of_sequences(softmax_cross_entropy)(jnp.zeros((2, 2)), batch)[1].tolist()
      [1.0, 0.0]
    """
    return lambda outputs, batch: loss(outputs, with_example_mask(batch))


def divergence_of_sequences(divergence: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a divergence from a teacher for batches whose mask is of tokens.

    Args:
      divergence: `(outputs, batch, *, temperature) -> (per_example [B], weight [B])`, which reads a mask of answers.

    Example:
      >>> from jaxprop.losses.divergence import softmax_divergence
      >>> batch = {"teacher": jnp.zeros((2, 2)), "mask": jnp.array([[1.0, 0.0], [0.0, 0.0]])}
      >>> divergence_of_sequences(softmax_divergence)(jnp.zeros((2, 2)), batch)[1].tolist()
      [1.0, 0.0]
    """
    return lambda outputs, batch, **options: divergence(outputs, with_example_mask(batch), **options)


def metric_of_sequences(metric: Metric) -> Metric:
    """Returns a metric for batches whose mask is of tokens.

    Args:
      metric: one that reads a mask of answers.

    Example:
      >>> from jaxprop.metrics.accuracy import accuracy
      >>> batch = {"labels": jnp.array([0, 1]), "mask": jnp.array([[1.0, 0.0], [0.0, 0.0]])}
      >>> [float(x) for x in metric_of_sequences(accuracy)(jnp.eye(2), batch)]
      [1.0, 1.0]
    """

    def update(outputs: Any, batch: Batch) -> Any:
        return metric.update(outputs, with_example_mask(batch))

    return metric._replace(update=update)
