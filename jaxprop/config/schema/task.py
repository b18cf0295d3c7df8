"""The section `task`: the task and its loss. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jaxprop.config.schema.base import Fraction, NonNegativeFloat, PositiveFloat, Section


class SoftmaxCrossEntropy(Section):
    """Softmax cross-entropy for classes or tokens."""

    name: Literal["softmax_cross_entropy"] = "softmax_cross_entropy"
    label_smoothing: Fraction = Field(0.0, description="fraction of the target that is spread evenly over all classes")
    z_loss: NonNegativeFloat = Field(0.0, description="weight of logsumexp(logits)^2")


class SigmoidCrossEntropy(Section):
    """Independent binary cross-entropies, for labels that do not exclude each other."""

    name: Literal["sigmoid_cross_entropy"]
    label_smoothing: Fraction = Field(0.0, description="how far the targets 0 and 1 are moved towards 0.5")


class SquaredError(Section):
    """Half the squared error, averaged over targets."""

    name: Literal["squared_error"]


class Huber(Section):
    """Huber loss, averaged over targets."""

    name: Literal["huber"]
    delta: PositiveFloat = Field(1.0, description="error at which the loss turns from square to linear")


LossSection = Annotated[SoftmaxCrossEntropy | SigmoidCrossEntropy | SquaredError | Huber, Field(discriminator="name")]


class Task(Section):
    """The task, which binds data, model, loss and metrics."""

    name: Literal["classify", "multilabel", "regress", "language"] = Field(
        description="classify: one class for each example; multilabel: any number of them; regress: numbers; "
        "language: the next token"
    )
    loss: LossSection | None = Field(None, description="default: the task's usual loss")


# What fits each task; the first loss is its usual one.
TASK_LOSSES = {
    "classify": ("softmax_cross_entropy",),
    "multilabel": ("sigmoid_cross_entropy",),
    "regress": ("squared_error", "huber"),
    "language": ("softmax_cross_entropy",),
}
# What each task's evaluation reports, and whether smaller (min) or larger (max) is better.
TASK_METRICS = {
    "classify": {"loss": "min", "accuracy": "max"},
    "multilabel": {"loss": "min", "accuracy": "max"},
    "regress": {"loss": "min", "mean_absolute_error": "min"},
    "language": {"loss": "min", "accuracy": "max", "perplexity": "min"},
}
