"""Overlaps of boxes against counted pixels, and non-maximum suppression against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core.boxes import areas, clipped, intersections, ious, suppress


def pixels(box, side=12):
    canvas = np.zeros((side, side), bool)
    x0, y0, x1, y1 = box
    canvas[y0:y1, x0:x1] = True
    return canvas


def some_boxes(rng, count, side=12):
    edges = np.sort(rng.integers(0, side + 1, (count, 2, 2)), axis=1)
    return edges.reshape(count, 4)


def test_overlaps_are_those_of_the_pixels():
    rng = np.random.default_rng(0)
    a, b = some_boxes(rng, 200), some_boxes(rng, 200)
    b[:20] = a[:20]
    common, union = (
        np.array([op(pixels(x), pixels(y)).sum() for x, y in zip(a, b, strict=True)])
        for op in (np.logical_and, np.logical_or)
    )
    first, second = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    np.testing.assert_array_equal(areas(first), [pixels(x).sum() for x in a])
    np.testing.assert_array_equal(intersections(first, second), common)
    np.testing.assert_allclose(ious(first, second), np.where(union > 0, common / np.maximum(union, 1), 0), rtol=1e-6)


def test_what_lies_outside_has_no_area():
    assert areas(clipped(jnp.array([9.0, 1.0, 12.0, 5.0]), height=8, width=6)).item() == 0


def greedy(boxes, scores, classes, threshold):
    """Non-maximum suppression as it is told: one box after the other."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] <= 0:
            continue
        rivals = [j for j in kept if classes[j] == classes[i]]
        if all(float(ious(jnp.asarray(boxes[i]), jnp.asarray(boxes[j]))) <= threshold for j in rivals):
            kept.append(i)
    return np.isin(np.arange(len(boxes)), kept)


@pytest.mark.parametrize("threshold", [0.3, 0.6])
@pytest.mark.parametrize("seed", range(6))
def test_suppression_is_that_of_a_loop(seed, threshold):
    rng = np.random.default_rng(seed)
    count = 24
    corners = rng.uniform(0, 5, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(3, 9, (count, 2))], 1).astype(np.float32)
    scores = rng.choice(np.linspace(0, 1, 9), count).astype(np.float32)  # many of them equal, and some 0
    classes = rng.integers(0, 2, count).astype(np.int32)
    found = jax.jit(suppress, static_argnums=3)(boxes, scores, classes, threshold)
    expected = greedy(boxes, scores, classes, threshold)
    assert 2 < expected.sum() < (scores > 0).sum()
    np.testing.assert_array_equal(found, expected)
