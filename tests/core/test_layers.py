"""Sums over the layers of a tree against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core import layers
from jaxprop.core.layers import gradient_counts, group_layers, norm
from tests.steps import entries

RNG = np.random.default_rng(0)
SHAPES = {
    "alike": [(3, 5)] * 3,
    "of several shapes": [(3, 5), (7,), (2, 3, 4), ()],
    "empty": [(0,), (3, 0), (4,)],
    "longer than a line": [(5000,), (4096,), (4097,), (2, 8192), (3, 2049)],
    "too large to stack": [(300, 300), (300, 300), (2, 2)],
}
DTYPES = [np.float32, np.float16, jnp.bfloat16]


def tree_of(shapes, dtype, two_leaves=True):
    """Layers of one or two leaves, with zeros, and NaN and infinities of both signs here and there."""
    tree = {}
    for i, shape in enumerate(shapes):
        x = RNG.normal(size=shape)
        x = np.where(RNG.random(shape) < 0.3, 0, x)
        tree[f"l{i}"] = {"a": np.asarray(x).astype(dtype)}
        if two_leaves and i % 2:
            tree[f"l{i}"]["b"] = np.zeros(3, dtype)
    return tree


def spoiled(tree):
    def spoil(x):
        bad = np.where(RNG.random(x.shape) < 0.5, np.nan, -np.inf)
        return np.where(RNG.random(x.shape) < 0.01, bad, x).astype(x.dtype)

    return jax.tree.map(spoil, tree)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("case", SHAPES)
def test_norms_and_counts_of_layers_of_every_shape(case, dtype):
    tree = tree_of(SHAPES[case], dtype)
    groups = group_layers(tree)
    assert groups.sizes == tuple(len(x) for x in entries(tree))
    (squares,) = jax.jit(lambda t: layers.squares(groups, t))(tree)
    np.testing.assert_allclose(squares, [np.sum(x**2) for x in entries(tree)], rtol=1e-5)
    bad = spoiled(tree)
    nonfinite, zeros = jax.jit(lambda t: gradient_counts(groups, t))(bad)
    expected = entries(bad)
    assert nonfinite.tolist() == [np.sum(~np.isfinite(x)) for x in expected]
    shares = [np.mean(x == 0) if len(x) else np.nan for x in expected]
    np.testing.assert_allclose(zeros, shares, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2047, 2048, 2049, 4095, 4096, 4097, 12_288])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1.0])
def test_a_line_of_one_value_is_counted_to_the_last_entry(n, value):
    tree = {"w": np.full((2, n), value, np.float32)}
    nonfinite, zeros = gradient_counts(group_layers(tree), tree)
    assert nonfinite.tolist() == [0 if np.isfinite(value) else 2 * n]
    assert zeros.tolist() == [float(value == 0)]


def test_layers_of_one_shape_are_reduced_together():
    tree = tree_of([(4, 4)] * 20, np.float32, two_leaves=False)
    reductions = [
        e for e in jax.make_jaxpr(lambda t: layers.squares(group_layers(t), t))(tree).eqns if "reduce_sum" in str(e)
    ]
    assert len(reductions) == 1


LONG = {"one": [2**20 + 3], "two": [2**20, 2**21 + 1], "many of many": [3000] * 200, "more than a chunk": [2**19] * 9}


@pytest.mark.parametrize("case", LONG)
def test_a_nan_in_one_layer_stays_out_of_every_other_row(case):
    tree = {f"l{i}": np.ones(n, np.float32) for i, n in enumerate(LONG[case])}
    tree["l0"][-1] = np.nan
    tree["z"] = np.zeros(2, np.float32)
    groups = group_layers(tree)
    (squares,), (nonfinite, zeros) = jax.jit(lambda t: (layers.squares(groups, t), gradient_counts(groups, t)))(tree)
    np.testing.assert_array_equal(squares, [np.nan, *LONG[case][1:], 0])
    np.testing.assert_array_equal(nonfinite, [1] + [0] * len(LONG[case]))
    np.testing.assert_array_equal(zeros, [0] * len(LONG[case]) + [1])
    assert np.isnan(norm(tree))


def test_a_stack_has_a_row_for_each_of_its_layers():
    tree = {"b": {"w": RNG.normal(size=(3, 4, 5)), "s": RNG.normal(size=3)}, "h": {"w": RNG.normal(size=(2, 2))}}
    tree = jax.tree.map(lambda x: np.where(RNG.random(x.shape) < 0.3, 0, x).astype(np.float32), tree)
    groups = group_layers(tree, [3, 3, None])
    assert groups.names == ("b[0]", "b[1]", "b[2]", "h")
    assert groups.sizes == (21, 21, 21, 4)
    rows = [np.append(tree["b"]["w"][i].ravel(), tree["b"]["s"][i]) for i in range(3)] + [tree["h"]["w"].ravel()]
    np.testing.assert_allclose(layers.squares(groups, tree)[0], [np.sum(x**2) for x in rows], rtol=1e-6)
    np.testing.assert_allclose(gradient_counts(groups, tree)[1], [np.mean(x == 0) for x in rows], rtol=1e-6)


def test_a_stack_may_share_its_owner_with_a_leaf_that_is_none():
    tree = {"b": {"scale": np.ones(2, np.float32), "w": np.ones((2, 3), np.float32)}}
    groups = group_layers(tree, [None, 2])
    assert dict(zip(groups.names, groups.sizes, strict=True)) == {"b": 2, "b[0]": 3, "b[1]": 3}
    assert layers.squares(groups, tree)[0].tolist() == [2, 3, 3]
