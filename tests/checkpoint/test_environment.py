import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxprop.checkpoint.environment import environment, other_bits

BEFORE = {
    "versions": {"jax": "0.10.2", "python": "3.11.7"}, "flags": {"XLA_FLAGS": ""}, "mesh": {}, "processes": 1,
    "platform": "cpu", "device_kind": "cpu", "devices": 1, "cores": 64, "affinity": [0, 1],
}  # fmt: skip


def test_what_made_a_state_is_known_from_where_it_lies():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))
    placed = jax.device_put(jnp.ones((8, 8)), NamedSharding(mesh, PartitionSpec("data", "fsdp")))
    made = environment({"w": placed})
    assert (made["mesh"], made["devices"], made["processes"], made["platform"]) == ({"data": 2, "fsdp": 4}, 8, 1, "cpu")
    assert set(made["flags"]) >= {"XLA_FLAGS", "jax_enable_x64", "jax_default_matmul_precision"}
    assert made["versions"]["jax"] == jax.__version__
    abstract = jax.eval_shape(lambda: jnp.ones(2))
    assert environment({"w": abstract})["devices"] == 1


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({}, None),
        ({"affinity": [6, 7]}, None),  # as many cores, only others
        ({"versions": {"jax": "0.10.2", "python": "3.12.1"}}, None),
        ({"platform": "gpu", "device_kind": "H100", "affinity": [0]}, "it was saved on 1 cpu, and is now on 1 H100"),
        ({"affinity": [0]}, "it was saved on 2 cores, and this process has 1"),
        ({"affinity": None}, "it was saved on 2 cores, and this process has 64"),
        (
            {"devices": 8, "mesh": {"data": 8}},
            "it was saved on 1 cpu, and is now on 8 cpu; its mesh was one device,",
        ),
        ({"mesh": {"data": 1}}, None),
        ({"processes": 2}, "it was saved by 1 process, and there are 2 now"),
        ({"versions": {"jax": "0.11.0", "python": "3.11.7"}}, "jax was 0.10.2, and is now 0.11.0"),
        ({"flags": {"XLA_FLAGS": "--a"}}, "XLA_FLAGS was empty, and is now --a"),
    ],
)
def test_what_is_different_is_told_in_one_note(now, says):
    found = other_bits(BEFORE, BEFORE | now)
    if says is None:
        assert found is None
    else:
        assert found.startswith(f"other bits than those of an undisturbed run are to be expected: {says}")
