"""Layers against their plain forms."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn import initializers

from jaxprop.config.schema import model as schema
from jaxprop.models.layers import ACTIVATIONS, INITS, BatchNorm, Embed, LayerNorm, dense, max_pool, product

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 5, 5, 3), (1, 1, 1, 2), (2, 3, 6, 1)])
def test_max_pool(shape):
    x = RNG.normal(size=shape).astype(np.float32)
    _, h, w, _ = shape
    expected = [[x[:, i : i + 2, j : j + 2].max((1, 2)) for j in range(0, w, 2)] for i in range(0, h, 2)]
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), np.moveaxis(np.array(expected), 2, 0))


def test_batch_norm_equals_flax_without_padding():
    x = jnp.asarray(RNG.normal(2.0, 3.0, (6, 5, 4)), jnp.float32)
    ours, flax = BatchNorm(4), nnx.BatchNorm(4, momentum=0.9, use_fast_variance=False, rngs=nnx.Rngs(0))
    for weight in (None, jnp.ones(6)):
        np.testing.assert_allclose(ours(x, weight), flax(x), atol=1e-5)
        np.testing.assert_allclose(ours.var[...], flax.var[...], rtol=1e-5)
        np.testing.assert_allclose(ours.mean[...], flax.mean[...], rtol=1e-5)


def test_batch_norm_of_padding_only_remembers_nothing_and_stays_finite():
    norm = BatchNorm(3)
    assert jnp.all(jnp.isfinite(norm(jnp.ones((2, 3)), jnp.zeros(2))))
    assert (norm.mean[...].tolist(), norm.var[...].tolist()) == ([0, 0, 0], [1, 1, 1])


def test_layer_norm_equals_flax():
    x = jnp.asarray(np.random.default_rng(0).normal(2.0, 3.0, (6, 4)), jnp.float32)
    np.testing.assert_allclose(LayerNorm(4)(x), nnx.LayerNorm(4, rngs=nnx.Rngs(0))(x), atol=1e-5)


def test_flat_products_equal_the_plain_ones():
    x, w = RNG.normal(size=(2, 3, 4)).astype(np.float32), RNG.normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_allclose(product(jnp.asarray(x), jnp.asarray(w)), x @ w, rtol=1e-5)
    layer = dense(4, 5, INITS["he_normal"], bias_init=initializers.ones, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(layer(jnp.asarray(x)), x @ np.asarray(layer.kernel[...]) + 1, rtol=1e-5)


def test_embed_gives_nan_outside_the_vocabulary():
    table = Embed(4, 2, stddev=1.0, rngs=nnx.Rngs(0))
    assert jnp.isnan(table(jnp.array([0, 4, -1]))).tolist() == [[False] * 2, [True] * 2, [True] * 2]


def test_names_are_those_of_the_schema():
    assert set(INITS) == set(get_args(schema.Init))
    assert set(ACTIVATIONS) == set(get_args(schema.Activation))


@pytest.mark.parametrize("name", list(INITS))
def test_an_initializer_has_the_spread_its_name_says(name):
    n_in, n_out = 64, 32
    kernel = INITS[name](jax.random.key(0), (n_in, n_out), jnp.float32)
    fans = {"glorot": (n_in + n_out) / 2, "he": n_in / 2, "lecun": n_in, "orthogonal": n_in}
    family = name.split("_")[0]
    # jax cuts a normal of the given stddev at two of them
    given = {"normal": 0.02, "truncated": 0.02 * 0.88, "zeros": 0}
    expected = fans[family] ** -0.5 if family in fans else given[family]
    assert float(kernel.std()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_batch_statistics_leave_out_whatever_an_example_of_weight_0_holds(bad):
    x, weight = RNG.normal(size=(4, 3)).astype(np.float32), np.array([1, 0, 2, 0.5], np.float32)

    def through(x):
        norm = BatchNorm(3)
        y = jnp.sum(jnp.sin(norm(x, weight)[weight != 0]))
        return y, (norm.mean[...], norm.var[...])

    expected = jax.value_and_grad(through, has_aux=True)(jnp.asarray(x))
    found = jax.value_and_grad(through, has_aux=True)(jnp.asarray(x).at[1].set(bad))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
