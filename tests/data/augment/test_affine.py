"""Rotations, shifts and sizes: interpolation against SciPy, and the maps that are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from jaxprop.data.augment.affine import affine, interpolated

KEY = jax.random.key(0)
SCIPY = {"zeros": "grid-constant", "edge": "nearest", "reflect": "mirror"}


@pytest.mark.parametrize("mode", SCIPY)
@pytest.mark.parametrize("shape", [(5, 7), (1, 4)])
def test_interpolation(mode, shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, *shape, 2)).astype(np.float32)
    rows, columns = (rng.uniform(-2 * size, 3 * size, (3, 6, 4)).astype(np.float32) for size in shape)
    found = jax.jit(interpolated, static_argnums=3)(x, rows, columns, mode)
    expected = [
        ndimage.map_coordinates(x[b, ..., c], [rows[b], columns[b]], order=1, mode=SCIPY[mode])
        for b in range(3)
        for c in range(2)
    ]
    np.testing.assert_allclose(found, np.reshape(expected, (3, 2, 6, 4)).transpose(0, 2, 3, 1), atol=1e-4)


def maps(**settings):
    """Where the pixels of 600 images come from, `[600, H, W, 2]`: images that hold the place of each pixel."""
    size = 33
    places = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1).astype(np.float32)
    batch = {"inputs": jnp.broadcast_to(places, (600, *places.shape))}
    found = jax.jit(lambda key: affine(key, batch, mode="edge", **settings))(KEY)["inputs"]
    return np.asarray(found, np.float64)


def test_the_map_is_a_rotation_a_shift_and_a_scale_around_the_centre():
    found = maps(degrees=20.0, shift=2.0, scale=0.1)
    middle = found[:, 16, 16]
    down, right = found[:, 20, 16] - middle, found[:, 16, 20] - middle  # [600, 2] for 4 pixels along each axis
    np.testing.assert_allclose(down[:, 0], right[:, 1], atol=1e-3)
    np.testing.assert_allclose(down[:, 1], -right[:, 0], atol=1e-3)
    angles, sizes = np.degrees(np.arctan2(right[:, 0], right[:, 1])), 4 / np.hypot(right[:, 0], right[:, 1])
    assert stats.kstest(angles, stats.uniform(-20, 40).cdf).pvalue > 1e-3
    assert stats.kstest(sizes, stats.uniform(0.9, 0.2).cdf).pvalue > 1e-3
    turn = np.radians(angles)
    moved = (16 - middle) * sizes[:, None]  # turned back, the shift of the image
    cos, sin = np.cos(turn), np.sin(turn)
    for shift in (cos * moved[:, 0] - sin * moved[:, 1], sin * moved[:, 0] + cos * moved[:, 1]):
        assert stats.kstest(shift, stats.uniform(-2, 4).cdf).pvalue > 1e-3


def test_each_setting_by_itself():
    shifted = maps(shift=1.5)
    np.testing.assert_allclose(shifted[:, 20, 20] - shifted[:, 10, 12], [[10, 8]] * 600, atol=1e-4)
    turned, grown = maps(degrees=45.0), maps(scale=0.3)
    for found in (turned, grown):
        np.testing.assert_allclose(found[:, 16, 16], [[16, 16]] * 600, atol=1e-4)
    np.testing.assert_allclose(np.hypot(*(turned[:, 20, 19] - 16).T), 5, atol=1e-3)
    np.testing.assert_allclose(grown[:, 20, 16, 1], 16, atol=1e-3)


def test_what_comes_from_outside_is_zero():
    found = np.asarray(affine(KEY, {"inputs": jnp.ones((50, 9, 9, 1))}, shift=4.0)["inputs"])
    assert found.min() == 0
    assert found.max() == 1
    assert (found[:, 4, 4] == 1).all()
