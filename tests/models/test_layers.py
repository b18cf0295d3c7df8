"""Layers against their plain forms."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn import initializers

from jaxprop.config.schema import model as schema
from jaxprop.models.layers import (
    ACTIVATIONS,
    INITS,
    BatchNorm,
    Embed,
    GroupNorm,
    LayerNorm,
    RmsNorm,
    dense,
    max_pool,
    max_pool_3x3,
    mean_over,
    product,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 5, 5, 3), (1, 1, 1, 2), (2, 3, 6, 1)])
def test_max_pool(shape):
    x = RNG.normal(size=shape).astype(np.float32)
    _, h, w, _ = shape
    expected = [[x[:, i : i + 2, j : j + 2].max((1, 2)) for j in range(0, w, 2)] for i in range(0, h, 2)]
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), np.moveaxis(np.array(expected), 2, 0))


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 5, 5, 3), (1, 1, 1, 2), (2, 3, 6, 1), (1, 2, 1, 1)])
def test_max_pool_of_three_with_a_stride_of_two(shape):
    x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))

    def windows(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)

    np.testing.assert_array_equal(max_pool_3x3(x), windows(x))
    ours, plain = (jax.grad(lambda x, pool=pool: jnp.sum(jnp.sin(pool(x))))(x) for pool in (max_pool_3x3, windows))
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


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


def test_rms_norm_equals_flax_and_the_formula():
    x = np.random.default_rng(0).normal(2.0, 3.0, (6, 4)).astype(np.float32)
    norm = RmsNorm(4)
    norm.scale[...] = jnp.arange(1.0, 5.0)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.arange(1.0, 5.0)
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-5)
    np.testing.assert_allclose(RmsNorm(4)(jnp.asarray(x)), nnx.RMSNorm(4, rngs=nnx.Rngs(0))(x), rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_equals_flax(groups):
    x = jnp.asarray(RNG.normal(2.0, 3.0, (3, 5, 2, 4)), jnp.float32)
    flax = nnx.GroupNorm(4, num_groups=groups, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(GroupNorm(4, groups)(x), flax(x), atol=1e-5)
    assert jnp.all(GroupNorm(4, groups, scale=0.0)(x) == 0)
    assert jnp.all(BatchNorm(4, scale=0.0)(x) == 0)


@pytest.mark.parametrize("norm", [lambda: RmsNorm(4), lambda: GroupNorm(4, 2)], ids=["rms", "group"])
def test_statistics_are_wider_than_bfloat16(norm):
    x = RNG.normal(30.0, 1.0, (2, 64, 4)).astype(np.float32)
    low = jnp.asarray(x, jnp.bfloat16)
    found = norm()(low)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), norm()(low.astype(jnp.float32)), rtol=1e-2, atol=1e-2)


def test_a_mean_over_what_is_real():
    x = np.array([[[1.0], [3.0], [np.nan]], [[5.0], [np.nan], [np.nan]]], np.float32)
    mask = jnp.array([[True, True, False], [False, False, False]])
    assert mean_over(jnp.asarray(x), mask).tolist() == [[2.0], [0.0]]
    gradient = jax.grad(lambda x: mean_over(x, mask).sum())(jnp.asarray(x))
    np.testing.assert_allclose(gradient[..., 0], [[0.5, 0.5, 0], [0, 0, 0]])


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
