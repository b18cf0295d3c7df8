"""Mirror images and how often they are made."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.data.augment.flip import flip


def test_both_ways_by_their_probabilities_and_independently():
    image = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    batch = {"inputs": jnp.broadcast_to(image, (4000, *image.shape))}
    mirrored = jax.jit(lambda key: flip(key, batch, horizontal=0.25, vertical=0.6))(jax.random.key(0))
    found = np.asarray(mirrored["inputs"])
    four = np.stack([image, image[:, ::-1], image[::-1], image[::-1, ::-1]])
    same = (found[:, None] == four[None]).all((2, 3, 4))
    assert (same.sum(1) == 1).all()
    np.testing.assert_allclose(same.mean(0), [0.75 * 0.4, 0.25 * 0.4, 0.75 * 0.6, 0.25 * 0.6], atol=0.03)


def test_by_default_left_and_right_are_exchanged_in_half_of_the_images():
    image = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    found = np.asarray(flip(jax.random.key(0), {"inputs": jnp.broadcast_to(image, (2000, 3, 4, 1))})["inputs"])
    turned = (found == image[:, ::-1]).all((1, 2, 3))
    assert ((found == image).all((1, 2, 3)) | turned).all()
    np.testing.assert_allclose(turned.mean(), 0.5, atol=0.04)
