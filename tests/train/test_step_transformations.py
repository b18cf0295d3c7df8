"""The transformations of JAX on the step: reverse mode, vmap, scan, jit, what watches over NaN, and checkify."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify

import jaxprop
from jaxprop.health.signals.settings import DETAILS, Signals
from tests.steps import (
    EXTRAS,
    assert_close,
    assert_same_bits,
    counting_objective,
    make_batch,
    make_params,
    mean_loss,
)

TARGET = np.array([0.5, -1.0, 2.0], np.float32)
CURVES = np.array([1.0, 3.0, 0.5], np.float32)


def quadratic(params, batch, key):
    return 0.5 * jnp.sum(CURVES * (params["w"] - batch["target"]) ** 2)


@pytest.mark.parametrize("detail", DETAILS[:3])
def test_the_derivative_of_a_quadratics_step_is_the_analytic_one(detail):
    """w' = w - rate A (w - t), so that d sum(w'^2) / dw = 2 (1 - rate A) w' and d / dt = 2 rate A w'."""
    step = jaxprop.make_train_step(quadratic, optax.sgd(0.1))
    state = step.init({"w": np.array([1.0, 2.0, -1.0], np.float32)}, key=jax.random.key(0))

    def outer(w, target):
        after, _ = step(state._replace(params={"w": w}), {"target": target}, detail)
        return jnp.sum(after.params["w"] ** 2)

    w = np.asarray(state.params["w"])
    after = w - 0.1 * CURVES * (w - TARGET)
    by_w, by_target = jax.grad(outer, (0, 1))(jnp.asarray(w), jnp.asarray(TARGET))
    np.testing.assert_allclose(by_w, 2 * (1 - 0.1 * CURVES) * after, rtol=1e-5)
    np.testing.assert_allclose(by_target, 2 * 0.1 * CURVES * after, rtol=1e-5)


HEALTH = {
    "default": True,
    "none": False,
    "guarded": Signals(spikes="clip", respond=True),
    "curvature": Signals(curvature=True),
}


REVERSED = [
    ("lean", "default", 1), ("rows", "none", 1), ("rows", "guarded", 1), ("full", "default", 1),
    ("full", "guarded", 1), ("full", "curvature", 1), ("rows", "default", 2), ("full", "default", 2),
]  # fmt: skip


@pytest.mark.parametrize(("detail", "health", "accumulate"), REVERSED)
def test_the_derivative_of_two_steps_of_adam_is_that_of_two_written_by_hand(detail, health, accumulate):
    tx, batch = optax.adam(0.05), make_batch()
    step = jaxprop.make_train_step(mean_loss, tx, accumulate=accumulate, health=HEALTH[health], ema_decay=0.9)
    state = step.init(make_params(), key=jax.random.key(0))

    def outer(inputs):
        after = state
        for _ in range(2):
            after, m = step(after, {**batch, "inputs": inputs}, detail)
        return mean_loss(after.params, batch, None) + 0.1 * m.loss

    def by_hand(inputs):
        params, opt_state = state.params, tx.init(state.params)
        for _ in range(2):
            loss, grads = jax.value_and_grad(mean_loss)(params, {**batch, "inputs": inputs}, None)
            updates, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
        return mean_loss(params, batch, None) + 0.1 * loss

    found = jax.grad(outer)(jnp.asarray(batch["inputs"]))
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(jax.grad(by_hand))(jnp.asarray(batch["inputs"]))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("detail", DETAILS[:3])
def test_the_gradient_norm_itself_has_a_derivative(detail):
    step = jaxprop.make_train_step(quadratic, optax.sgd(0.1))
    state = step.init({"w": np.array([1.0, 2.0, -1.0], np.float32)}, key=jax.random.key(0))

    def penalty(w):
        return step(state._replace(params={"w": w}), {"target": TARGET}, detail)[1].grad_norm

    w = np.asarray(state.params["w"])
    gradient = CURVES * (w - TARGET)
    np.testing.assert_allclose(
        jax.grad(penalty)(jnp.asarray(w)), CURVES * gradient / np.linalg.norm(gradient), rtol=1e-5
    )


@pytest.mark.parametrize("health", ["default", "guarded"])
@pytest.mark.parametrize("detail", DETAILS[:3])
def test_a_layer_without_a_gradient_leaves_the_derivative_finite(detail, health):
    def loss_fn(params, batch, key):
        return quadratic(params["on"], batch, key) + jnp.sum(0.0 * params["off"]["w"])

    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1), health=HEALTH[health])
    w = np.array([1.0, 2.0, -1.0], np.float32)
    state = step.init({"off": {"w": np.ones(2, np.float32)}, "on": {"w": w}}, key=jax.random.key(0))

    def outer(w):
        after, _ = step(state._replace(params={**state.params, "on": {"w": w}}), {"target": TARGET}, detail)
        return jnp.sum(after.params["on"]["w"] ** 2)

    after = w - 0.1 * CURVES * (w - TARGET)
    np.testing.assert_allclose(jax.grad(outer)(jnp.asarray(w)), 2 * (1 - 0.1 * CURVES) * after, rtol=1e-5)


def made(detail, tx=None, **options):
    step = jaxprop.make_train_step(counting_objective(), tx or optax.adam(0.05), ema_decay=0.9, **options)
    state = step.init(make_params(), key=jax.random.key(0), extras=EXTRAS)
    return step, state, lambda state, batch: step(state, batch, detail)


@pytest.mark.parametrize("detail", DETAILS[:3])
def test_vmap_over_states_takes_the_step_of_each(detail):
    step, _, take = made(detail)
    states = [step.init(make_params(i), key=jax.random.key(i), extras=EXTRAS) for i in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    good, bad = make_batch(), make_batch()
    bad["inputs"][0, 0] = np.nan
    batches = jax.tree.map(lambda *x: np.stack(x), good, bad, good)  # one is skipped, and only that one
    after, records = jax.vmap(take)(stacked, batches)
    assert records.skipped.tolist() == [0, 1, 0]
    for i, (state, batch) in enumerate(zip(states, (good, bad, good), strict=True)):
        expected, m = take(state, batch)
        found = jax.tree.map(lambda x, i=i: x[i], after)
        assert_close((found.params, found.ema, found.extras), (expected.params, expected.ema, expected.extras), 1e-5)
        np.testing.assert_allclose(records.packed[i], m.packed, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("detail", DETAILS[:3])
@pytest.mark.parametrize("around", ["scan", "jit", "jit of a scan"])
def test_a_step_inside_something_larger_is_the_same_step(around, detail):
    _, state, take = made(detail)
    batches = [make_batch(i) for i in range(4)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    start = jax.tree.map(jnp.copy, state)

    def scanned(state, batches):
        return jax.lax.scan(take, state, batches)

    if around == "jit":
        larger, after, losses = jax.jit(take), state, []
        for batch in batches:
            after, m = larger(after, batch)
            losses.append(m.loss)
    else:
        after, m = (jax.jit(scanned) if around == "jit of a scan" else scanned)(state, stacked)
        losses = m.loss
    assert not state.params["dense_0"]["kernel"].is_deleted()  # what is traced is not donated
    expected = []
    for batch in batches:
        start, m = take(start, batch)
        expected.append(m.loss)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert_close((after.params, after.ema, after.opt_state), (start.params, start.ema, start.opt_state), 1e-5)
    assert int(after.step) == 4


@contextlib.contextmanager
def watching(flag):
    jax.config.update(flag, True)
    try:
        yield
    finally:
        jax.config.update(flag, False)


WATCHED = {
    "adam": {"tx": optax.adam(0.05)},
    "sgd": {"tx": optax.sgd(0.1)},
    "guarded": {"health": Signals(spikes="clip", respond=True, curvature=True)},
    "accumulated": {"accumulate": 4},
    "float16": {"precision": "float16"},
    "clipped": {"clip": 1.0},
    "lean": {"health": False},
}


@pytest.mark.parametrize("case", WATCHED)
@pytest.mark.parametrize("flag", ["jax_debug_nans", "jax_debug_infs"])
def test_a_healthy_step_holds_neither_nan_nor_infinity(flag, case):
    """Fault: what did not apply stood as NaN in the record, so that jax.debug_nans stopped at a healthy step."""
    with watching(flag):
        step, state, _ = made(None, **WATCHED[case])
        for detail in DETAILS:
            state, m = step(state, make_batch(), detail)
            assert m.skipped == 0


def test_debug_nans_still_finds_the_nan_of_a_step_that_is_not_healthy():
    batch = {**make_batch(), "inputs": np.full((16, 5), np.nan, np.float32)}
    with watching("jax_debug_nans"):
        _, state, take = made("rows")
        with pytest.raises(FloatingPointError, match="nan"):
            take(state, batch)


@pytest.mark.parametrize("detail", DETAILS[:3])
def test_checkify_of_a_step(detail):
    def loss_fn(params, batch, key):
        checkify.check(jnp.all(batch["labels"] >= 0), "a label is negative")
        return mean_loss(params, batch, key)

    step = jaxprop.make_train_step(loss_fn, optax.adam(0.05))
    state = step.init(make_params(), key=jax.random.key(0))
    checked = jax.jit(checkify.checkify(lambda state, batch: step(state, batch, detail), errors=checkify.user_checks))
    error, (after, _) = checked(state, make_batch())
    assert error.get() is None
    plain = jaxprop.make_train_step(mean_loss, optax.adam(0.05))
    assert_close(after.params, plain(state, make_batch(), detail)[0].params, 1e-5)
    state = step.init(make_params(), key=jax.random.key(0))
    error, _ = checked(state, {**make_batch(), "labels": np.full(16, -1, np.int32)})
    assert "a label is negative" in error.get()


@pytest.mark.parametrize("detail", DETAILS[:3])
def test_checkify_finds_no_nan_in_a_healthy_step_and_one_in_another(detail):
    _, state, take = made(detail)
    checked = jax.jit(checkify.checkify(take, errors=checkify.nan_checks))
    assert checked(state, make_batch())[0].get() is None
    bad = {**make_batch(), "inputs": np.full((16, 5), np.nan, np.float32)}
    assert "nan generated" in checked(state, bad)[0].get()


@pytest.mark.parametrize("detail", DETAILS[:3])
def test_a_float64_step_beside_float32_parameters(detail, x64):
    params = make_params()
    params["dense_1"] = jax.tree.map(lambda x: x.astype(np.float64), params["dense_1"])

    def loss_fn(params, batch, key):
        hidden = jnp.tanh(batch["inputs"] @ params["dense_0"]["kernel"] + params["dense_0"]["bias"])
        logits = hidden.astype(jnp.float64) @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    policy = jaxprop.core.precision.Policy(jnp.float64, jnp.float64, jnp.float64)
    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1), policy)
    state = step.init(params, key=jax.random.key(0))
    batch = {**make_batch(), "inputs": make_batch()["inputs"].astype(np.float64)}
    grads = jax.grad(loss_fn)(state.params, batch, None)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    state, m = step(state, batch, detail)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype(np.float64)}
    assert_close(state.params, expected, rtol=1e-12)
    np.testing.assert_allclose(m.grad_norm, norm, rtol=1e-6)


def test_two_runs_are_the_same_to_the_bit():
    after = []
    for _ in range(2):
        _, state, take = made("full")
        for i in range(3):
            state, m = take(state, make_batch(i))
        after.append((state, m.packed))
    assert_same_bits(*after)
