"""Average precision of weighted images: equal to the library's on images that are repeated."""

import jax
import numpy as np
import pytest

from jaxprop.metrics.average_precision import finish
from jaxprop.metrics.matched_boxes import match, precision


def rows(rng, images=12, objects=4, found=9, classes=3, crowds=0.2):
    """Random objects, and boxes of which half are near an object."""

    def boxes(count):
        corner = rng.uniform(0, 40, size=(images, count, 2))
        return np.concatenate([corner, corner + rng.uniform(4, 24, size=(images, count, 2))], -1)

    true = boxes(objects)
    told = np.concatenate(
        [np.repeat(true, 2, 1)[:, : found - 3] + rng.normal(0, 1.5, (images, found - 3, 4)), boxes(3)], 1
    )
    crowd = rng.random((images, objects)) < crowds
    held = rng.random((images, objects)) < 0.8
    kinds = rng.integers(0, classes, (images, objects))
    guessed = np.concatenate([np.repeat(kinds, 2, 1)[:, : found - 3], rng.integers(0, classes, (images, 3))], 1)
    scores = rng.random((images, found)) * (rng.random((images, found)) < 0.9)
    return {
        "found": {"boxes": told.astype(np.float32), "scores": scores.astype(np.float32), "classes": guessed},
        "true": {"boxes": true.astype(np.float32), "classes": kinds, "object": held & ~crowd, "crowd": held & crowd},
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_weights_are_repetitions(seed):
    """The library measures an image twice where it stands twice; a weight of 2 says the same."""
    rng = np.random.default_rng(seed)
    given = rows(rng, crowds=0.3 * (seed % 2))
    kinds = match(given)
    every = finish(given)
    assert precision(kinds, np.ones(12, np.int64)) == pytest.approx(every, abs=1e-9)
    assert 0.05 < every["map"] < 0.9
    for _ in range(4):
        weights = np.bincount(rng.integers(0, 12, 12), minlength=12)
        chosen = np.repeat(np.arange(12), weights)
        repeated = jax.tree.map(lambda x, chosen=chosen: x[chosen], given)
        assert precision(kinds, weights) == pytest.approx(finish(repeated), abs=1e-9)


def test_images_without_objects_have_no_figure():
    given = rows(np.random.default_rng(0))
    given["true"]["object"][3:] = False
    kinds = match(given)
    weights = np.zeros(12, np.int64)
    weights[5] = 1
    assert np.isnan(precision(kinds, weights)["map"])
    weights[0] = 1
    assert np.isfinite(precision(kinds, weights)["map"])
