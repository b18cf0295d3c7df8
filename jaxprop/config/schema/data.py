"""The section `data`: a data source and how it is batched. Imports no jax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, Strict

from jaxprop.config.schema.augment import Augmentation
from jaxprop.config.schema.base import (
    Fraction,
    NonNegative,
    NonNegativeFloat,
    Part,
    Positive,
    Section,
    Sizes,
    Text,
    Texts,
)
from jaxprop.config.schema.custom import Chosen, Custom

# Keys that hold the path of a file or a folder, unless they hold a number.
PATHS = (
    *("train", "validation", "test", "root", "train_inputs", "train_labels"),
    *("validation_inputs", "validation_labels", "test_inputs", "test_labels"),
    *("tokenizer", "train_targets", "validation_targets", "test_targets"),
)
NO_PATHS = ("bytes",)  # values of these keys that are names
BUNDLED = "sklearn:"  # before the name of a table inside scikit-learn, which is no path
Side = Annotated[int, Field(gt=0, le=8192)]
Names = Annotated[tuple[Text, ...], Strict(False), Field(min_length=1)]
Weights = Annotated[tuple[NonNegativeFloat, ...], Strict(False), Field(min_length=2)]

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


class TrainedTokenizer(Section):
    """A tokenizer that is trained on the training examples: byte-level byte-pair encoding."""

    train: Literal["bpe"]
    vocabulary: Annotated[int, Field(gt=256, le=2**24)] = Field(
        4000, description="number of tokens; 256 of them are bytes, and one ends a text"
    )


TOKENIZER = (
    "`bytes`; a `tokenizer.json` of the library tokenizers; a SentencePiece model; or {train: bpe, vocabulary: 4000}, "
    "which is trained on the training examples"
)


class Reviews(DataSection):
    """Generated reviews with negation, contrast and intensity; the test split has combinations unseen in training."""

    name: Literal["reviews"]
    examples: Positive = Field(10_000, description="number of training examples")
    test_examples: Positive = Field(2_000, description="number of examples in the test split")
    data_seed: NonNegative = Field(0, description="seed of the reviews")
    tokenizer: Text | TrainedTokenizer = Field("bytes", description=TOKENIZER)
    max_length: Positive = Field(512, description="largest number of tokens of a review; longer ones are cut")


class StdlibText(DataSection):
    """Source and documentation text of the running Python's own standard library."""

    name: Literal["stdlib_text"]
    tokenizer: Text | TrainedTokenizer = Field("bytes", description=TOKENIZER)
    sequence_length: Positive = Field(128, description="number of tokens that a training example predicts")
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


class ImageSection(FileSection):
    """The keys of data that are images."""

    size: Annotated[tuple[Side, Side], Strict(False)] | None = Field(
        None, description="height and width that every image is resized to; default: those of the first, and no other"
    )
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = Field(
        "bilinear", description="filter that images are resized with; see size"
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1 (grey) or 3 (colour); default: 3 if one of 64 images is"
    )
    cache_mib: NonNegative = Field(
        1024, description="largest decoded size in MiB of a split that is kept in memory; a larger one is read anew"
    )


class Images(ImageSection):
    """Your own images: a folder a class, CSV or JSONL of paths and labels, MNIST IDX, CIFAR binaries, Parquet, tar."""

    name: Literal["images"]
    train: Text = Field(description="folder or file of the training images")
    validation: Text | Part | None = Field(
        None, description="folder or file of the validation images; or the fraction of the training images to hold out"
    )
    test: Text | None = Field(None, description="folder or file of the test images")
    image_column: Text | None = Field(
        None,
        description="column with the images or their paths in a table, default: image, path, file_name or alike; "
        "extension of the images of a tar archive",
    )
    label_column: Text | None = Field(
        None, description="column with the labels; default: label, class, target or alike"
    )
    root: Text | None = Field(None, description="folder that a table's paths are relative to; default: the table's own")


class TokenSection(DataSection):
    """The keys of texts that become tokens."""

    tokenizer: Text | TrainedTokenizer = Field("bytes", description=TOKENIZER + "; of text")
    sequence_length: Positive = Field(128, description="number of tokens that an example predicts; for language")
    max_length: Positive = Field(512, description="largest number of tokens of a labelled text; longer ones are cut")
    buckets: Positive = Field(
        1,
        description="number of lengths that training batches of labelled texts are padded to, each of as many texts; "
        "the step is compiled for each",
    )


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


class TextFiles(TokenSection):
    """Your own text: plain text, JSONL, CSV, TSV, Parquet or Arrow, as files, folders and globs."""

    name: Literal["text"]
    train: Text = Field(description="file, folder or glob such as `corpus/**/*.txt`, from the working directory")
    validation: Text | Part | None = Field(None, description="the same, or the fraction of the documents to hold out")
    test: Text | None = Field(None, description="the same, of the test split")
    text: Text = Field("text", description="column of the text; in files that have columns")
    label: Text | Texts | None = Field(
        None,
        description="column of the label, or several of them for regress and multilabel; for classify, the default is "
        "the folder that a file lies in",
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="character between the columns of a CSV file; default: a comma"
    )
    max_bad_fraction: Fraction = Field(
        0.0, description="largest fraction of records that are skipped because they cannot be read or used"
    )


class Pairs(DataSection):
    """Pairs of texts, a source and a target: JSONL, CSV, TSV or Parquet, or two parallel files."""

    name: Literal["pairs"]
    train: Text = Field(description="file, folder or glob with both columns, or the file of the source texts")
    train_targets: Text | None = Field(None, description="file of the target texts, line by line those of train")
    validation: Text | Part | None = Field(None, description="as train, or the fraction of the pairs to hold out")
    validation_targets: Text | None = Field(None, description="as train_targets")
    test: Text | None = Field(None, description="as train, of the test split")
    test_targets: Text | None = Field(None, description="as train_targets, of the test split")
    source: Text = Field("source", description="column of the source text")
    target: Text = Field("target", description="column of the target text")
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="character between the columns of a CSV file; default: a comma"
    )
    tokenizer: Text | TrainedTokenizer = Field("bytes", description=TOKENIZER + ", both sides")
    max_length: Positive = Field(256, description="largest number of tokens of a text; longer ones are cut")
    max_bad_fraction: Fraction = Field(
        0.0, description="largest fraction of pairs that are skipped because they cannot be read or used"
    )


Language = Annotated[str, Field(pattern=r"^[a-z]{2}(_[A-Z]{2})?$")]


class NumberWords(DataSection):
    """Numbers written as English words and the same as French ones; the test split has numbers unseen in training."""

    name: Literal["number_words"]
    examples: Positive = Field(10_000, description="number of training examples, all of 0 to 99 among them")
    test_examples: Positive = Field(1_000, description="number of examples in the test split")
    largest: Annotated[int, Field(ge=999, lt=10**12)] = Field(999_999, description="largest number")
    source: Language = Field("en", description="language of the source, as num2words names it")
    target: Language = Field("fr", description="language of the target")
    data_seed: NonNegative = Field(0, description="seed of the numbers")
    tokenizer: Text | TrainedTokenizer = Field("bytes", description=TOKENIZER + ", both sides")
    max_length: Positive = Field(256, description="largest number of tokens of a text; longer ones are cut")


class Random(DataSection):
    """Random examples of any size, for measuring: tokens, or inputs with random labels. Nothing can be learned."""

    name: Literal["random"]
    shape: Sizes = Field((32,), min_length=1, description="shape of an example's inputs; the length of a text")
    classes: Positive = Field(10, description="number of classes; for classify")
    vocabulary: Positive = Field(256, description="number of tokens; for language and translate")
    examples: Positive = Field(1024, description="number of examples")


OneSource = Annotated[
    Digits | StdlibText | TextFiles | Arrays | Table | Images | HuggingFace | Random, Field(discriminator="name")
]


class WeightsAfter(Section):
    """The weights of a mixture from a step on."""

    after: NonNegative = Field(description="number of steps after which they hold; 0 for the first")
    weights: Weights = Field(description="as data.weights")


class Mixture(DataSection):
    """Several sources of data, mixed by weights that may change by step, and may be changed on resuming."""

    name: Literal["mixture"]
    sources: Annotated[tuple[OneSource, ...], Strict(False)] = Field(
        min_length=2, description="sections `data` as any other; of their keys, those on batches are not used"
    )
    weights: Weights | Annotated[tuple[WeightsAfter, ...], Strict(False)] | None = Field(
        None,
        description="how often each source is drawn from, in proportion, as `[0.7, 0.3]`; or a list by step, as "
        "`[{after: 0, weights: [0.7, 0.3]}, {after: 1000, weights: [1, 1]}]`; default: by their numbers of examples",
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


Data = Annotated[
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
    | Mixture
    | Random
    | CustomData,
    Chosen(),
]
