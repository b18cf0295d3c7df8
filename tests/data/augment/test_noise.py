"""Noise: its distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxprop.data.augment.noise import noise


@pytest.mark.parametrize("shape", [(4000,), (40, 100), (10, 20, 20, 1)])
def test_noise_is_normal(shape):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 4000
    found = np.asarray(noise(jax.random.key(1), {"inputs": jnp.asarray(x)}, std=0.5)["inputs"]) - x
    assert stats.kstest(found.ravel(), stats.norm(0, 0.5).cdf).pvalue > 1e-3
