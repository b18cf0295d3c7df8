"""What `jaxprop info --mesh` shows: agrees with where a real step puts its state."""

import jax
import pytest

from jaxprop.config.load import load
from jaxprop.errors import UsageError
from jaxprop.run.compose import compose
from jaxprop.tools.placement import place, read_mesh

SMALL = ["model.layers=1", "model.width=64", "model.heads=4", "data.sequence_length=32", "run.ema_decay=0.9"]


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 2, "tensor": 4}, {"data": 8}])
def test_what_a_device_holds_is_what_a_real_step_puts_there(sizes):
    overrides = [f"parallel.mesh.{name}={size}" for name, size in sizes.items()]
    config = load("stdlib_lm", SMALL + overrides).config
    found = place(config, {"data": 1, **sizes})
    state = compose(config).init(0)
    for part in ("params", "opt_state", "ema"):
        tree = getattr(state, part)
        held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
        assert found.bytes[part] == (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), held)
    for one, leaf in zip(found.parameters, jax.tree.leaves(state.params), strict=True):
        assert (one.shape, one.bytes) == (leaf.shape, leaf.addressable_shards[0].data.nbytes)


def test_a_mesh_of_devices_that_are_not_there():
    found = place(load("stdlib_lm", SMALL).config, read_mesh("fsdp=64,tensor=4"))
    kernel = next(one for one in found.parameters if one.path == "blocks/0/mlp/up/kernel")
    assert (kernel.spec, kernel.bytes) == ((("fsdp",), ("tensor",)), 64 * 256 * 4 // 256)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fsbp=4", "unknown axis 'fsbp'; did you mean 'fsdp'"),
        ("fsdp", "expected a number of devices for fsdp, got ''; write it as fsdp=4"),
        ("fsdp=-1", "got '-1'"),
        ("", "unknown axis ''"),
    ],
)
def test_sizes_that_cannot_be_read(text, says):
    with pytest.raises(UsageError, match=says):
        read_mesh(text)
