"""Distillation: a model learns from the outputs of a trained one, beside its labels. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprop.core import taps
from jaxprop.core.handed import handed
from jaxprop.core.overrides import computing
from jaxprop.core.precision import Policy, cast_floating, cast_keys
from jaxprop.errors import UsageError
from jaxprop.losses.divergence import TEACHER, softmax_divergence
from jaxprop.types import Batch, Loss, Metric, Model, PyTree


class Teacher(NamedTuple):
    """A trained model that another one learns from, `loss_from(model, loss, teacher=Teacher(...))`.

    l = (1 - a) l_labels + a T^2 KL(softmax(t / T) || softmax(o / T)), a the weight, T the temperature, and t and o the
    logits of teacher and model. The teacher sees each batch as the model does, augmented and in the dtypes of the
    step's precision, and in evaluation mode. It is no part of the state: it has no gradient, no optimizer state and no
    row among the layers, and is not saved. The step hands its arrays to the compiled program as arguments.

    Args:
      model: the teacher's `Model`.
      params, extras: its parameters, and what it carries besides, such as batch statistics; None for nothing.
      temperature: T, above 0.
      weight: a, above 0 and at most 1; with 1 the labels are not learned from.
      divergence: `(outputs, batch, *, temperature) -> (per_example [B], weight [B])`, where `batch["teacher"]` holds
        the teacher's outputs; `jaxprop.losses.sigmoid_divergence` for labels that do not exclude each other,
        `squared_divergence` for numbers.

    Example:
      >>> import jaxprop, optax
      >>> model = jaxprop.from_functions(
      ...     lambda key, batch: ({"w": jnp.zeros((2, 3))}, {}),
      ...     lambda params, extras, batch, *, key, train: (batch["inputs"] @ params["w"], extras),
      ... )
      >>> teacher = jaxprop.Teacher(model, {"w": jnp.eye(2, 3)}, temperature=2.0, weight=0.5)
      >>> objective = jaxprop.loss_from(model, jaxprop.losses.softmax_cross_entropy, teacher=teacher)
      >>> step = jaxprop.make_train_step(objective, optax.sgd(0.1))
      >>> batch = {"inputs": jnp.eye(2), "labels": jnp.array([0, 1])}
      >>> params, extras = model.init(jax.random.key(0), batch)
      >>> state, m = step(step.init(params, key=jax.random.key(0), extras=extras), batch)
      >>> {name: round(float(total / count), 4) for name, (total, count) in m.metrics.items()}
      {'divergence': 0.1207, 'task_loss': 1.0986}
      >>> round(float(m.loss), 4)
      0.6096

    Reference:
      Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015. https://arxiv.org/abs/1503.02531
    """

    model: Model
    params: PyTree
    extras: PyTree = None
    temperature: float = 2.0
    weight: float = 0.5
    divergence: Callable[..., Any] = softmax_divergence

    @property
    def arrays(self) -> PyTree:
        """What the step hands to its program as arguments."""
        return self.params, {} if self.extras is None else self.extras


def check_teacher(teacher: Teacher | None, vocabulary_chunks: int) -> None:
    """Raises UsageError for a teacher whose temperature or weight cannot be, or with logits in stretches."""
    if teacher is None:
        return
    if not isinstance(teacher, Teacher):
        raise UsageError(f"teacher: expected jaxprop.Teacher(model, params, extras), got {type(teacher).__name__}")
    if not teacher.temperature > 0:
        raise UsageError(f"teacher: expected a temperature above 0, got {teacher.temperature}; 2.0 is usual")
    if not 0 < teacher.weight <= 1:
        raise UsageError(f"teacher: expected a weight above 0 and at most 1, got {teacher.weight}; 0.5 is usual")
    if vocabulary_chunks > 1:
        raise UsageError("a teacher's logits are made whole, so vocabulary_chunks has to stay 1; remove it")


def with_outputs(teacher: Teacher | None, batch: Batch, policy: Policy, cast: Sequence[str] | bool) -> Batch:
    """Returns a batch with the teacher's outputs as `teacher`; no gradient passes through them.

    Args:
      teacher: the teacher, or None for the batch as it is.
      batch: as the model sees it, before its floats are cast.
      policy: of the step; overrides are of the model's layers, and hold for none of the teacher's.
      cast: keys of the batch whose floats are cast.
    """
    if teacher is None:
        return batch
    plain = policy._replace(overrides=())
    params, extras = jax.lax.stop_gradient(handed(teacher.arrays))
    seen = cast_keys(batch, plain.compute, cast)
    with taps.untapped(), computing(plain), jax.named_scope("teacher"):
        outputs, _ = teacher.model.apply(cast_floating(params, plain.compute), extras, seen, key=None, train=False)
    return {**batch, TEACHER: jax.lax.stop_gradient(cast_floating(outputs, plain.output))}


def distilled(loss: Loss, metrics: Mapping[str, Metric], teacher: Teacher | None) -> tuple[Loss, Mapping[str, Metric]]:
    """Returns the loss of labels and of a teacher's outputs, and with its parts the metrics of training.

    Args:
      loss: `(outputs, batch) -> (per_example [B], weight [B])`; the new one is for batches of `with_outputs`.
      metrics: by name.
      teacher: its temperature, weight and divergence; None leaves both as they are.
    """
    if teacher is None:
        return loss, metrics
    share = teacher.weight

    def divergence(outputs: Any, batch: Batch) -> Any:
        return teacher.divergence(outputs, batch, temperature=teacher.temperature)

    def mixed(outputs: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        of_labels, weight = loss(outputs, batch)
        of_teacher = divergence(outputs, batch)[0].astype(of_labels.dtype)
        # With nothing learned from labels these may be anything, of examples that have none.
        return (of_teacher if share == 1 else (1 - share) * of_labels + share * of_teacher), weight

    return mixed, {**metrics, "task_loss": _mean_of(loss), "divergence": _mean_of(divergence)}


def _mean_of(loss: Loss) -> Metric:
    def update(outputs: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        values, weight = jax.lax.stop_gradient(loss(outputs, batch))
        weight = weight.astype(values.dtype)
        return jnp.sum(jnp.where(weight != 0, weight * values, 0)), jnp.sum(weight)

    return Metric(update, lambda total: float(total[0] / total[1]))
