"""The items of `data.augment`: random changes of training examples. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from jaxprop.config.schema.base import Fraction, NonNegativeFloat, Positive, PositiveFloat, Section

Share = Annotated[float, Field(ge=0, le=1)]
Beyond = Literal["zeros", "edge", "reflect"]
BEYOND = "what lies beyond the edges: zeros, the pixels of the edge, or the image mirrored"
S = TypeVar("S", bound=Section)


class Crop(Section):
    """Pads images on every side and cuts a window of the old size out of them, at a random place."""

    name: Literal["crop"]
    pad: Positive = Field(description="number of pixels added on each side, which is the largest shift")
    mode: Beyond = Field("zeros", description=BEYOND)


class Flip(Section):
    """Mirrors images at random."""

    name: Literal["flip"]
    horizontal: Share = Field(0.5, description="probability that left and right are exchanged")
    vertical: Share = Field(0.0, description="probability that top and bottom are exchanged")

    @model_validator(mode="after")
    def _changes(self) -> Flip:
        return _changing(self, "horizontal", "vertical")


class Affine(Section):
    """Rotates, shifts and scales images around their centre, with bilinear interpolation."""

    name: Literal["affine"]
    degrees: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="largest rotation, either way, in degrees")
    shift: NonNegativeFloat = Field(0.0, description="largest shift along each axis, either way, in pixels")
    scale: Fraction = Field(0.0, description="the size is multiplied by 1 - scale to 1 + scale")
    mode: Beyond = Field("zeros", description=BEYOND)

    @model_validator(mode="after")
    def _changes(self) -> Affine:
        return _changing(self, "degrees", "shift", "scale")


class Colour(Section):
    """Changes the colours of images. Values are not clipped. Saturation and hue need three channels."""

    name: Literal["colour"]
    brightness: Share = Field(0.0, description="values are multiplied by 1 - brightness to 1 + brightness")
    contrast: Share = Field(0.0, description="the same for the distance of values to the image's mean")
    saturation: Share = Field(0.0, description="the same for the distance of values to the pixel's grey")
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="largest turn of the hue, either way, as a fraction of the colour wheel"
    )

    @model_validator(mode="after")
    def _changes(self) -> Colour:
        return _changing(self, "brightness", "contrast", "saturation", "hue")


class Cutout(Section):
    """Fills a square at a random place of each image; the part of it that lies outside is lost."""

    name: Literal["cutout"]
    size: Positive = Field(description="side of the square, in pixels")
    fill: float = Field(0.0, description="value that the square is filled with")
    probability: Share = Field(1.0, description="probability that an image has such a square")


class Mixing(Section):
    """What mixes each example with another one of its batch, and their labels with them."""

    probability: Share = Field(1.0, description="probability that an example is mixed with another one")


class Mixup(Mixing):
    """Averages each example with another one of its batch, and their labels with the same weights."""

    name: Literal["mixup"]
    alpha: PositiveFloat = Field(
        0.2,
        description="the weights are drawn from Beta(alpha, alpha): below 1, most examples stay nearly as they are",
    )


class Cutmix(Mixing):
    """Pastes a random box of another image of the batch into each image, and mixes their labels by area."""

    name: Literal["cutmix"]
    alpha: PositiveFloat = Field(1.0, description="the area of the box is drawn from Beta(alpha, alpha)")


class Noise(Section):
    """Adds Gaussian noise to inputs of any shape."""

    name: Literal["noise"]
    std: PositiveFloat = Field(description="standard deviation of the noise, in units of the inputs")


Augmentation = Annotated[Crop | Flip | Affine | Colour | Cutout | Mixup | Cutmix | Noise, Field(discriminator="name")]


def _changing(section: S, *strengths: str) -> S:
    if not any(getattr(section, name) for name in strengths):
        name, listed = type(section).__name__.lower(), f"{', '.join(strengths[:-1])} or {strengths[-1]}"
        raise ValueError(f"{name} changes nothing unless one of its strengths is above 0; give {listed}")
    return section
