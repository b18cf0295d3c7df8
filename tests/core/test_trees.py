"""Pytrees: paths, layers, counts, casts, selection and norms, for every container a user may bring."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core import trees


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
