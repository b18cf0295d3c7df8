"""`metrics/matches.py` against faster-coco-eval: the same images, and images that are counted several times."""

import numpy as np
import pytest

from jaxprop.metrics.average_precision import finish
from jaxprop.metrics.matches import average_precisions, match

IMAGES, OBJECTS, FOUND, CLASSES = 12, 4, 9, 3


def boxes_of(rng, *shape):
    low = rng.uniform(0, 20, (*shape, 2))
    return np.concatenate([low, low + rng.uniform(1, 15, (*shape, 2))], -1).astype(np.float32)


def rows_of(seed):
    """Random objects; half of the boxes that are found lie near one. Boxes of two images may score the same."""
    rng = np.random.default_rng(seed)
    object_ = rng.random((IMAGES, OBJECTS)) < 0.7
    crowd = ~object_ & (rng.random((IMAGES, OBJECTS)) < 0.5)
    true = {
        "boxes": boxes_of(rng, IMAGES, OBJECTS),
        "classes": rng.integers(0, CLASSES, (IMAGES, OBJECTS)),
        "object": object_,
        "crowd": crowd,
    }
    near = rng.integers(0, OBJECTS, (IMAGES, FOUND))
    shaken = np.take_along_axis(true["boxes"], near[..., None], 1) + rng.normal(0, 0.7, (IMAGES, FOUND, 4))
    shaken[..., 2:] = np.maximum(shaken[..., 2:], shaken[..., :2] + 0.5)
    own = rng.random((IMAGES, FOUND)) < 0.5
    found = {
        "boxes": np.where(own[..., None], shaken, boxes_of(rng, IMAGES, FOUND)).astype(np.float32),
        "classes": np.where(own, np.take_along_axis(true["classes"], near, 1), rng.integers(0, 4, (IMAGES, FOUND))),
        "scores": rng.permuted(np.tile(np.linspace(0.1, 1, FOUND), (IMAGES, 1)), axis=1).astype(np.float32),
    }
    return {"true": true, "found": found}


def chosen(rows, which):
    return {side: {name: x[which] for name, x in values.items()} for side, values in rows.items()}


@pytest.mark.parametrize("seed", range(8))
def test_each_image_once_is_the_library(seed):
    rows = rows_of(seed)
    figures = average_precisions(**rows)(np.ones(IMAGES, np.int64))
    assert figures == pytest.approx(finish(rows), abs=1e-9)
    assert 0 < figures["map"] < figures["map_50"] < 1


@pytest.mark.parametrize("seed", range(8))
def test_images_that_count_several_times_are_those_images_repeated(seed):
    rows, rng = rows_of(seed), np.random.default_rng(seed + 100)
    figures = average_precisions(**rows)
    for _ in range(4):
        drawn = np.sort(rng.integers(0, IMAGES, IMAGES))
        expected = finish(chosen(rows, drawn))
        assert figures(np.bincount(drawn, minlength=IMAGES)) == pytest.approx(expected, abs=1e-9)


def test_without_objects_there_is_no_figure():
    figures = average_precisions(**rows_of(0))(np.zeros(IMAGES, np.int64))
    assert np.isnan([figures["map"], figures["map_50"]]).all()


def test_a_crowd_matches_any_number_of_boxes_and_counts_for_none():
    box = np.array([[0.0, 0.0, 4.0, 4.0]])
    hit, ignored = match(np.repeat(box, 3, 0), np.array([[0.0, 0.0, 40.0, 40.0]]), np.array([True]))
    assert hit.all()
    assert ignored.all()
