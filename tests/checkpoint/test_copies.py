import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxprop.checkpoint import copies
from jaxprop.checkpoint.copies import Copies


def written_over(arrays):
    """Donates arrays to a step that changes every value, as training does."""
    return jax.jit(lambda tree: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), tree), donate_argnums=0)(arrays)


def draw(dtype, shape):
    return jnp.asarray(np.random.default_rng(0).integers(0, 100, shape), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "complex64", "float8_e4m3fn"])
@pytest.mark.parametrize("shape", [(), (3,), (40, 7)])
def test_a_copy_outlives_the_donated_array(dtype, shape):
    array = draw(dtype, shape)
    wanted = np.asarray(array).tobytes()
    taken, own = Copies().take({"a": array})
    assert own
    jax.block_until_ready(jax.jit(jnp.zeros_like, donate_argnums=0)(array))
    copy = taken["a"]
    assert (copy.dtype, copy.shape, np.asarray(copy).tobytes()) == (dtype, shape, wanted)


def test_a_step_after_it_writes_the_state_over_in_place():
    """What a view of the state would prevent: the step would have to find new memory for all of it."""
    array = written_over(jnp.zeros(4096))
    place, (taken, _) = array.unsafe_buffer_pointer(), Copies().take({"a": array})
    assert written_over(array).unsafe_buffer_pointer() == place
    assert taken["a"].tolist() == [1.0] * 4096


def test_the_memory_of_one_copy_is_that_of_the_next():
    held, places, array = Copies(), [], jnp.zeros(4096)
    for turn in range(3):
        copy = held.take({"a": array})[0]["a"]
        assert copy.tolist() == [float(turn)] * 4096
        places.append(copy.unsafe_buffer_pointer())
        array = written_over(array)
    assert len(set(places)) == 1
    other = held.take({"a": jnp.ones((2, 3), jnp.int32)})[0]["a"]  # of another shape and type under the name
    assert (other.dtype, other.tolist()) == ("int32", [[1] * 3] * 2)


def test_memory_that_is_a_large_part_of_the_machines_is_not_kept(monkeypatch):
    monkeypatch.setattr(copies, "_memory", lambda: 4 * 4096)
    held = Copies()
    taken = held.take({"a": jnp.ones(4096)})[0]["a"]
    assert not held._buffers
    assert taken.tolist() == [1.0] * 4096


@pytest.mark.parametrize("spec", [("data",), (None, "data"), ()])
def test_an_array_on_a_mesh_keeps_its_sharding(spec):
    mesh = jax.make_mesh((8,), ("data",), devices=jax.devices()[:8], axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    array = jax.device_put(draw("float32", (16, 8)), sharding)
    wanted = np.asarray(array)
    taken, _ = Copies().take({"a": array, "b": jax.device_put(jnp.float32(2), NamedSharding(mesh, PartitionSpec()))})
    jax.block_until_ready(written_over(array))
    assert taken["a"].sharding == sharding
    np.testing.assert_array_equal(taken["a"], wanted)
    assert float(taken["b"]) == 2


def test_arrays_of_numpy_are_the_savers_own():
    array = np.ones(3)
    taken, own = Copies().take({"a": array})
    assert taken["a"] is array
    assert own


def test_what_lies_elsewhere_is_left_where_it_is(monkeypatch):
    monkeypatch.setattr(copies, "_is_in_a_usual_place", lambda array: False)
    array = jnp.ones(3)
    taken, own = Copies().take({"a": array, "b": np.ones(3)})
    assert taken["a"] is array
    assert not own  # a save has to begin before it may be changed
