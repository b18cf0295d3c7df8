"""The state before the first step: copied, cast, and with what the guards and responses remember."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprop
from jaxprop.core import precision
from jaxprop.errors import UsageError
from jaxprop.health.signals.settings import Signals
from tests.steps import assert_same_bits, make_params


def state_of(params=None, tx=None, **options):
    params = make_params() if params is None else params
    return jaxprop.init_state(params, tx or optax.adamw(1e-3), key=jax.random.key(3), **options)


def test_it_starts_at_step_0_with_no_skips_and_no_response():
    state = state_of(health=Signals(respond=True))
    assert (int(state.step), state.extras, state.loss_scale, state.ema) == (0, {}, (), ())
    none = np.finfo(np.float32).max  # no limit: an infinity would trip jax.debug_infs
    health = {name: value for name, value in state.health._asdict().items() if name not in ("spikes", "direction")}
    assert health == {"skips": 0, "lr_scale": 1, "grad_limit": none, "rate_limit": none, "rate_peak": 0}
    assert [float(x) for x in state.health.spikes] == [0, 0, 0]
    assert state.health.direction == ()
    assert {name: value.dtype for name, value in health.items()} == {
        "skips": np.int32, **dict.fromkeys(["lr_scale", "grad_limit", "rate_limit", "rate_peak"], np.float32),
    }  # fmt: skip


GUARDED = [Signals(spikes="clip"), Signals(respond=True), Signals(spikes="skip", respond=True)]


@pytest.mark.parametrize("health", [True, False, Signals(every=7, taps=False)], ids=str)
def test_without_guard_and_responses_it_only_counts_skips(health):
    assert jax.tree.leaves(state_of(health=health).health) == [0]


@pytest.mark.parametrize("health", GUARDED, ids=str)
def test_its_structure_is_the_same_for_every_guard_and_response(health):
    assert jax.tree.structure(state_of(health=health)) == jax.tree.structure(state_of(health=GUARDED[0]))


@pytest.mark.parametrize("health", GUARDED, ids=str)
def test_a_guarded_step_refuses_the_state_of_one_without(health):
    step = jaxprop.make_train_step(lambda params, batch, key: jnp.float32(0), optax.adamw(1e-3), health=health)
    with pytest.raises(UsageError, match=r"without a guard or responses.*step\.init\(params, key=key\)"):
        step(state_of(), {"x": jnp.ones(1)})


@pytest.mark.parametrize(("made", "used"), [(None, 0.9), (0.9, None)])
def test_a_step_refuses_a_state_whose_average_it_would_not_move(made, used):
    state = jaxprop.init_state(make_params(), optax.sgd(0.1), key=jax.random.key(0), ema_decay=made)
    step = jaxprop.make_train_step(lambda p, b, key: jnp.sum(p["dense_0"]["bias"]), optax.sgd(0.1), ema_decay=used)
    with pytest.raises(
        UsageError, match=r"averages of the parameters, and the step has .*step\.init\(params, key=key\)"
    ):
        step(state, {})


def test_a_power_iteration_starts_in_a_direction_of_length_1_drawn_from_the_key():
    directions = [
        jaxprop.init_state(
            make_params(), optax.sgd(0.1), key=jax.random.key(k), health=Signals(curvature=True)
        ).health.direction
        for k in (0, 0, 1)
    ]
    first, again, other = (np.concatenate([x.ravel() for x in jax.tree.leaves(d)]) for d in directions)
    np.testing.assert_allclose(np.linalg.norm(first), 1, rtol=1e-6)
    np.testing.assert_array_equal(first, again)
    assert abs(np.dot(first, other)) < 0.9
    assert jax.tree.structure(directions[0]) == jax.tree.structure(make_params())


@pytest.mark.parametrize("leaf", ["params", "extras", "key"])
def test_it_copies_so_that_donation_takes_nothing_of_the_callers(leaf):
    shared = jnp.ones(3)
    mine = {"params": {"a": shared, "b": shared}, "extras": {"c": shared}, "key": jax.random.key(0)}
    tx = optax.sgd(0.1)
    state = jaxprop.init_state(mine["params"], tx, key=mine["key"], extras=mine["extras"], ema_decay=0.9)
    step = jaxprop.make_train_step(lambda p, b, k: jnp.sum(p["a"] * p["b"]), tx, ema_decay=0.9)
    step(state, {"x": np.ones(2, np.float32)})
    assert not any(x.is_deleted() for x in jax.tree.leaves(mine[leaf]))


POLICIES = {
    "float32": (np.float32, ()),
    "bfloat16": (np.float32, ()),
    "float16": (np.float32, 2.0**10),
    "half params": (jnp.float16, 2.0**10),
}


@pytest.mark.parametrize("name", POLICIES)
def test_dtypes_and_loss_scale_follow_the_policy(name):
    policy = precision.Policy(jnp.float16, jnp.float16, jnp.float32) if name == "half params" else name
    dtype, scale = POLICIES[name]
    state = state_of(precision=policy, scaling=precision.Scaling(initial=2.0**10), ema_decay=0.9)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(dtype)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.ema)} == {np.dtype(np.float32)}
    assert state.loss_scale == () if scale == () else float(state.loss_scale.scale) == scale


def test_an_old_style_key_is_wrapped_and_a_mesh_holds_every_copy():
    state = jaxprop.init_state(
        make_params(), optax.sgd(0.1), key=jnp.array([0, 3], jnp.uint32), mesh=jaxprop.make_mesh(8)
    )
    assert state.key == jax.random.key(3)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    assert len(state.step.sharding.device_set) == 8


def test_weak_types_are_gone_so_that_nothing_compiles_twice():
    state = state_of({"w": jnp.asarray(1.0)}, extras={"n": jnp.asarray(2.0)})
    assert not any(leaf.aval.weak_type for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array))


MANY = {"c": np.ones(2, np.complex64), "flag": np.array(True), "n": np.arange(3, dtype=np.int32), "none": None,
        "w": np.ones(2, np.float32)}  # fmt: skip


def test_leaves_of_every_kind_are_carried_and_what_has_a_derivative_has_an_optimizer_state():
    state = state_of(MANY, optax.adam(0.1), ema_decay=0.9)
    assert jax.tree.structure(state.params) == jax.tree.structure(MANY)
    assert state.params["n"].dtype == np.int32
    assert state.params["flag"].dtype == bool
    mu = state.opt_state[0].mu
    assert {name for name, leaf in mu.items() if leaf is not None} == {"c", "w"}
    assert {name for name, leaf in state.ema.params.items() if leaf is not None} == {"w"}


def test_what_is_not_trained_has_no_state_anywhere():
    state = state_of(tx=optax.adam(0.1), ema_decay=0.9, trainable="dense_1/.*", health=Signals(curvature=True))
    for tree in (state.opt_state[0].mu, state.ema.params, state.health.direction):
        assert jax.tree.leaves(tree["dense_0"]) == []
        assert len(jax.tree.leaves(tree["dense_1"])) == 2
    assert_same_bits(state.params, jax.tree.map(jnp.asarray, make_params()))


def test_averages_are_a_copy_of_their_own():
    state = state_of(ema_decay=0.9, extras={"mean": np.ones(2, np.float32), "count": np.int32(1)})
    assert_same_bits(state.ema.params, state.params)
    assert state.ema.extras["count"] is None
    np.testing.assert_array_equal(state.ema.extras["mean"], [1, 1])
    held = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.ema))]
    assert len(set(held)) == len(held)


@pytest.mark.parametrize("leaf", ["text", object(), jnp.tanh], ids=["string", "object", "function"])
def test_parameters_have_to_be_arrays(leaf):
    with pytest.raises(UsageError, match=f"expected arrays as parameters, got {type(leaf).__name__} at a/n"):
        state_of({"a": {"n": leaf}})


@pytest.mark.parametrize("key", [0, np.float32(1), jnp.ones(2)], ids=str)
def test_a_key_has_to_be_one(key):
    with pytest.raises(UsageError, match=r"expected key to be a PRNG key.*jax.random.key\("):
        jaxprop.init_state(make_params(), optax.sgd(0.1), key=key)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.norm = nnx.Linear(2, 2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs)


def test_what_flax_keeps_beside_parameters_is_none():
    with pytest.raises(UsageError, match=r"got nnx\.BatchStat at norm/mean; .*jaxprop\.from_nnx.*nnx\.Param"):
        state_of(Net(nnx.Rngs(0)))
    with pytest.raises(UsageError, match=r"got nnx\.RngCount at .*jaxprop\.from_nnx"):
        state_of(nnx.state(nnx.Dropout(0.5, rngs=nnx.Rngs(0))))
    assert jax.tree.leaves(state_of(nnx.state(Net(nnx.Rngs(0)), nnx.Param)).params)
    assert jax.tree.leaves(state_of(nnx.Linear(2, 2, rngs=nnx.Rngs(0))).params)


def test_batch_statistics_of_linen_are_no_parameters_unless_they_are_only_carried_along():
    variables = {"params": {"w": jnp.ones(2)}, "batch_stats": {"mean": jnp.ones(2)}}
    with pytest.raises(UsageError, match=r'got batch_stats beside them; .*variables\["params"\]'):
        state_of(variables)
    kept = jaxprop.init_state(variables, optax.sgd(0.1), key=jax.random.key(0), trainable="params/.*")
    assert list(kept.params) == ["batch_stats", "params"]
