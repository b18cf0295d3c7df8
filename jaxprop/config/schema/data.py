"""The section `data`: a data source and how it is batched. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jaxprop.config.schema.base import NonNegative, Positive, Section, Text

# Keys that hold the path of a file.
PATHS = ("train", "test", "train_inputs", "train_labels", "test_inputs", "test_labels")


class DataSection(Section):
    """The keys that every data source has."""

    batch_size: Positive = Field(64, description="examples in a train step, over all microbatches and devices")
    eval_batch_size: Positive | None = Field(None, description="default: batch_size")
    shuffle: bool = Field(True, description="a new order every epoch, from run.seed")
    drop_last: bool = Field(False, description="drop the last partial batch of a training epoch instead of padding it")
    prefetch: NonNegative = Field(2, description="batches prepared ahead in the background; 0 turns it off")


class Digits(DataSection):
    """1,797 real handwritten digits of 8 x 8 pixels (UCI, shipped inside scikit-learn)."""

    name: Literal["digits"]


class StdlibText(DataSection):
    """Source and documentation text of the running Python's own standard library, as bytes."""

    name: Literal["stdlib_text"]
    sequence_length: Positive = Field(128, description="bytes a training example predicts")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of the files held out")
    max_bytes: Positive | None = Field(None, description="use at most this many bytes")


class Arrays(DataSection):
    """Your own arrays: `.npz` with `inputs` and `labels`, or a `.npy` for each; paths from the working directory."""

    name: Literal["arrays"]
    train: Text | None = Field(None, description=".npz holding arrays `inputs` and `labels`")
    test: Text | None = Field(None, description=".npz like train; leave out to train without evaluation")
    train_inputs: Text | None = Field(None, description=".npy, with train_labels instead of train")
    train_labels: Text | None = Field(None, description=".npy, with train_inputs")
    test_inputs: Text | None = Field(None, description=".npy, with test_labels instead of test")
    test_labels: Text | None = Field(None, description=".npy, with test_inputs")
    classes: Positive | None = Field(None, description="number of classes; default: the largest training label + 1")


Data = Annotated[Digits | StdlibText | Arrays, Field(discriminator="name")]
