"""Sections of numbers: arrays, and tables with named columns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jaxprop.config.schema.base import Fraction, Part, Positive, Text, Texts
from jaxprop.config.schema.data.base import DataSection

BUNDLED = "sklearn:"  # before the name of a table inside scikit-learn, which is no path


class Arrays(DataSection):
    """Your own arrays: `.npz` with `inputs` and `labels`, or a `.npy` for each; paths from the working directory."""

    name: Literal["arrays"]
    train: Text | None = Field(None, description="`.npz` file with the arrays `inputs` and `labels`")
    validation: Text | Part | None = Field(
        None, description="`.npz` file of the validation split; or the fraction of the training examples to hold out"
    )
    test: Text | None = Field(None, description="`.npz` file of the test split")
    train_inputs: Text | None = Field(None, description="`.npy` file; together with train_labels it replaces train")
    train_labels: Text | None = Field(None, description="`.npy` file; see train_inputs")
    validation_inputs: Text | None = Field(
        None, description="`.npy` file; together with validation_labels it replaces validation"
    )
    validation_labels: Text | None = Field(None, description="`.npy` file; see validation_inputs")
    test_inputs: Text | None = Field(None, description="`.npy` file; together with test_labels it replaces test")
    test_labels: Text | None = Field(None, description="`.npy` file; see test_inputs")
    classes: Positive | None = Field(None, description="number of classes; default: the largest training label + 1")
    standardize: bool = Field(
        False,
        description="subtract from each feature, an entry of the last axis, its mean over the training examples, and "
        "divide it by its standard deviation there",
    )


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
