"""Sections of audio with transcripts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jaxprop.config.schema.base import NonNegative, Part, Positive, PositiveFloat, Text, Texts
from jaxprop.config.schema.data.base import DataSection, FileSection

Rate = Annotated[int, Field(ge=4000, le=192_000)]


class AudioSection(DataSection):
    """The keys of data that are audio with transcripts."""

    buckets: Positive = Field(
        1,
        description="number of lengths that training batches are padded to, each of as many recordings; the step is "
        "compiled for each",
    )


class Tones(AudioSection):
    """Generated sentences of made-up words, each of a speaker of its own: harmonics under formants, and noises."""

    name: Literal["tones"]
    examples: Positive = Field(3_000, description="number of training sentences")
    test_examples: Positive = Field(300, description="number of sentences in the test split")
    data_seed: NonNegative = Field(0, description="seed of the sentences")


VOICES = (
    "en-us", "en-us+m1", "en-us+m3", "en-us+f1", "en-us+f3", "en-us+f4", "en-gb", "en-gb+m2", "en-gb+m5", "en-gb+f3",
    "en-gb-x-rp", "en-gb-x-rp+m7", "en-gb-x-rp+f4", "en-gb-scotland", "en-gb-scotland+f1",
)  # fmt: skip


class Espeak(AudioSection):
    """Numbers in English words, spoken by several voices of the program espeak-ng; the test split has another voice."""

    name: Literal["espeak"]
    voices: Texts = Field(
        VOICES, min_length=1, description="voices of the training split, as `espeak-ng -v` takes them"
    )
    validation_voices: Texts | None = Field(
        None,
        min_length=1,
        description="voices of a validation split, whose numbers are in no other split and as many as the test's; "
        "default: none, and data.validation may hold out training examples",
    )
    test_voices: Texts = Field(("en-us+f2",), min_length=1, description="voices of the test split")
    largest: Annotated[int, Field(ge=99, le=999_999)] = Field(9999, description="the largest number")
    examples: Positive = Field(2_000, description="number of training examples")
    test_examples: Positive = Field(
        200, description="number of examples in the test split, of numbers unseen in training"
    )
    data_seed: NonNegative = Field(0, description="seed of the numbers, voices, rates and pitches")
    sample_rate: Rate = Field(8000, description="samples a second; what espeak-ng makes is resampled to it")


class Speech(FileSection, AudioSection):
    """Your own recordings with transcripts: LibriSpeech folders; JSONL, TSV and CSV manifests of WAV and FLAC files."""

    name: Literal["speech"]
    train: Text = Field(
        description="manifest with columns of files and transcripts; or folder of LibriSpeech (`*.trans.txt`), or of "
        "audio files with a `.txt` beside each"
    )
    validation: Text | Part | None = Field(None, description="the same, or the fraction of the recordings to hold out")
    test: Text | None = Field(None, description="the same, of the test split")
    audio: Text | None = Field(
        None, description="column of the files' paths, relative to the manifest; default: audio, audio_filepath, path, "
        "file, file_name or wav"
    )  # fmt: skip
    text: Text | None = Field(
        None, description="column of the transcripts; default: text, sentence, transcript or transcription"
    )
    lowercase: bool = Field(True, description="make transcripts lower-case")
    sample_rate: Rate = Field(16_000, description="samples a second; recordings of another rate are resampled")
    channels: Literal["average", "refuse"] = Field(
        "average", description="what becomes of several channels: their mean, or a recording that cannot be used"
    )
    max_seconds: PositiveFloat = Field(20.0, description="longest recording; longer ones cannot be used")
    frame_ms: PositiveFloat = Field(
        40.0,
        description="time of one output of the model, hop_ms times its strides: a transcript that needs more outputs "
        "than its recording has cannot be used",
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="character between the columns of a CSV file; default: a comma"
    )
    cache_mib: NonNegative = Field(
        1024, description="decoded recordings in MiB that are kept in memory; others are decoded anew"
    )
