"""Crops: each a window of the padded image, all windows equally likely."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxprop.data.augment.crop import PADDING, crop
from jaxprop.errors import ShapeError

PAD = 2
KEY = jax.random.key(0)


def windows(image, mode):
    """Every window of a padded image, by NumPy, `[(2 pad + 1)^2, H, W, C]`."""
    padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), mode=PADDING[mode])
    places = range(2 * PAD + 1)
    return np.stack([padded[i : i + image.shape[0], j : j + image.shape[1]] for i in places for j in places])


@pytest.mark.parametrize("mode", PADDING)
def test_every_window_is_as_likely_as_any_other(mode):
    image = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    batch = {"inputs": jnp.broadcast_to(image, (2500, *image.shape))}
    found = np.asarray(jax.jit(lambda key: crop(key, batch, pad=PAD, mode=mode))(KEY)["inputs"])
    same = (found[:, None] == windows(image, mode)[None]).all((2, 3, 4))  # [2500, 25]
    assert (same.sum(1) == 1).all()
    assert stats.chisquare(same.sum(0)).pvalue > 1e-3


def test_padding_that_leaves_nothing_of_an_image():
    with pytest.raises(ShapeError, match=r"crop: expected pad below the side of the images \(3\), got 3"):
        crop(KEY, {"inputs": jnp.zeros((1, 8, 3, 1))}, pad=3)
