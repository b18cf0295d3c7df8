"""How far a model's outputs are from those of a teacher. Pure."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprop.core.examples import counted, per_example
from jaxprop.core.precision import wide
from jaxprop.errors import ShapeError
from jaxprop.losses.per_example import PerExample
from jaxprop.types import Batch

TEACHER = "teacher"  # key of a batch that holds the outputs of a teacher


def softmax_divergence(outputs: jax.Array, batch: Batch, *, temperature: float = 1.0) -> PerExample:
    """Kullback-Leibler divergence of softmax distributions, for classes or tokens.

    l = T^2 sum_c p_c (log p_c - log q_c), p = softmax(t / T), q = softmax(o / T), t the teacher's logits. The factor
    keeps gradients as large at every temperature T. With tokens, the mean by their mask, as of `softmax_cross_entropy`.

    Args:
      outputs: logits o `[B, C]` or `[B, T, V]`.
      batch: `teacher`, logits of the same shape; if present, `mask` `[B]` or `[B, T]` and `weight` `[B]`. What they
        give the weight 0 may hold anything, NaN too.
      temperature: T; both distributions are flatter the higher it is.

    Returns:
      Divergence in nats, times T^2, `[B]`; weight `[B]`.

    Raises:
      ShapeError: the teacher's logits have another shape.

    Example:
      >>> batch = {"teacher": jnp.log(jnp.array([[0.75, 0.25]]))}
      >>> softmax_divergence(jnp.zeros((1, 2)), batch)[0].round(4).tolist()
      [0.13079999387264252]

    Reference:
      Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015. https://arxiv.org/abs/1503.02531
    """
    outputs, told = _alike(outputs, batch, classes=True)
    log_q, log_p = (jax.nn.log_softmax(logits / temperature, -1) for logits in (outputs, told))
    p = jnp.exp(log_p)
    values = jnp.sum(jnp.where(p > 0, p * (jnp.where(p > 0, log_p, 0) - log_q), 0), -1)
    return per_example(temperature**2 * values, batch, tokens=values.ndim > 1)


def sigmoid_divergence(outputs: jax.Array, batch: Batch, *, temperature: float = 1.0) -> PerExample:
    """Kullback-Leibler divergence of independent binary distributions, averaged over the K labels.

    l = T^2 mean_k(p_k (log p_k - log q_k) + (1 - p_k) (log(1 - p_k) - log(1 - q_k))), p = sigmoid(t / T),
    q = sigmoid(o / T), t the teacher's logits.

    Args:
      outputs: logits o `[B, K]`.
      batch: `teacher`, logits of the same shape; if present, `mask` `[B, K]` or `[B]` and `weight` `[B]`. What they
        give the weight 0 may hold anything, NaN too.
      temperature: T.

    Returns:
      Divergence in nats, times T^2, `[B]`; weight `[B]`.

    Raises:
      ShapeError: the teacher's logits have another shape.

    Example:
      >>> sigmoid_divergence(jnp.zeros((1, 2)), {"teacher": jnp.zeros((1, 2))})[0].tolist()
      [0.0]
    """
    outputs, told = (x / temperature for x in _alike(outputs, batch))
    p = jax.nn.sigmoid(told)
    yes = jax.nn.log_sigmoid(told) - jax.nn.log_sigmoid(outputs)
    no = jax.nn.log_sigmoid(-told) - jax.nn.log_sigmoid(-outputs)
    return per_example(temperature**2 * (p * yes + (1 - p) * no), batch, tokens=False)


def squared_divergence(outputs: jax.Array, batch: Batch, *, temperature: float = 1.0) -> PerExample:
    """Half the squared difference from a teacher's predictions, averaged over the K targets.

    l = mean_k((o_k - t_k)^2) / 2, t the teacher's predictions.

    Args:
      outputs: predictions o `[B, K]`, or `[B]`.
      batch: `teacher`, predictions of the same shape; if present, `mask` and `weight` `[B]`. What they give the weight
        0 may hold anything, NaN too.
      temperature: not looked at: numbers are no distribution.

    Returns:
      Loss in squared units of the labels `[B]`, weight `[B]`.

    Raises:
      ShapeError: the teacher's predictions have another shape.

    Example:
      >>> squared_divergence(jnp.array([[3.0]]), {"teacher": jnp.array([[1.0]])})[0].tolist()
      [2.0]
    """
    del temperature
    outputs, told = _alike(outputs, batch)
    return per_example(jnp.square(outputs - told) / 2, batch, tokens=False)


DIVERGENCES: dict[str, Callable[..., PerExample]] = {
    "softmax": softmax_divergence,
    "sigmoid": sigmoid_divergence,
    "squared": squared_divergence,
}


def _alike(outputs: jax.Array, batch: Batch, *, classes: bool = False) -> tuple[jax.Array, jax.Array]:
    """Both outputs in float32 or wider, and 0 where an entry counts for nothing."""
    outputs, told = wide(jnp.asarray(outputs)), jnp.asarray(batch[TEACHER])
    if outputs.shape != told.shape:
        raise ShapeError(
            f"expected a teacher whose outputs are of the shape {list(outputs.shape)}, as the model's are, got "
            f"{list(told.shape)}; use a teacher that was trained for the same answers"
        )
    told = told.astype(outputs.dtype)
    counts = counted(batch, outputs.shape[:-1] if classes else outputs.shape)
    if counts is None:
        return outputs, told
    counts = counts[..., None] if classes else counts
    return jnp.where(counts, outputs, 0), jnp.where(counts, told, 0)
