"""Precision, proven by training: parameters in bfloat16, a loss scale that underflow needs, exact resumption in all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.checkpoint.checkpoints import Checkpoints
from jaxprop.core.precision import Policy, Scaling
from jaxprop.errors import UsageError
from jaxprop.health.signals.settings import Signals
from tests.steps import make_batch, make_params, mean_loss

BFLOAT16 = jaxprop.policy("bfloat16", params="bfloat16")
NEAREST = Policy(jnp.bfloat16, jnp.float32, jnp.float32)
POLICIES = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "overrides": jaxprop.policy("bfloat16", overrides=[("dense_1", "float32")]),
    "a part in float16": jaxprop.policy("float32", overrides=[("dense_0", "float16")]),
    "parameters in bfloat16": BFLOAT16,
}


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = (
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf for leaf in (x, y)
        )
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("case", POLICIES)
def test_a_run_goes_on_exactly_from_its_checkpoint(case, tmp_path):
    """Also where the scale changes, every third step, and with averages, a guard and microbatches."""

    def made():
        return jaxprop.make_train_step(
            standard(mean_loss), optax.adam(1e-2), POLICIES[case], accumulate=2, health=Signals(spikes="skip"),
            scaling=Scaling(growth_interval=3), ema_decay=0.9, cast=("inputs",),
        )  # fmt: skip

    step, other = made(), made()
    state = step.init(make_params(), key=jax.random.key(0))
    for i in range(8):
        if i == 4:
            with Checkpoints(tmp_path) as checkpoints:
                checkpoints.save(4, state, stream={}, config={})
        state, m = step(state, make_batch(i))
    with Checkpoints(tmp_path) as checkpoints:
        again = checkpoints.restore(jax.eval_shape(lambda: other.init(make_params(), key=jax.random.key(9)))).state
    for i in range(4, 8):
        again, last = other(again, make_batch(i))
    same(state, again)
    assert float(m.loss) == float(last.loss)


def standard(loss):
    """The loss under standard promotion: a plain function whose parameters have several dtypes."""

    def promoting(params, batch, key):
        with jax.numpy_dtype_promotion("standard"):
            return loss(params, batch, key)

    return promoting


def toward_zero(params, batch, key):
    return jnp.sum(params["w"].astype(jnp.float32))


def trained(policy, rate, steps=200, loss=toward_zero, size=512):
    step = jaxprop.make_train_step(loss, optax.sgd(rate), policy, health=False)
    state = step.init({"w": jnp.ones(size)}, key=jax.random.key(1))
    for _ in range(steps):
        state, m = step(state, {})
    return state, m


def test_updates_below_half_a_unit_move_the_weights_on_average_and_by_rounding_to_nearest_they_do_not():
    rate = 2.0**-13  # a 32nd of the distance from 1 to the next number below
    moved, _ = trained(BFLOAT16, rate)
    stayed, _ = trained(NEAREST, rate)
    assert bool((stayed.params["w"] == 1).all())
    assert moved.params["w"].dtype == jnp.bfloat16
    mean = float(moved.params["w"].astype(jnp.float32).mean())
    assert abs(mean - (1 - 200 * rate)) < 2e-3  # 4 standard deviations of a mean of 512


def test_optimizer_averages_and_gradients_stay_float32():
    step = jaxprop.make_train_step(mean_loss, optax.adam(1e-2), BFLOAT16, ema_decay=0.9, cast=("inputs",))
    state = step.init(make_params(), key=jax.random.key(0))
    for detail in ("full", "rows", "lean"):
        state, _ = step(state, make_batch(), detail)
        dtypes = [{leaf.dtype.name for leaf in jax.tree.leaves(part)} for part in (state.params, state.ema.params)]
        assert dtypes == [{"bfloat16"}, {"float32"}]
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state.opt_state)} == {"float32", "int32"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(step.eval_params(state))} == {"bfloat16"}
    assert step.explain(state, make_batch()).ok
    assert len([made for made in step.compilations if made.changes]) == 0


def test_a_step_that_is_not_taken_leaves_parameters_in_bfloat16_as_they_were():
    step = jaxprop.make_train_step(mean_loss, optax.adam(1e-2), BFLOAT16, cast=("inputs",))
    state = step.init(make_params(), key=jax.random.key(0))
    state, _ = step(state, make_batch())
    before = jax.tree.map(np.asarray, (state.params, state.opt_state))
    bad = make_batch()
    bad["inputs"][0, 0] = np.nan
    state, m = step(state, bad)
    assert bool(m.skipped)
    same((state.params, state.opt_state), before)


def test_what_is_not_trained_stays_exactly_as_it_is():
    step = jaxprop.make_train_step(mean_loss, optax.adam(1e-2), BFLOAT16, cast=("inputs",), trainable="dense_1/.*")
    state = step.init(make_params(), key=jax.random.key(0))
    before = np.asarray(state.params["dense_0"]["kernel"])
    for i in range(3):
        state, _ = step(state, make_batch(i))
    np.testing.assert_array_equal(before, np.asarray(state.params["dense_0"]["kernel"]))
    assert state.params["dense_0"]["kernel"].dtype == jnp.bfloat16


def test_parameters_in_bfloat16_learn_as_those_in_float32_do():
    def final(precision):
        step = jaxprop.make_train_step(mean_loss, optax.adam(1e-2), precision, health=False, cast=("inputs",))
        state = step.init(make_params(), key=jax.random.key(0))
        for i in range(150):
            state, m = step(state, make_batch(i % 4))
        return float(m.loss)

    wide, stored = final("float32"), final(BFLOAT16)
    assert abs(stored - wide) < 0.1 * wide


def underflowing(params, batch, key):
    """A planted network whose gradients are about 1e-9: below the smallest float16, 6e-8, unless they are scaled."""
    hidden = jnp.tanh(batch["x"] @ params["a"])
    return jnp.mean(jnp.square((hidden @ params["b"] - batch["y"]).astype(jnp.float32))) * 1e-7


def learnt(precision, scaling=None):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype(np.float32)
    batch = {"x": x, "y": np.tanh(x @ rng.normal(size=(4, 8)) / 2).astype(np.float32) @ np.ones(8, np.float32) / 2}
    params = {"a": rng.normal(size=(4, 8)).astype(np.float32) / 2, "b": rng.normal(size=8).astype(np.float32) / 2}
    step = jaxprop.make_train_step(
        standard(underflowing), optax.adam(1e-2, eps=1e-15), precision, health=False, scaling=scaling, cast=("x",)
    )
    state, losses = step.init(params, key=jax.random.key(0)), []
    for _ in range(200):
        state, m = step(state, batch)
        losses.append(float(m.loss))
    return state, losses[-1] / losses[0]


def test_a_network_that_underflows_learns_with_a_loss_scale_and_not_without():
    none = Scaling(initial=1.0, growth_interval=10**6, largest=1.0)
    _, scaled = learnt("float16", Scaling(initial=2.0**20))
    same_state, without = learnt("float16", none)
    _, wide = learnt("float32")
    assert without == 1.0  # every gradient is flushed to zero
    assert scaled < 0.2
    assert wide < 0.2
    assert same_state.loss_scale.scale == 1


def test_tf32_is_refused_by_a_step_on_a_cpu_but_not_by_an_evaluation():
    step = jaxprop.make_train_step(mean_loss, optax.sgd(0.1), "tf32")
    state = step.init(make_params(), key=jax.random.key(0))
    with pytest.raises(UsageError, match="tf32 needs an NVIDIA GPU"):
        step(state, make_batch())
    found = [jaxprop.make_eval_step(mean_loss, name)(state.params, {}, make_batch()) for name in ("tf32", "float32")]
    same(*found)
