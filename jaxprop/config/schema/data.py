"""The section `data`: a data source and how it is batched. Imports no jax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, Strict

from jaxprop.config.schema.augment import Augmentation
from jaxprop.config.schema.base import Fraction, NonNegative, Part, Positive, Section, Sizes, Text, Texts
from jaxprop.config.schema.custom import Chosen, Custom

# Keys that hold the path of a file.
PATHS = ("train", "validation", "test", "train_inputs", "train_labels", "test_inputs", "test_labels")
BUNDLED = "sklearn:"  # before the name of a table inside scikit-learn, which is no path

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


class Digits(DataSection):
    """1,797 real handwritten digits of 8 x 8 pixels (UCI, shipped inside scikit-learn)."""

    name: Literal["digits"]


class StdlibText(DataSection):
    """Source and documentation text of the running Python's own standard library, as bytes."""

    name: Literal["stdlib_text"]
    sequence_length: Positive = Field(128, description="number of bytes that a training example predicts")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="fraction of the files in the test split"
    )
    max_bytes: Positive | None = Field(None, description="largest number of bytes of training text; default: all")

    @classmethod
    def refused(cls) -> tuple[str, ...]:
        """Text takes no augmentation, so that none is inherited from a configuration of images."""
        return ("augment",)


class Arrays(DataSection):
    """Your own arrays: `.npz` with `inputs` and `labels`, or a `.npy` for each; paths from the working directory."""

    name: Literal["arrays"]
    train: Text | None = Field(None, description="`.npz` file with the arrays `inputs` and `labels`")
    test: Text | None = Field(None, description="`.npz` file of the test split; without one, nothing is evaluated")
    train_inputs: Text | None = Field(None, description="`.npy` file; together with train_labels it replaces train")
    train_labels: Text | None = Field(None, description="`.npy` file; see train_inputs")
    test_inputs: Text | None = Field(None, description="`.npy` file; together with test_labels it replaces test")
    test_labels: Text | None = Field(None, description="`.npy` file; see test_inputs")
    classes: Positive | None = Field(None, description="number of classes; default: the largest training label + 1")


class Table(DataSection):
    """Your own table: CSV, TSV, JSONL or Parquet, told apart by content; paths from the working directory."""

    name: Literal["table"]
    train: Text = Field(description="file of the training rows; `sklearn:NAME.csv` is a table inside scikit-learn")
    validation: Text | Part | None = Field(
        None,
        description="file of the validation split, or fraction of the training rows to hold out, by class where there "
        "are classes: evaluations and the choice of the best checkpoint then use it, and the test split is for the end "
        "alone",
    )
    test: Text | Part | None = Field(
        None, description="file of the test split, or fraction of the rows of train to hold out before any other"
    )
    target: Text | Texts = Field(description="name of the column to predict; a list where there are several")
    features: Texts | None = Field(None, description="names of the columns to predict from; default: all other columns")
    ignore: Texts = Field((), description="names of columns that are not used")
    categorical: Texts = Field((), description="names of columns whose numbers are the names of categories")
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="character between the values of a CSV file; default: found from its first lines"
    )
    missing: Literal["mean", "refuse"] = Field(
        "mean",
        description="what a missing number becomes: the mean, with a further feature that says so where training rows "
        "lack it; or a bad row. A missing category is a category of its own",
    )
    categories: Literal["one_hot", "integers"] = Field(
        "one_hot", description="how categories are given to the model: as features, or as integers for embeddings"
    )
    max_categories: Positive = Field(
        64, description="number of categories of a column that are kept apart; rarer ones are taken together"
    )
    max_bad_fraction: Fraction = Field(
        0.0, description="fraction of a file's rows that may be bad: these are told and skipped"
    )


class Random(DataSection):
    """Random examples of any size, for measuring: tokens, or inputs with random labels. Nothing can be learned."""

    name: Literal["random"]
    shape: Sizes = Field((32,), min_length=1, description="shape of an example's inputs; the length of a text")
    classes: Positive = Field(10, description="number of classes; for classify")
    vocabulary: Positive = Field(256, description="number of tokens; for language")
    examples: Positive = Field(1024, description="number of examples")


class CustomData(DataSection, Custom):
    """Data of your own: a function that returns sources or arrays."""


Data = Annotated[Digits | StdlibText | Arrays | Table | Random | CustomData, Chosen()]
