"""What the sections `data` of all kinds share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, Strict

from jaxprop.config.schema.augment import Augmentation
from jaxprop.config.schema.base import Fraction, NonNegative, Part, Positive, Section

# Keys that hold the path of a file or a folder, unless they hold a number.
PATHS = (
    *("train", "validation", "test", "root", "train_inputs", "train_labels"),
    *("validation_inputs", "validation_labels", "test_inputs", "test_labels"),
    *("tokenizer", "train_targets", "validation_targets", "test_targets"),
    *("images", "validation_images", "test_images"),
    "prepared_by",
)
NO_PATHS = ("bytes",)  # values of these keys that are names

# Readers of files take the path of a split as well, which widens the type that they inherit.
if TYPE_CHECKING:
    _Held = Any
else:
    _Held = Part | None


class DataSection(Section):
    """The keys that every data source has."""

    batch_size: Positive = Field(
        64, description="number of examples in a train step, over all microbatches and devices"
    )
    eval_batch_size: Positive | None = Field(
        None, description="number of examples in an evaluation batch; default: batch_size"
    )
    shuffle: bool = Field(True, description="use a new order in every epoch, drawn from run.seed")
    drop_last: bool = Field(False, description="drop the last partial batch of a training epoch instead of padding it")
    validation: _Held = Field(
        None,
        description="fraction of the training examples to hold out, by class where there are classes: evaluations and "
        "the choice of the best checkpoint then use it, and the test split is for the end alone",
    )
    split_seed: NonNegative = Field(0, description="seed of the choice of the held-out examples")
    prefetch: NonNegative = Field(2, description="number of batches prepared ahead in the background; 0 turns this off")
    augment: Annotated[tuple[Augmentation, ...], Strict(False)] = Field(
        (), description="random changes of the training examples, made in this order in every step"
    )


class FileSection(DataSection):
    """The keys of data that are read from files by index, and may be slow to decode."""

    max_bad_fraction: Fraction = Field(
        0.0, description="largest fraction of records that may be unusable; they are skipped, and more are an error"
    )
    engine: Literal["numpy", "grain"] = Field(
        "numpy",
        description="what makes batches: numpy in this process, or grain in `workers` processes, for data that are "
        "slow to decode; the batches are the same",
    )
    workers: Positive = Field(2, description="number of processes of the engine grain")
