"""What a mesh does to batches and states. That eight devices train as one is in tests/train/test_step.py."""

import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxprop.errors import ShapeError
from jaxprop.parallel import placement, sharding
from jaxprop.parallel.mesh import make_mesh


@pytest.mark.parametrize(
    ("steps_per_call", "shape", "spec", "shard"),
    [(1, (8, 3), PartitionSpec("data"), (2, 3)), (5, (5, 8, 3), PartitionSpec(None, "data"), (5, 2, 3))],
)
def test_a_batch_is_split_over_its_examples(steps_per_call, shape, spec, shard):
    mesh = make_mesh(4)
    batch = {"inputs": np.arange(np.prod(shape), dtype=np.float32).reshape(shape)}
    placed = placement.place_batch(batch, mesh, steps_per_call)["inputs"]
    assert sharding.batch_sharding(mesh, steps_per_call).spec == spec
    assert placed.sharding.spec == spec
    assert {s.data.shape for s in placed.addressable_shards} == {shard}
    np.testing.assert_array_equal(placed, batch["inputs"])


@pytest.mark.parametrize(("steps_per_call", "shape"), [(1, (6, 2)), (4, (4, 6))])
def test_a_batch_that_cannot_be_split_says_which_size_would_do(steps_per_call, shape):
    with pytest.raises(ShapeError, match=r"multiple of the 4 devices, got 6; set data.batch_size=8"):
        placement.place_batch({"inputs": np.zeros(shape, np.float32)}, make_mesh(4), steps_per_call)


def test_a_replicated_state_is_whole_on_every_device():
    mesh = make_mesh(3)
    tree = placement.replicate({"w": np.arange(4, dtype=np.float32)}, mesh)
    assert tree["w"].sharding == sharding.replicated(mesh)
    assert len(tree["w"].addressable_shards) == 3
    for shard in tree["w"].addressable_shards:
        np.testing.assert_array_equal(shard.data, [0, 1, 2, 3])
