"""Sections of text: labelled, to be continued, and in pairs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jaxprop.config.schema.base import Fraction, NonNegative, Part, Positive, Section, Text, Texts
from jaxprop.config.schema.data.base import DataSection


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


class TokenSection(DataSection):
    """The keys of texts that become tokens."""

    tokenizer: Text | TrainedTokenizer = Field("bytes", description=TOKENIZER + "; of text")
    special_tokens: bool = Field(
        False,
        description="put the tokens around a labelled text that its tokenizer.json has for that, such as [CLS] and "
        "[SEP]",
    )
    sequence_length: Positive = Field(128, description="number of tokens that an example predicts; for language")
    max_length: Positive = Field(512, description="largest number of tokens of a labelled text; longer ones are cut")
    buckets: Positive = Field(
        1,
        description="number of lengths that training batches of labelled texts are padded to, each of as many texts; "
        "the step is compiled for each",
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
    validation: Part | None = Field(
        None, description="fraction of the training examples to hold out, none of 0 to 99 among them"
    )
    test_examples: Positive = Field(1_000, description="number of examples in the test split")
    largest: Annotated[int, Field(ge=999, lt=10**12)] = Field(999_999, description="largest number")
    source: Language = Field("en", description="language of the source, as num2words names it")
    target: Language = Field("fr", description="language of the target")
    data_seed: NonNegative = Field(0, description="seed of the numbers")
    tokenizer: Text | TrainedTokenizer = Field("bytes", description=TOKENIZER + ", both sides")
    max_length: Positive = Field(256, description="largest number of tokens of a text; longer ones are cut")
