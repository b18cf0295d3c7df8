"""Sections of images: digits, your own, and images with boxes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from jaxprop.config.schema.base import NonNegative, Part, Positive, Text
from jaxprop.config.schema.data.base import DataSection, FileSection


class Digits(DataSection):
    """1,797 real handwritten digits of 8 x 8 pixels (UCI, shipped inside scikit-learn)."""

    name: Literal["digits"]


Side = Annotated[int, Field(gt=0, le=8192)]


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


class DigitScenes(DataSection):
    """Handwritten digits to be found, 1 to 6 on a cluttered canvas; real glyphs, as of digits, set into made scenes."""

    name: Literal["digit_scenes"]
    side: Side = Field(64, description="height and width of a scene in pixels")
    examples: Positive = Field(4_000, description="number of training scenes")
    test_examples: Positive = Field(500, description="number of scenes of the test split, of glyphs of its own")
    data_seed: NonNegative = Field(0, description="seed of the scenes")
    validation: Part | None = Field(
        None, description="fraction of the training scenes to validate by instead; they have glyphs of their own"
    )


class Coco(ImageSection):
    """Your own images with boxes: annotations in a COCO JSON, and the folder of its images."""

    name: Literal["coco"]
    train: Text = Field(description="JSON file with images, annotations and categories")
    validation: Text | Part | None = Field(
        None, description="the same of the validation split, or the fraction of the training images to hold out"
    )
    test: Text | None = Field(None, description="the same of the test split")
    images: Text | None = Field(
        None, description="folder that the file names of all splits are relative to; default: that of each JSON file"
    )
    validation_images: Text | None = Field(None, description="the same of the validation split; default: images")
    test_images: Text | None = Field(None, description="the same of the test split; default: images")
