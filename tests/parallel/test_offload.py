import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.checkpoint import Checkpoints
from jaxprop.errors import UsageError
from jaxprop.parallel.offload import HOST, is_on_host, offloaded


def loss(params, batch, key):
    return jnp.mean((jnp.tanh(batch["x"] @ params["a"]) @ params["b"]) ** 2)


PARAMS = {"a": jnp.linspace(-1, 1, 64 * 32).reshape(64, 32), "b": jnp.ones((32, 4))}
BATCH = {"x": np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)}


def stepped(steps=3, **options):
    step = jaxprop.make_train_step(loss, optax.adamw(1e-2), ema_decay=0.9, **options)
    state, batch = step.init(PARAMS, key=jax.random.key(0)), BATCH
    if options.get("steps_per_call", 1) > 1:
        batch = {"x": np.stack([BATCH["x"]] * options["steps_per_call"])}
    seen = []
    for i in range(steps):
        state, m = step(state, batch, "full" if i == 1 else "rows")
        seen.append(np.asarray(m.loss).tolist())
    return step, state, seen


def kinds(state):
    return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.opt_state) if leaf.size >= 1024}


OPTIONS = [{}, {"accumulate": 2}, {"steps_per_call": 2}, {"precision": "bfloat16", "cast": ("x",)}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("sizes", [(1, {}), (8, {}), (8, {"fsdp": 4})], ids=str)
def test_steps_are_the_same_and_the_moments_stay_on_the_host(sizes, options):
    count, axes = sizes
    _, plain, expected = stepped(mesh=jaxprop.make_mesh(count, **axes), **options)
    _, state, seen = stepped(mesh=jaxprop.make_mesh(count, **axes), offload_optimizer=True, **options)
    assert seen == expected
    for a, b in zip(
        jax.tree.leaves((plain.params, plain.opt_state)), jax.tree.leaves((state.params, state.opt_state)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert (kinds(plain) != {HOST}, kinds(state)) == (True, {HOST})
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves((state.params, state.ema))} == {"device"}
    assert state.opt_state[0].count.sharding.memory_kind == "device"


def test_a_checkpoint_is_restored_to_where_it_lay(tmp_path):
    step, state, _ = stepped(offload_optimizer=True)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, stream={}, config={})
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(step.init(PARAMS, key=jax.random.key(1))).state
    assert kinds(restored) == {HOST}
    np.testing.assert_array_equal(restored.opt_state[0].mu["a"], state.opt_state[0].mu["a"])
    after, _ = step(restored, BATCH)
    assert kinds(after) == {HOST}


def test_the_rest_of_the_step_knows_where_its_state_lies():
    step, state, _ = stepped(offload_optimizer=True)
    assert step.explain(state, BATCH).ok
    assert step.memory(state, BATCH).parts["opt_state"] >= 2 * 64 * 32 * 4  # on CPU the memory is the same
    assert step.find_nonfinite(state, BATCH) is None


def test_devices_that_reach_no_other_memory_are_refused():
    class Device:
        platform = "toy"

        def addressable_memories(self):
            return []

    mesh = type("Mesh", (), {"devices": np.array([Device()])})
    state = jaxprop.init_state(PARAMS, optax.adam(0.1), key=jax.random.key(0))
    with pytest.raises(UsageError, match="a toy device reaches none alone; leave offload_optimizer out"):
        offloaded(state, state, mesh)


def test_what_is_on_the_host_takes_no_memory_of_other_devices():
    device = type("Device", (), {"platform": "tpu"})
    sharding = type("Sharding", (), {"memory_kind": HOST, "device_set": {device}})
    assert is_on_host(sharding)
    assert not is_on_host(jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind=HOST))


def test_it_is_true_or_false():
    with pytest.raises(UsageError, match="expected offload_optimizer to be True or False; got 'all'"):
        stepped(offload_optimizer="all")
