"""Shardings over a mesh: examples are split, steps and states are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxprop.parallel.mesh import make_mesh
from jaxprop.parallel.sharding import batch_sharding, misplaced, replicated


@pytest.mark.parametrize(
    ("steps_per_call", "spec"),
    [(1, PartitionSpec("data")), (2, PartitionSpec(None, "data")), (5, PartitionSpec(None, "data"))],
)
def test_the_axis_of_examples_is_split_and_that_of_steps_is_not(steps_per_call, spec):
    mesh = make_mesh(4)
    sharding = batch_sharding(mesh, steps_per_call)
    assert (sharding.mesh, sharding.spec) == (mesh, spec)


def test_a_replicated_array_is_not_split():
    sharding = replicated(make_mesh(3))
    assert sharding.is_fully_replicated
    assert len(sharding.device_set) == 3


def test_a_batch_that_cannot_be_split_and_one_that_can():
    mesh = make_mesh(4)
    arrays = {"x": np.ones((8, 3)), "y": jnp.ones(8)}
    assert misplaced(arrays, mesh) is None
    assert misplaced(jax.device_put(arrays, batch_sharding(mesh)), mesh) is None
    assert misplaced({"x": np.ones((3, 8))}, mesh, 2) is None
    assert "a batch of 3 cannot be divided over the 4 devices" in misplaced({"x": np.ones((8, 3))}, mesh, 2)
    placed = jax.device_put(arrays, jax.devices()[2])
    assert "x was placed on" in misplaced(placed, mesh)
    assert "jax.P('data',)" in misplaced(placed, mesh)
