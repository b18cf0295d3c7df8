"""Digits to be found: real handwritten glyphs on cluttered canvases, drawn when they are asked for."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.schema.data import DigitScenes
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.readers.digits import load_digits
from jaxprop.data.readers.images.objects import object_inputs
from jaxprop.data.splits import stratified_split
from jaxprop.errors import DataError
from jaxprop.types import Reader, Source

CLASSES = 10
MEAN, STD = 0.35, 0.25  # of the values 0..1, about those of all scenes
SMALLEST, LARGEST = 11, 26  # sides of a glyph on the canvas in pixels, before it is cut to its ink
OVERLAP = 0.2  # largest share of a digit that another one may cover
MOST = 6
_TRIES = 20
_INK = 0.15  # of the darkest, from which a pixel belongs to a digit's box
_SEEDS = {"train": 0, "test": 1, "validation": 2}  # of the scenes of a split
_VALIDATION_FRACTION = 0.1  # of the training glyphs
_TEST_FRACTION, _SPLIT_SEED = 0.2, 0  # as of data.name: digits, whose test glyphs are then those of the test scenes


class Scene(NamedTuple):
    """One canvas with its digits.

    Args:
      pixels: uint8 `[S, S]`.
      boxes: float32 `[6, 4]`, x0, y0, x1, y1 in pixels.
      labels: int32 `[6]`.
      mask: float32 `[6]`, 0 for a slot without a digit.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


def open_digit_scenes(section: DigitScenes) -> dict[str, Source]:
    """Opens scenes of 1 to 6 digits, `train` from four fifths of the glyphs and `test` from the others.

    With `data.validation`, a fraction, so many of the scenes are the split `validation`, and a tenth of the training
    glyphs are for these alone.

    A scene depends on `data_seed`, its split and its index alone. Digits are of different sizes and proportions, and
    cover each other a little; behind and before them lie gradients, lines, blobs and noise. A box is the smallest one
    around the ink of a digit.

    Args:
      section: the config's `data` section.

    Returns:
      Inputs float32 `[B, S, S, 1]`, standardized; boxes float32 `[B, 6, 4]`, x0, y0, x1, y1 in pixels; labels int32
      `[B, 6]`; mask float32 `[B, 6]`, 0 for a slot without a digit.

    Raises:
      DataError: scikit-learn, which holds the glyphs, is not installed; or the canvas is too small for them.

    Example:
      >>> batch = open_digit_scenes(DigitScenes(name="digit_scenes", examples=8))["train"].take(np.arange(2))
      >>> {name: values.shape for name, values in batch.items()}
      {'inputs': (2, 64, 64, 1), 'boxes': (2, 6, 4), 'labels': (2, 6), 'mask': (2, 6)}
    """
    if section.side < LARGEST + 2:
        raise DataError(f"data.side: expected at least {LARGEST + 2} pixels, which a digit takes, got {section.side}")
    glyphs, labels = load_glyphs()
    train, test = stratified_split(labels, _TEST_FRACTION, _SPLIT_SEED)
    sizes, chosen = {"train": section.examples, "test": section.test_examples}, {"train": train, "test": test}
    if section.validation is not None:
        stays, held = stratified_split(labels[train], _VALIDATION_FRACTION, section.split_seed)
        sizes["validation"] = math.ceil(section.validation * section.examples)
        sizes["train"] = section.examples - sizes["validation"]
        chosen |= {"train": train[stays], "validation": train[held]}
        if not sizes["train"]:
            raise DataError(
                f"data.validation: {section.validation:g} of the {section.examples} scenes leaves none to train on; "
                "use a smaller fraction"
            )
    return {
        split: _source(glyphs[chosen[split]], labels[chosen[split]], section, sizes[split], _SEEDS[split])
        for split in sizes
    }


def load_glyphs() -> tuple[np.ndarray, np.ndarray]:
    """Returns the ink of real digits, float32 `[1797, 8, 8]` in 0..1, and their labels.

    Raises:
      DataError: scikit-learn, which holds them, is not installed.
    """
    ink, labels = load_digits()
    return (ink / ink.max()).astype(np.float32).reshape(-1, 8, 8), labels


def prepared_scenes(section: DigitScenes) -> dict[str, Any]:
    """Returns what prepares a photograph as the scenes are, as the reader of images stores it.

    Example:
      >>> prepared_scenes(DigitScenes(name="digit_scenes"))["size"]
      [64, 64]
    """
    return {
        "size": [section.side, section.side],
        "channels": 1,
        "resample": "bilinear",
        "mean": [MEAN],
        "std": [STD],
        "class_names": [str(digit) for digit in range(CLASSES)],
        "left_out": [],
    }


def _source(glyphs: np.ndarray, labels: np.ndarray, section: DigitScenes, length: int, split: int) -> Source:
    kept = Scene(
        np.zeros((length, section.side, section.side), np.uint8),
        np.zeros((length, MOST, 4), np.float32),
        np.zeros((length, MOST), np.int32),
        np.zeros((length, MOST), np.float32),
    )
    drawn = np.zeros(length, bool)

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        for index in np.unique(indices[~drawn[indices]]).tolist():
            rng = np.random.default_rng([section.data_seed, split, index])
            for store, value in zip(kept, draw_scene(glyphs, labels, section.side, rng), strict=True):
                store[index] = value
            drawn[index] = True
        values = kept.pixels[indices, :, :, None].astype(np.float32)
        return {
            "inputs": (values / np.float32(255) - np.float32(MEAN)) / np.float32(STD),
            "boxes": kept.boxes[indices],
            "labels": kept.labels[indices],
            "mask": kept.mask[indices],
        }

    prepared = prepared_scenes(section)
    return Source(
        length=length,
        take=take,
        info={"classes": CLASSES, "class_names": prepared["class_names"]},
        fingerprint=fingerprint("digit_scenes", str(section.data_seed), str(split), str(section.side), glyphs, labels),
        prepared=prepared,
    )


# -- drawing --------------------------------------------------------------------------------------


def draw_scene(glyphs: np.ndarray, labels: np.ndarray, side: int, rng: np.random.Generator) -> Scene:
    """Draws 1 to 6 digits on a canvas of its own.

    Args:
      glyphs: ink float32 `[N, 8, 8]` in 0..1.
      labels: integers `[N]`.
      side: of the canvas in pixels, S.
      rng: decides all of it.
    """
    canvas = _background(side, rng)
    boxes, kinds, mask = np.zeros((MOST, 4), np.float32), np.zeros(MOST, np.int32), np.zeros(MOST, np.float32)
    count = int(rng.integers(1, MOST + 1))
    ink_light = rng.random() < 0.5  # light digits on dark ground, or dark ones on light
    if not ink_light:
        canvas = 1 - canvas
    for _ in range(_TRIES * MOST):
        done = int(mask.sum())
        if done == count:
            break
        chosen = int(rng.integers(len(glyphs)))
        glyph, (height, width) = _sized(glyphs[chosen], rng)
        top, left = int(rng.integers(0, side - height + 1)), int(rng.integers(0, side - width + 1))
        box = np.array([left, top, left + width, top + height], np.float32)
        if done and _covered(box, boxes[:done]) > OVERLAP:
            continue
        part = canvas[top : top + height, left : left + width]
        strength = rng.uniform(0.75, 1.0) * glyph
        part += strength * ((1.0 if ink_light else 0.0) - part)
        boxes[done], kinds[done], mask[done] = box, labels[chosen], 1
    _strokes(canvas, rng, int(rng.integers(0, 3)), strength=0.5)
    canvas += rng.normal(0, rng.uniform(0.01, 0.06), canvas.shape).astype(np.float32)
    return Scene((np.clip(canvas, 0, 1) * 255).round().astype(np.uint8), boxes, kinds, mask)


def _sized(glyph: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
    """A glyph of a random size and proportion, cut to its ink."""
    size = rng.uniform(SMALLEST, LARGEST)
    stretch = rng.uniform(0.85, 1.15)
    height, width = (int(np.clip(round(size * by), SMALLEST, LARGEST)) for by in (stretch, 1 / stretch))
    large = np.clip(_interpolation(height) @ glyph @ _interpolation(width).T, 0, 1)
    rows, columns = (np.flatnonzero((large >= _INK).any(axis)) for axis in (1, 0))
    cut = large[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cut, cut.shape


def _interpolation(size: int) -> np.ndarray:
    """The matrix `[size, 8]` that stretches 8 pixels linearly to a number of them."""
    at = np.clip((np.arange(size) + 0.5) * 8 / size - 0.5, 0, 7)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(8))).astype(np.float32)


def _covered(box: np.ndarray, others: np.ndarray) -> float:
    """The largest share of a box, or of another one, that both have in common."""
    size = np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0)
    areas = np.prod(others[:, 2:] - others[:, :2], 1)
    return float(np.max(np.prod(size, 1) / np.minimum(areas, np.prod(box[2:] - box[:2]))))


def _background(side: int, rng: np.random.Generator) -> np.ndarray:
    """A gradient with blobs and lines, dark, float32 `[side, side]` in 0..1."""
    y, x = (axis.astype(np.float32) for axis in np.mgrid[0:side, 0:side])
    angle, low, high = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.2), rng.uniform(0.05, 0.4)
    ramp = (np.cos(angle) * x + np.sin(angle) * y) / side
    ramp -= ramp.min()
    canvas = (low + (high - low) * ramp / max(float(ramp.max()), 1e-6)).astype(np.float32)
    for _ in range(int(rng.integers(0, 4))):
        centre, radius = rng.uniform(0, side, 2), rng.uniform(side / 16, side / 5)
        distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
        canvas += np.float32(rng.uniform(-0.15, 0.25)) * np.exp(-distance / np.float32(2 * radius**2))
    _strokes(canvas, rng, int(rng.integers(1, 6)), strength=0.6)
    return np.clip(canvas, 0, 1)


def _strokes(canvas: np.ndarray, rng: np.random.Generator, count: int, strength: float) -> None:
    """Draws short lines of any grey, which are parts of no digit."""
    side = canvas.shape[0]
    y, x = (axis.astype(np.float32) for axis in np.mgrid[0:side, 0:side])
    for _ in range(count):
        start, angle, length = rng.uniform(0, side, 2), rng.uniform(0, np.pi), rng.uniform(side / 8, side / 2)
        along = (x - start[0]) * np.cos(angle) + (y - start[1]) * np.sin(angle)
        across = np.abs(-(x - start[0]) * np.sin(angle) + (y - start[1]) * np.cos(angle))
        thickness = rng.uniform(0.5, 1.2)
        shape = np.clip(thickness + 0.5 - across, 0, 1) * ((along >= 0) & (along <= length))
        canvas += (strength * shape * (rng.uniform(0.2, 1.0) - canvas)).astype(np.float32)


DIGIT_SCENES = Reader(open=lambda section, _task, _prepared: open_digit_scenes(section), inputs=object_inputs)
