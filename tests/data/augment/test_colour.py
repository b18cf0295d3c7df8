"""Colours: what each change keeps, and how far it goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxprop.data.augment.colour import GREY, RGB, YIQ, colour
from jaxprop.errors import ShapeError

KEY = jax.random.key(0)
COUNT = 1000
IMAGES = np.random.default_rng(0).uniform(0, 1, (COUNT, 2, 3, 3)).astype(np.float32)
PIXELS = IMAGES.reshape(COUNT, -1, 3)


def changed(images=IMAGES, **settings):
    found = jax.jit(lambda key: colour(key, {"inputs": jnp.asarray(images)}, **settings))(KEY)["inputs"]
    return np.asarray(found, np.float64).reshape(COUNT, -1, images.shape[-1])


def factors(found, start, middle):
    """The factor of each image, after checking that it has one."""
    found = (found - middle) / (start - middle)
    factor = np.median(found.reshape(COUNT, -1), 1)
    np.testing.assert_allclose(found - factor[:, None, None], 0, atol=0.02)
    return factor


def test_brightness():
    factor = factors(changed(brightness=0.3), PIXELS, 0)
    assert stats.kstest(factor, stats.uniform(0.7, 0.6).cdf).pvalue > 1e-3
    assert changed(brightness=0.3).mean() == pytest.approx(PIXELS.mean(), rel=0.02)


def test_contrast_keeps_the_mean_of_each_image():
    found, means = changed(contrast=0.4), PIXELS.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(found.mean((1, 2), keepdims=True), means, rtol=1e-5)
    apart = np.where(np.abs(PIXELS - means) > 0.05, PIXELS - means, np.nan)
    factor = np.nanmedian((found - means) / apart, (1, 2))
    np.testing.assert_allclose(found, means + factor[:, None, None] * (PIXELS - means), atol=1e-5)
    assert stats.kstest(factor, stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3


def test_saturation_keeps_the_grey_of_each_pixel():
    found, grey = changed(saturation=0.5), (PIXELS @ GREY)[..., None]
    np.testing.assert_allclose(found @ GREY, grey[..., 0], rtol=1e-4)
    slope = np.sum((found - grey) * (PIXELS - grey), (1, 2)) / np.sum((PIXELS - grey) ** 2, (1, 2))
    np.testing.assert_allclose(found, grey + slope[:, None, None] * (PIXELS - grey), atol=1e-4)
    assert stats.kstest(slope, stats.uniform(0.5, 1).cdf).pvalue > 1e-3


def test_hue_turns_colours_and_keeps_grey_and_saturation():
    found = changed(hue=0.1)
    before, after = PIXELS @ YIQ.T, found @ YIQ.T
    np.testing.assert_allclose(after[..., 0], before[..., 0], atol=1e-5)
    before, after = (x[..., 1] + 1j * x[..., 2] for x in (before, after))  # angle: hue, radius: saturation
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=1e-5)
    angle = np.angle(after / before) / (2 * np.pi)
    turn = np.median(angle, 1)
    np.testing.assert_allclose(angle - turn[:, None], 0, atol=1e-3)
    assert stats.kstest(turn, stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3
    np.testing.assert_allclose(YIQ @ RGB, np.eye(3), atol=1e-12)


def test_images_without_colour_have_brightness_and_contrast():
    grey = IMAGES[..., :1]
    assert changed(grey, brightness=0.5, contrast=0.5).shape == (COUNT, 6, 1)
    for settings in ({"hue": 0.1}, {"saturation": 0.1}):
        with pytest.raises(ShapeError, match=r"saturation and hue need images of 3 channels, got \[1000, 2, 3, 1\]"):
            colour(KEY, {"inputs": grey}, **settings)
