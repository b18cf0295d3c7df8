"""Points and the objects that they answer for, against a loop in NumPy and in cases that are easily got wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.losses.assignment import RADIUS, REACH, assign


def grid(side, strides=(4, 8, 16)):
    found = []
    for s in strides:
        cells = -(-side // s)
        found += [((x + 0.5) * s, (y + 0.5) * s, s) for y in range(cells) for x in range(cells)]
    return np.array(found, np.float32)


def by_loop(points, boxes, mask, crowd):
    box, positive, ignored = [], [], []
    finest, coarsest = points[:, 2].min(), points[:, 2].max()
    for x, y, s in points.tolist():
        fits, within = [], False
        for n, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            inside = x0 < x < x1 and y0 < y < y1
            within |= bool(crowd[n]) and inside
            if not mask[n]:
                continue
            side, cx, cy = max(x1 - x0, y1 - y0), (x0 + x1) / 2, (y0 + y1) / 2
            lowest, highest = 0 if s == finest else REACH * s / 2, np.inf if s == coarsest else REACH * s
            near = max(abs(x - cx), abs(y - cy)) <= RADIUS * s
            cell = x - s / 2 <= cx < x + s / 2 and y - s / 2 <= cy < y + s / 2
            if lowest < side <= highest and ((inside and near) or cell):
                fits.append(((x1 - x0) * (y1 - y0), n))
        positive.append(bool(fits))
        box.append(min(fits)[1] if fits else 0)
        ignored.append(within and not fits)
    return np.array(box), np.array(positive), np.array(ignored)


@pytest.mark.parametrize("seed", range(4))
def test_is_that_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    points = grid(64)
    corner = rng.uniform(0, 40, (7, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.uniform(1, 50, (7, 2)), 64)], 1).astype(np.float32)
    mask, crowd = np.array([1, 1, 1, 1, 1, 0, 0]), np.array([0, 0, 0, 0, 0, 1, 0])
    found = jax.jit(assign)(points, boxes, mask, crowd)
    box, positive, ignored = by_loop(points, boxes, mask, crowd)
    assert positive.any()
    assert ignored.any()
    np.testing.assert_array_equal(found.positive, positive)
    np.testing.assert_array_equal(found.box, box)
    np.testing.assert_array_equal(found.ignored, ignored)


@pytest.mark.parametrize("side", [0.01, 1.0, 3.9, 17.0, 63.0])
@pytest.mark.parametrize("place", [(0.0, 0.0), (8.0, 8.0), (11.3, 5.7)])
def test_every_object_has_a_point(side, place):
    """However small, and with its centre on an edge between two cells."""
    box = jnp.array([[*place, min(place[0] + side, 64), min(place[1] + side, 64)]])
    assert assign(grid(64), box, jnp.ones(1)).positive.sum() >= 1


def test_of_two_objects_the_smaller_takes_the_points_of_both():
    boxes = jnp.array([[1.0, 1.0, 15.0, 14.0], [2.0, 2.0, 14.0, 14.0]])
    points = grid(32, (4, 8))
    both = assign(points, boxes, jnp.ones(2))
    large, small = (np.asarray(assign(points, box[None], jnp.ones(1)).positive) for box in boxes)
    assert (large & small).sum() > 3
    np.testing.assert_array_equal(both.positive, large | small)
    np.testing.assert_array_equal(np.asarray(both.box)[small], 1)
    np.testing.assert_array_equal(np.asarray(both.box)[large & ~small], 0)


def test_an_empty_slot_may_hold_anything():
    boxes = jnp.array([[4.0, 4.0, 14.0, 12.0], [jnp.nan, jnp.inf, 0.0, 1.0]])
    found = assign(grid(32, (4, 8)), boxes, jnp.array([1, 0]), jnp.zeros(2))
    alone = assign(grid(32, (4, 8)), boxes[:1], jnp.array([1]))
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one, other)
