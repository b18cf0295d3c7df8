"""Sizes of images: how large they become, and that a larger one fills its frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.data.augment.scale import scale


def test_a_larger_image_fills_the_frame_and_a_smaller_one_lies_within_it():
    ones = {"inputs": jnp.ones((200, 16, 16, 1))}
    larger = scale(jax.random.key(0), ones, smallest=1.1, largest=2.0)["inputs"]
    assert np.min(larger) == pytest.approx(1.0, abs=0.5)  # the outermost pixels may be mixed with what lies beyond
    smaller = np.asarray(scale(jax.random.key(0), ones, smallest=0.5, largest=0.9)["inputs"])
    shares = smaller.mean((1, 2, 3))
    assert 0.2 < shares.min() < 0.35
    assert 0.6 < shares.max() < 0.85


def test_size_one_is_the_image():
    x = np.random.default_rng(0).normal(size=(3, 9, 7, 2)).astype(np.float32)
    same = scale(jax.random.key(0), {"inputs": x}, smallest=1.0, largest=1.0)["inputs"]
    np.testing.assert_allclose(same, x, atol=1e-6)


def test_every_image_has_a_size_of_its_own():
    x = jnp.broadcast_to(jnp.arange(16.0)[None, :, None, None], (8, 16, 16, 1))
    scaled = np.asarray(scale(jax.random.key(0), {"inputs": x}, smallest=0.5, largest=2.0, mode="edge")["inputs"])
    assert len({scaled[i, :, 0, 0].tobytes() for i in range(8)}) == 8
