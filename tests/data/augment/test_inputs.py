"""Draws of one number an example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxprop.data.augment.inputs import along, symmetric


@pytest.mark.parametrize("shape", [(4000,), (4000, 1), (4000, 1, 1, 1)])
def test_numbers_are_uniform_between_minus_1_and_1(shape):
    drawn = symmetric(jax.random.key(0), jnp.zeros(shape))
    assert drawn.shape == shape
    assert stats.kstest(np.ravel(drawn), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_they_are_drawn_in_float32_for_halves():
    assert symmetric(jax.random.key(0), jnp.zeros((3, 2), jnp.bfloat16)).dtype == jnp.float32


def test_numbers_go_along_with_examples():
    assert (along(jnp.arange(2.0), jnp.zeros((2, 3))) + jnp.zeros((2, 3))).tolist() == [[0] * 3, [1] * 3]
