"""Which parameters are trained: said by `trainable=`, or by an optimizer that does not move them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.errors import UsageError
from jaxprop.health.signals.settings import Signals
from jaxprop.train.trainable import influence, merge, split, trainable_mask
from tests.steps import assert_close, assert_same_bits, make_batch, make_params, mean_loss

HEAD = {"dense_0": {"bias": False, "kernel": False}, "dense_1": {"bias": True, "kernel": True}}
BODY = jax.tree.map(lambda x: not x, HEAD)
SAID = {
    "pattern": "dense_1/.*",
    "function": lambda path: path.startswith("dense_1"),
    "mask": HEAD,
}


@pytest.mark.parametrize("how", SAID)
def test_each_way_to_say_it_is_one_boolean_a_leaf(how):
    assert trainable_mask(SAID[how], make_params()) == jax.tree.leaves(HEAD)


def test_none_means_everything_that_has_a_derivative():
    params = {"b": True, "c": np.complex64(1), "h": np.float16(1), "i": np.int32(1), "none": None, "x": np.float32(1)}
    assert trainable_mask(None, params) == [False, True, True, False, True]  # a None is no leaf
    assert trainable_mask(".*", params) == trainable_mask(None, params)
    assert trainable_mask(None, {}) == []


BAD = {
    "a pattern has to match the whole path": ("dense_1", "trainable='dense_1' leaves no floating-point parameter"),
    "no path": ("head/.*", "there are: dense_0/bias, dense_0/kernel, dense_1/bias, dense_1/kernel"),
    "another structure": ({"dense_1": True}, "expected trainable to have the structure of the parameters"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_meant(case):
    trainable, message = BAD[case]
    with pytest.raises(UsageError, match=message):
        trainable_mask(trainable, make_params())


def test_parameters_are_split_and_merged_again():
    params = make_params()
    mask = trainable_mask("dense_1/.*", params)
    trained = split(params, mask)
    assert trained["dense_0"] == {"bias": None, "kernel": None}
    assert_same_bits(merge(trained, params, mask), params)
    doubled = merge(jax.tree.map(lambda x: 2 * x, trained), params, mask)
    assert_same_bits(doubled["dense_0"], params["dense_0"])
    assert_same_bits(doubled["dense_1"], jax.tree.map(lambda x: 2 * x, params["dense_1"]))


def adam_of_the_head(batches):
    """Adam by hand on the head alone."""
    params, tx = make_params(), optax.adam(0.05)
    head, frozen = params["dense_1"], params["dense_0"]
    opt_state = tx.init(head)
    grad = jax.jit(jax.value_and_grad(lambda head, b: mean_loss({"dense_0": frozen, "dense_1": head}, b, None)))
    norms = []
    for batch in batches:
        _, grads = grad(head, batch)
        norms.append(float(optax.tree.norm(grads)))
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grads, opt_state, head)
        head = optax.apply_updates(head, updates)
    return {"dense_0": frozen, "dense_1": head}, norms


@pytest.mark.parametrize("detail", ["lean", "full"])
@pytest.mark.parametrize("how", SAID)
def test_a_step_trains_what_it_is_told_to_and_carries_the_rest(how, detail):
    batches = [make_batch(i) for i in range(4)]
    expected, norms = adam_of_the_head(batches)
    step = jaxprop.make_train_step(mean_loss, optax.adam(0.05), trainable=SAID[how])
    state = step.init(make_params(), key=jax.random.key(0))
    assert step.layer_names == ("dense_1",)
    for batch, norm in zip(batches, norms, strict=True):
        state, m = step(state, batch, detail)
        np.testing.assert_allclose(m.grad_norm, norm, rtol=1e-5)
    assert_close(state.params, expected, rtol=1e-5)
    assert_same_bits(state.params["dense_0"], jax.tree.map(jnp.asarray, make_params()["dense_0"]))
    assert jax.tree.leaves(state.opt_state[0].nu["dense_0"]) == []
    if detail == "full":
        assert m.layout.layers == ("dense_1",)
        np.testing.assert_allclose(m.param_norm, optax.tree.norm(expected["dense_1"]), rtol=1e-5)


def test_no_derivative_by_what_is_not_trained_is_taken():
    """A NaN that reaches only frozen parameters is no part of the step."""

    @jax.custom_vjp
    def poisoned(w):
        return w

    poisoned.defvjp(lambda w: (w, None), lambda _, g: (jnp.full_like(g, jnp.nan),))

    def loss_fn(params, batch, key):
        kernel = poisoned(params["dense_0"]["kernel"])
        return mean_loss({**params, "dense_0": {**params["dense_0"], "kernel": kernel}}, batch, key)

    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1), trainable="dense_1/.*")
    _, m = step(step.init(make_params(), key=jax.random.key(0)), make_batch(), "full")
    assert (m.skipped, m.skips) == (0, 0)
    assert np.isfinite(m.grad_norm)
    everything = jaxprop.make_train_step(loss_fn, optax.sgd(0.1))
    _, m = everything(everything.init(make_params(), key=jax.random.key(0)), make_batch())
    assert m.skipped == 1


@pytest.mark.parametrize("detail", ["lean", "rows", "full"])
def test_integers_none_and_complex_numbers_among_the_parameters(detail):
    params = {
        "c": np.array([1 + 2j, -1j], np.complex64),
        "none": None,
        "table": np.array([2, 0], np.int32),
        "w": np.arange(1, 4, dtype=np.float32),
    }

    def loss_fn(params, batch, key):
        return jnp.mean(jnp.abs(params["c"]) ** 2) + jnp.sum(params["w"][params["table"]] ** 2)

    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.25))
    state, m = step(step.init(params, key=jax.random.key(0)), {}, detail)
    assert jax.tree.structure(state.params) == jax.tree.structure(params)
    assert state.params["table"].tolist() == [2, 0]
    np.testing.assert_allclose(state.params["w"], [0.5, 2, 1.5], rtol=1e-6)
    gradient = jax.grad(lambda c: jnp.mean(jnp.abs(c) ** 2))(params["c"])
    np.testing.assert_allclose(state.params["c"], params["c"] - 0.25 * gradient, rtol=1e-6)
    norm = np.sqrt(np.sum(np.abs(gradient) ** 2) + 4 + 36)
    np.testing.assert_allclose(m.grad_norm, norm, rtol=1e-6)
    if detail != "lean":
        assert dict(zip(m.layout.layers, m.layout.sizes, strict=True)) == {"c": 2, "w": 3}
    if detail == "full":
        np.testing.assert_allclose(m.update_norm, 0.25 * norm, rtol=1e-6)


# -- frozen by the optimizer ----------------------------------------------------------------------

PARTITION = {"dense_0": "off", "dense_1": "on"}


def freezing(tx):
    labels = {name: dict.fromkeys(("kernel", "bias"), PARTITION[name]) for name in PARTITION}
    return optax.partition({"on": tx, "off": optax.set_to_zero()}, labels)


FROZEN = {
    "partition": lambda tx: freezing(tx),
    "masked to zero": lambda tx: optax.chain(tx, optax.masked(optax.set_to_zero(), BODY)),
    "in a chain": lambda tx: optax.chain(optax.clip(1e3), freezing(tx)),
    "gradients of zero": lambda tx: optax.chain(optax.masked(optax.set_to_zero(), BODY), tx),
    "gradients of zero, clipped": lambda tx: optax.chain(
        optax.masked(optax.set_to_zero(), BODY), optax.clip_by_global_norm(1.0), tx
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", FROZEN)
def test_an_update_that_depends_on_nothing_moves_nothing(how):
    tx, params = FROZEN[how](optax.adam(0.1)), make_params()
    with jax.numpy_dtype_promotion("standard"):
        assert influence(tx.update, params, tx.init(params), params).counted == jax.tree.leaves(HEAD)
        plain = optax.adam(0.1)
        assert influence(plain.update, params, plain.init(params), params).counted == [True] * 4


CLIPPED = {
    "clipped with the rest": (lambda tx: optax.chain(optax.clip_by_global_norm(1.0), freezing(tx)), True),
    "clipped without": (lambda tx: freezing(optax.chain(optax.clip_by_global_norm(1.0), tx)), False),
    "gradients of zero": (lambda tx: optax.chain(optax.masked(optax.set_to_zero(), BODY), tx), False),
}


@pytest.mark.parametrize("how", CLIPPED)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_frozen_gradient_that_is_not_finite_skips_a_step_only_where_others_heed_it(how, value):
    make, heeded = CLIPPED[how]

    def loss_fn(params, batch, key):
        zero = sum(jnp.sum(x - jax.lax.stop_gradient(x)) for x in jax.tree.leaves(params["dense_0"]))
        # Not chosen, so that the loss is finite; its derivative, 0 times the value, is not.
        return mean_loss(params, batch, key) + jnp.where(jnp.isfinite(zero * value), zero * value, 0.0)

    step = jaxprop.make_train_step(loss_fn, make(optax.sgd(0.1)))
    state, m = step(step.init(make_params(), key=jax.random.key(0)), make_batch())
    assert step.layer_names == ("dense_1",)
    assert np.isfinite(m.grad_norm)
    assert bool(m.skipped) is heeded
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


ON = {name: dict.fromkeys(("kernel", "bias"), name == "dense_1") for name in PARTITION}
OFF = jax.tree.map(lambda on: not on, ON)
UPHILL = {
    "masked": lambda tx: optax.masked(tx, ON),
    "after clipping": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), optax.masked(tx, ON)),
    "after clipping blocks": lambda tx: optax.chain(optax.clip_by_block_rms(1.0), optax.masked(tx, ON)),
}
DOWNHILL = {
    "both masked": lambda tx: optax.chain(optax.masked(tx, ON), optax.masked(optax.sgd(0.1), OFF)),
    "a rate afterwards": lambda tx: optax.chain(optax.masked(optax.scale_by_adam(), ON), optax.scale(-0.1)),
    "a schedule": lambda tx: optax.chain(
        optax.masked(optax.scale_by_adam(), ON), optax.scale_by_learning_rate(optax.linear_schedule(1.0, 0.0, 9))
    ),
    "a group of sgd": lambda tx: optax.chain(
        optax.clip_by_global_norm(1.0), optax.partition({True: tx, False: optax.sgd(0.1)}, ON)
    ),
    "signs": lambda tx: optax.partition({True: tx, False: optax.sign_sgd(0.1)}, ON),
    "all gradients as they are": lambda tx: optax.identity(),
}


@pytest.mark.parametrize("how", UPHILL)
def test_a_gradient_passed_on_by_a_mask_is_told(how):
    step = jaxprop.make_train_step(mean_loss, UPHILL[how](optax.adamw(0.1)))
    state = step.init(make_params(), key=jax.random.key(0))
    with pytest.raises(UsageError, match=r"the gradient of dense_0/bias as its update.*optax\.masked.*trainable="):
        step(state, make_batch())


@pytest.mark.parametrize("how", DOWNHILL)
def test_other_updates_are_not_taken_for_the_gradient(how):
    tx, params = DOWNHILL[how](optax.adamw(0.1)), make_params()
    with jax.numpy_dtype_promotion("standard"):
        assert influence(tx.update, params, tx.init(params), params).counted == [True] * 4


def exploding(params, batch, key):
    """Gradients of the first layer are NaN where the batch says so, and a hundred times larger where it says `big`."""

    @jax.custom_vjp
    def spoiled(w, factor):
        return w

    spoiled.defvjp(lambda w, factor: (w, factor), lambda factor, g: (g * factor, None))
    first = jax.tree.map(lambda w: spoiled(w, batch["factor"]), params["dense_0"])
    return mean_loss({**params, "dense_0": first}, batch, key)


@pytest.mark.parametrize(("detail", "factor"), [("lean", np.nan), ("rows", np.inf), ("full", 1e6), ("full", np.nan)])
@pytest.mark.parametrize("how", FROZEN)
def test_frozen_parameters_are_no_part_of_norms_or_finiteness(how, factor, detail):
    """Fault: the gradient of frozen parameters tripped the guard, and a NaN there skipped the step."""
    batch = {**make_batch(), "factor": np.float32(factor)}
    expected, (norm,) = adam_of_the_head([make_batch()])
    step = jaxprop.make_train_step(exploding, FROZEN[how](optax.adam(0.05)))
    state, m = step(step.init(make_params(), key=jax.random.key(0)), batch, detail)
    assert (m.skipped, m.skips) == (0, 0)
    np.testing.assert_allclose(m.grad_norm, norm, rtol=1e-5)
    assert_close(state.params, expected, rtol=1e-5)
    assert_same_bits(state.params["dense_0"], jax.tree.map(jnp.asarray, make_params()["dense_0"]))
    if detail != "lean":
        assert m.layout.layers == ("dense_1",)
        assert m.layers.nonfinite.tolist() == [0]
    if detail == "full":
        np.testing.assert_allclose(m.param_norm, optax.tree.norm(expected["dense_1"]), rtol=1e-5)


def test_the_spike_guard_looks_at_what_is_trained_only():
    health = Signals(spikes="skip")
    step = jaxprop.make_train_step(exploding, freezing(optax.sgd(1e-4)), health=health)
    state = step.init(make_params(), key=jax.random.key(0))
    batch = {**make_batch(), "factor": np.float32(1)}
    for i in range(130):
        state, m = step(state, batch if i < 125 else {**batch, "factor": np.float32(1e4)}, "lean")
    assert (m.guard, m.skips) == (1, 0)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("health", [True, Signals(spikes="clip", respond=True)], ids=["default", "guarded"])
def test_complex_parameters_keep_their_imaginary_part_on_every_way(health, accumulate):
    params = {"c": np.array([1 + 2j, -1j], np.complex64), "w": np.ones(2, np.float32)}
    batch = {"x": np.arange(16, dtype=np.float32).reshape(8, 2)}

    def loss_fn(params, batch, key):
        return jnp.mean(jnp.abs(params["c"]) ** 2 * batch["x"]) + jnp.sum(params["w"] ** 2)

    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.01), accumulate=accumulate, health=health, ema_decay=0.9)
    state = step.init(params, key=jax.random.key(0))
    state, m = step(state, batch, "full")
    gradient = jax.grad(loss_fn)(params, batch, None)
    np.testing.assert_allclose(state.params["c"], params["c"] - 0.01 * gradient["c"], rtol=1e-5)
    np.testing.assert_allclose(m.update_norm, 0.01 * m.grad_norm, rtol=1e-5)
    found = step.eval_params(state)  # floats are averaged, complex numbers are as they are
    np.testing.assert_array_equal(found["c"], state.params["c"])
    np.testing.assert_allclose(found["w"], 0.1 + 0.9 * state.params["w"], rtol=1e-6)


@pytest.mark.parametrize("how", FROZEN)
def test_float16_measures_what_is_flushed_of_the_parameters_that_move(how):
    """Fault: the gradients of parameters that the optimizer freezes were counted without a layer to count them in."""
    step = jaxprop.make_train_step(mean_loss, FROZEN[how](optax.adam(0.05)), "float16", cast="inputs")
    _, m = step(step.init(make_params(), key=jax.random.key(0)), make_batch(), "flush")
    assert m.layout.layers == ("dense_1",)
    assert m.rare.flushed.tolist() == [0]


def test_a_pattern_that_matches_the_start_of_paths_is_told_how_to_match_them():
    with pytest.raises(UsageError, match=r"has to match a whole path, as 'dense_1/\.\*' does$"):
        trainable_mask("dense_1", make_params())
    with pytest.raises(UsageError, match=r"dense_1/kernel$"):
        trainable_mask("dense_9", make_params())
