"""Shardings over a mesh: examples are split, steps and states are not."""

import pytest
from jax.sharding import PartitionSpec

from jaxprop.parallel.mesh import make_mesh
from jaxprop.parallel.sharding import batch_sharding, replicated


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
