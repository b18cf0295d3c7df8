"""Sections of data of any kind: data sets of the library `datasets`, random examples, several sources, and your own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from jaxprop.config.schema.base import NonNegative, NonNegativeFloat, Part, Positive, Section, Sizes, Text
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.data.audio import Espeak, Speech, Tones
from jaxprop.config.schema.data.base import DataSection
from jaxprop.config.schema.data.images import Coco, Digits, DigitScenes, Images, ImageSection
from jaxprop.config.schema.data.tables import Arrays, Table
from jaxprop.config.schema.data.text import NumberWords, Pairs, Reviews, StdlibText, TextFiles, TokenSection

Names = Annotated[tuple[Text, ...], Strict(False), Field(min_length=1)]
Weights = Annotated[tuple[NonNegativeFloat, ...], Strict(False), Field(min_length=2)]


class HuggingFace(ImageSection, TokenSection):
    """A data set of the library `datasets` on disk, or Arrow or Parquet files: text, images or numbers by column."""

    name: Literal["huggingface"]
    train: Text = Field(
        description="folder that `save_to_disk` has written, or Arrow or Parquet files, or their folder"
    )
    validation: Text | Part | None = Field(
        None, description="the same of the validation split; or the fraction of the training rows to hold out"
    )
    test: Text | None = Field(None, description="the same of the test split")
    inputs: Text | Names = Field(
        description="column of text or of images, or the columns of numbers that make the features"
    )
    label: Text = Field("label", description="column of the labels; not read for language")
    standardize: bool = Field(False, description="standardize numbers by the statistics of the training rows")


class Random(DataSection):
    """Random examples of any size, for measuring: tokens, or inputs with random labels. Nothing can be learned."""

    name: Literal["random"]
    shape: Sizes = Field((32,), min_length=1, description="shape of an example's inputs; the length of a text")
    classes: Positive = Field(10, description="number of classes; for classify and detect")
    boxes: Positive = Field(8, description="number of boxes of an image; for detect")
    vocabulary: Positive = Field(256, description="number of tokens; for language, translate and transcribe")
    examples: Positive = Field(1024, description="number of examples")


BuiltIn = (
    Digits
    | Reviews
    | StdlibText
    | TextFiles
    | Pairs
    | NumberWords
    | Arrays
    | Table
    | Images
    | HuggingFace
    | DigitScenes
    | Coco
    | Speech
    | Tones
    | Espeak
    | Random
)
OneSource = Annotated[BuiltIn, Field(discriminator="name")]


class WeightsAfter(Section):
    """The weights of a mixture from a step on."""

    after: NonNegative = Field(description="number of steps after which they hold; 0 for the first")
    weights: Weights = Field(description="as data.weights")


class Mixture(DataSection):
    """Several sources of data, mixed by weights that may change by step, and may be changed on resuming."""

    name: Literal["mixture"]
    sources: Annotated[tuple[OneSource, ...], Strict(False)] = Field(
        min_length=1,
        description="sections `data` as any other; of their keys, those on batches are not used; one is enough beside "
        "prepared_by",
    )
    weights: Weights | Annotated[tuple[WeightsAfter, ...], Strict(False)] | None = Field(
        None,
        description="how often each source is drawn from, in proportion, as `[0.7, 0.3]`; or a list by step, as "
        "`[{after: 0, weights: [0.7, 0.3]}, {after: 1000, weights: [1, 1]}]`; default: by their numbers of examples",
    )
    prepared_by: Text | None = Field(
        None,
        description="folder of a run whose vocabulary, classes and statistics prepare all sources, for a run that "
        "starts from its weights or learns from it; default: what is learned of the training examples of all",
    )
    new_classes: Annotated[tuple[Text, ...], Strict(False)] = Field(
        (), description="names of classes beside those of the run prepared_by, after which they are numbered"
    )
    engine: Literal["numpy", "grain"] = Field("numpy", description="what makes batches; see the other sources of files")
    workers: Positive = Field(2, description="number of processes of the engine grain")

    def phases(self) -> list[tuple[int, tuple[float, ...]]]:
        """Returns the weights that are set, each with the number of steps after which they hold."""
        phases: list[tuple[int, tuple[float, ...]]] = []
        plain: list[float] = []
        for one in self.weights or ():
            if isinstance(one, WeightsAfter):
                phases.append((one.after, one.weights))
            else:
                plain.append(one)
        return phases or ([(0, tuple(plain))] if plain else [])


class CustomData(DataSection, Custom):
    """Data of your own: a function that returns sources or arrays."""
