"""Scenes of digits: the same by their seed, from glyphs of their own split, and with boxes that hold the ink."""

import numpy as np
import pytest

from jaxprop.config.schema.data import DigitScenes
from jaxprop.data.readers import digit_scenes
from jaxprop.data.readers.digit_scenes import MOST, OVERLAP, open_digit_scenes
from jaxprop.errors import DataError


def section(**options):
    return DigitScenes(name="digit_scenes", examples=64, test_examples=64, **options)


def test_a_scene_depends_on_its_index_alone():
    whole = open_digit_scenes(section())["train"].take(np.arange(8))
    again = open_digit_scenes(section())["train"]
    for index in (5, 2):
        for name, values in again.take(np.array([index])).items():
            np.testing.assert_array_equal(values[0], whole[name][index])
    other = open_digit_scenes(section(data_seed=1))["train"]
    assert other.fingerprint != again.fingerprint
    assert not np.array_equal(other.take(np.arange(8))["labels"], whole["labels"])


def test_boxes_lie_in_the_image_with_one_to_six_digits_of_all_classes_and_sizes():
    batch = open_digit_scenes(section())["train"].take(np.arange(64))
    counts = batch["mask"].sum(1)
    assert counts.min() >= 1
    assert counts.max() == MOST
    boxes = batch["boxes"][batch["mask"] > 0]
    assert boxes.min() >= 0
    assert boxes.max() <= 64
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() >= 4
    assert np.ptp(sides.max(1)) > 10
    assert set(batch["labels"][batch["mask"] > 0].tolist()) == set(range(10))
    assert not batch["boxes"][batch["mask"] == 0].any()


def test_digits_cover_each_other_a_little_and_some_do():
    batch = open_digit_scenes(section())["train"].take(np.arange(64))
    shares = []
    for boxes, mask in zip(batch["boxes"], batch["mask"], strict=True):
        real = boxes[mask > 0]
        for i, a in enumerate(real):
            for b in real[:i]:
                common = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
                shares.append(common / min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])))
    assert 0 < max(shares) <= OVERLAP


def test_the_glyphs_of_the_test_scenes_are_in_no_training_scene(monkeypatch):
    drawn = {}

    def remember(glyphs, labels, config, length, split):
        drawn[split] = {glyph.tobytes() for glyph in glyphs}

    monkeypatch.setattr(digit_scenes, "_source", remember)
    open_digit_scenes(section(validation=0.25))
    assert len(drawn[0]) > 1000
    assert len(drawn[1]) > 300
    assert len(drawn[2]) > 100
    assert not drawn[0] & drawn[1] | drawn[0] & drawn[2] | drawn[1] & drawn[2]


def test_validation_scenes_are_taken_from_the_number_of_training_scenes_and_leave_the_test_as_it_is():
    whole, parted = open_digit_scenes(section()), open_digit_scenes(section(validation=0.25))
    assert {split: source.length for split, source in parted.items()} == {"train": 48, "test": 64, "validation": 16}
    assert parted["test"].fingerprint == whole["test"].fingerprint
    assert len({source.fingerprint for source in (*parted.values(), whole["train"])}) == 4
    first = {split: source.take(np.arange(2))["inputs"] for split, source in parted.items()}
    assert not np.array_equal(first["train"], first["validation"])


def test_no_training_scene_left_is_named():
    with pytest.raises(DataError, match=r"data\.validation: 0\.99 of the 4 scenes leaves none"):
        open_digit_scenes(section(validation=0.99).model_copy(update={"examples": 4}))


def test_too_small_a_canvas_is_named():
    with pytest.raises(DataError, match=r"data\.side: expected at least 28 pixels"):
        open_digit_scenes(section(side=20))
