"""Boxes and squares that are cut out: their sizes and places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxprop.data.augment.boxes import cutout, inside
from jaxprop.errors import ShapeError

KEY = jax.random.key(0)


def test_a_box_around_each_pixel_is_as_likely_as_any_other():
    """Of 3 by 2, on images of 4 by 6: its mask is one of 24, cut off at the edges."""
    count = 2400
    found = np.asarray(inside(KEY, jnp.zeros((count, 4, 6, 3)), jnp.full(count, 3), jnp.full(count, 2)))[..., 0]
    boxes = []
    for row in range(4):
        for column in range(6):
            box = np.zeros((4, 6), bool)
            box[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 1] = True
            boxes.append(box)
    same = (found[:, None] == np.stack(boxes)[None]).all((2, 3))
    assert (same.sum(1) == 1).all()
    assert stats.chisquare(same.sum(0)).pvalue > 1e-3


def test_each_image_has_a_box_of_its_own_size():
    sizes = jnp.array([0, 1, 4])
    found = inside(KEY, jnp.zeros((3, 4, 4, 1)), jnp.minimum(sizes, 2), 2 * sizes)
    assert found.shape == (3, 4, 4, 1)
    assert not found[0].any()
    assert 1 <= int(found[1].sum()) <= 2
    assert int(found[2].any((0, 2)).sum()) == 4  # wider than the image wherever it lies


def test_squares_are_filled_in_some_of_the_images():
    batch = {"inputs": jnp.ones((2000, 6, 6, 2))}
    found = np.asarray(jax.jit(lambda key: cutout(key, batch, size=3, fill=-0.5, probability=0.3))(KEY)["inputs"])
    lost = found == -0.5
    assert ((found == 1) | lost).all()
    np.testing.assert_array_equal(lost[..., 0], lost[..., 1])
    count = lost[..., 0].sum((1, 2))
    assert count.max() == 9
    assert count[count > 0].min() == 4  # around the pixel of a corner
    np.testing.assert_allclose((count > 0).mean(), 0.3, atol=0.03)


def test_a_square_larger_than_the_images():
    with pytest.raises(ShapeError, match=r"cutout: expected size at most the side of the images \(5\), got 6"):
        cutout(KEY, {"inputs": jnp.zeros((1, 8, 5, 1))}, size=6)
