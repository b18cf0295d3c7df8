"""Pytrees: paths, layers, counts, casts, selection and norms, for every container a user may bring."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop import trees


class Dense(NamedTuple):
    kernel: object
    bias: object


NAMES = [
    (1, ["params"], ["params"], [0]),
    ({"scale": 1}, ["scale"], ["scale"], [0]),
    ({"b": {"w": 1, "a": 2}, "a": 3}, ["a", "b/a", "b/w"], ["a", "b"], [0, 1, 1]),
    ({"blocks": [{"w": 1}, {"w": 2}]}, ["blocks/0/w", "blocks/1/w"], ["blocks/0", "blocks/1"], [0, 1]),
    ({"blocks": {0: 1, 1: 2}}, ["blocks/0", "blocks/1"], ["blocks"], [0, 0]),
    ((Dense(1, 2), 3), ["0/kernel", "0/bias", "1"], ["0", "1"], [0, 0, 1]),
    ({"a": {"w": 1, "z": {"w": 2}, "zz": 3}}, ["a/w", "a/z/w", "a/zz"], ["a", "a/z"], [0, 1, 0]),
    ({}, [], [], []),
    ({"a": None}, [], [], []),
]


@pytest.mark.parametrize(("tree", "paths", "layers", "rows"), NAMES)
def test_paths_and_layers_follow_the_leaves(tree, paths, layers, rows):
    assert trees.leaf_paths(tree) == paths
    assert trees.layer_names(tree) == (layers, rows)
    assert len(rows) == len(jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("tree", "scalars", "size"),
    [
        ({}, 0, 0),
        ({"w": np.zeros((2, 3), np.float32), "b": np.zeros((), np.int32)}, 7, 28),
        ([np.zeros((4, 0), np.float32), np.zeros(5, jnp.bfloat16)], 5, 10),
    ],
)
def test_count_and_bytes(tree, scalars, size):
    assert trees.count(tree) == scalars
    assert trees.size_bytes(tree) == size


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_cast_leaves_all_but_floats_as_they_are(dtype):
    tree = {
        "x": np.ones(2, np.float32),
        "half": jnp.ones(2, jnp.float16),
        "n": np.ones(2, np.int32),
        "b": np.ones(2, bool),
    }
    out = trees.cast_floating(tree, dtype)
    assert {name: leaf.dtype for name, leaf in out.items()} == {"x": dtype, "half": dtype, "n": np.int32, "b": bool}


@pytest.mark.parametrize("pred", [True, False])
def test_select_is_bit_for_bit(pred):
    odd = {"w": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-45]), "n": jnp.array([-7], jnp.int32)}
    even = jax.tree.map(jnp.ones_like, odd)
    out = jax.jit(trees.select)(jnp.array(pred), odd, even)
    for got, wanted in zip(jax.tree.leaves(out), jax.tree.leaves(odd if pred else even), strict=True):
        np.testing.assert_array_equal(np.asarray(got).view(np.uint32), np.asarray(wanted).view(np.uint32))


def test_square_sums_are_the_norms_of_the_layers():
    rng = np.random.default_rng(0)
    tree = {"a": {"b": rng.normal(size=3), "k": rng.normal(size=(2, 3))}, "c": {"k": rng.normal(size=(4, 1))}}
    tree = jax.tree.map(np.float32, tree)
    names, rows = trees.layer_names(tree)
    wanted = [sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in tree[name].values()) for name in names]
    np.testing.assert_allclose(trees.square_sums(tree, rows, len(names)), wanted, rtol=1e-6)


def test_square_sums_accumulate_in_float32():
    half = {"w": jnp.full(10_000, 0.25, jnp.float16)}  # in float16 the sum would stop growing at 256
    sums = trees.square_sums(half, [0], 2)
    assert sums.dtype == jnp.float32
    assert sums.tolist() == [625.0, 0.0]  # a layer without leaves has nothing


def test_square_sums_refuse_rows_of_another_tree():
    with pytest.raises(ValueError, match="zip"):
        trees.square_sums({"w": jnp.ones(2)}, [0, 0], 1)
