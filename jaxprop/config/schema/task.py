"""The section `task`: the task and its loss. Imports no jax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter

from jaxprop.config.schema.base import Fraction, NonNegativeFloat, Positive, PositiveFloat, Section, Text
from jaxprop.config.schema.custom import Chosen, Custom
from jaxprop.config.schema.teacher import TeacherField
from jaxprop.config.tasks import TASK_TABLE


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


class FocalIou(Section):
    """For boxes: the focal loss for classes, and a loss of the IoU family for boxes."""

    name: Literal["focal_iou"]
    overlap: Literal["iou", "giou", "diou", "ciou"] = Field("giou", description="which of the IoU family")
    box_weight: PositiveFloat = Field(2.0, description="weight of the loss of boxes")
    alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="focal loss: weight of what is an object, against 1 - alpha"
    )
    gamma: NonNegativeFloat = Field(2.0, description="focal loss: how little what is nearly right counts")


class Ctc(Section):
    """Connectionist temporal classification: transcripts without times, in nats a label."""

    name: Literal["ctc"]


class CustomLoss(Custom):
    """A loss of your own: (outputs, batch) -> per_example, or (per_example, weight)."""


class CustomMetric(Custom):
    """A metric of your own: (outputs, batch) -> (sum, count), or a `jaxprop.types.Metric`."""


LossSection = Annotated[
    SoftmaxCrossEntropy | SigmoidCrossEntropy | SquaredError | Huber | FocalIou | Ctc | CustomLoss, Chosen()
]


if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[*TASK_TABLE]


class Task(Section):
    """The task, which binds data, model, loss and metrics."""

    name: TaskName = Field(description="; ".join(f"{name}: {entry.summary}" for name, entry in TASK_TABLE.items()))
    loss: LossSection | None = Field(None, description="default: the task's usual loss")
    beam: Positive | None = Field(
        None,
        description="number of prefixes kept when a transcript is read from outputs, for transcribe; default: greedy",
    )
    metrics: dict[Text, CustomMetric] | None = Field(
        None, description="further metrics, by the names that you give them"
    )
    teacher: TeacherField = Field(
        None,
        description="a trained model whose outputs are learned from beside the labels, for "
        + ", ".join(name for name, entry in TASK_TABLE.items() if entry.divergence),
    )


def usual_loss(task: str) -> LossSection:
    """Returns the loss of a task whose configuration names none, with its defaults.

    Example:
      >>> usual_loss("regress").name
      'squared_error'
    """
    return TypeAdapter(LossSection).validate_python({"name": TASK_TABLE[task].losses[0]})
