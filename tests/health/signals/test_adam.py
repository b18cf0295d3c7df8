"""Adam's lag, its tiny second moments and its b2, against an Adam run by hand in float64."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core.layers import group_layers
from jaxprop.core.measurements import NOT_APPLICABLE
from jaxprop.health.signals import adam
from jaxprop.health.signals.settings import Signals
from tests.steps import entries, make_batch, make_params, mean_loss

B2, EPS = 0.99, 1e-8
ADAM = optax.adam(0.01, b2=B2, eps=EPS)
LABELS = {"dense_0": "adam", "dense_1": "sgd"}
CLIP = 0.05
OPTIMIZERS = {  # transformation, its b2, norm it clips to, layers that have a second moment
    "adam": (ADAM, B2, None, (True, True)),
    "b2 of 0.9": (optax.adam(0.01, b2=0.9), 0.9, None, (True, True)),
    "b2 of 0.95": (optax.adamw(0.01, b2=0.95), 0.95, None, (True, True)),
    "b2 of 0.999": (optax.adam(0.01), 0.999, None, (True, True)),
    "nesterov": (optax.nadam(0.01, b2=0.95), 0.95, None, (True, True)),
    "moments in bfloat16": (optax.adam(0.01, b2=B2, mu_dtype=jnp.bfloat16), B2, None, (True, True)),
    "clipped": (optax.chain(optax.clip_by_global_norm(CLIP), ADAM), B2, CLIP, (True, True)),
    "partition": (
        optax.partition({"adam": ADAM, "sgd": optax.sgd(0.1)}, lambda p: {n: LABELS[n] for n in p}),
        B2, None, (True, False),
    ),
    "masked": (
        optax.chain(
            optax.masked(ADAM, {"dense_0": {"kernel": True, "bias": True}, "dense_1": False}),
            optax.masked(optax.sgd(0.1), {"dense_0": False, "dense_1": True}),
        ),
        B2,
        None,
        (True, False),
    ),
    "injected": (optax.inject_hyperparams(optax.adam)(0.01, b2=B2, eps=EPS), B2, None, (True, True)),
    "injected b2 of 0.9": (optax.inject_hyperparams(optax.adamw)(0.01, b2=0.9), 0.9, None, (True, True)),
    "b2 in the code": (optax.inject_hyperparams(optax.adam, static_args="b2")(0.01, b2=0.9), 0.9, None, (True, True)),
    "sgd": (optax.sgd(0.1, momentum=0.9), B2, None, (False, False)),
    "adafactor": (optax.adafactor(0.01), B2, None, (False, False)),
    "adabelief": (optax.adabelief(0.01), B2, None, (False, False)),
    "adamax": (optax.adamax(0.01), B2, None, (False, False)),
    "yogi": (optax.yogi(0.01), B2, None, (False, False)),
}  # fmt: skip


def adam_by_hand(grads, eps=EPS, b2=B2):
    """Lags and tiny shares of every step of a gradient's series, float64."""
    nu, found = np.zeros_like(grads[0]), []
    for t, g in enumerate(grads, 1):
        nu = b2 * nu + (1 - b2) * g**2
        v = nu / (1 - b2**t)
        found.append((np.sqrt(np.mean(g**2 / np.maximum(v, eps**2))), np.mean(np.sqrt(v) < 10 * eps)))
    return np.array(found)


def followed(tx, settings=True, steps=4):
    """Records of a few steps, and the gradient before each, by layer."""
    step = jaxprop.make_train_step(mean_loss, tx, health=settings)
    state = step.init(make_params(), key=jax.random.key(0))
    grad = jax.jit(jax.grad(lambda p, b: mean_loss(p, b, None)))
    records, grads = [], []
    for i in range(steps):
        batch = make_batch(i)
        grads.append(entries(grad(state.params, batch)))
        state, m = step(state, batch, "full")
        records.append(m.host())
    return records, grads


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_adam_lag_is_that_of_an_adam_run_by_hand(case):
    """Nobody tells the step b2: it reads it off the optimizer, or there is no lag."""
    tx, b2, clip, has = OPTIMIZERS[case]
    records, grads = followed(tx)
    if clip is not None:
        norms = [np.sqrt(sum(np.sum(x**2) for x in g)) for g in grads]
        assert min(norms) > clip
        grads = [[x * clip / n for x in g] for g, n in zip(grads, norms, strict=True)]
    for layer in range(2):
        found = np.array([[m.layers.adam_lag[layer], m.rare.tiny_second_moment[layer]] for m in records])
        expected = adam_by_hand([g[layer] for g in grads], b2=b2) if has[layer] else np.full_like(found, np.nan)
        np.testing.assert_allclose(found, expected, rtol=5e-4)


def test_a_b2_that_is_told_has_the_last_word():
    records, grads = followed(optax.adam(0.01, b2=0.999), Signals(b2=B2), steps=1)
    for layer in range(2):
        square = grads[0][layer] ** 2
        nu = (1 - 0.999) * square  # of the optimizer, taken for one of another b2
        lag = np.sqrt(np.mean((nu / (1 - B2)) / np.maximum(nu / (1 - B2), EPS**2)))
        np.testing.assert_allclose(records[0].layers.adam_lag[layer], lag, rtol=5e-4)
    records, _ = followed(optax.adamax(0.01), Signals(b2=0.999), steps=1)
    assert np.isfinite(records[0].layers.adam_lag).all()


def test_a_large_epsilon_takes_over_and_is_counted():
    eps = 2e-3
    records, grads = followed(optax.adam(0.01, b2=B2, eps=eps), Signals(eps=eps))
    for layer in range(2):
        found = [[m.layers.adam_lag[layer], m.rare.tiny_second_moment[layer]] for m in records]
        expected = adam_by_hand([g[layer] for g in grads], eps)
        np.testing.assert_allclose(found, expected, rtol=2e-4)
        assert 0 < expected[0, 1] < 1


def test_the_lag_of_a_layer_that_is_half_masked_is_of_the_other_half():
    mask = {name: {"kernel": True, "bias": False} for name in LABELS}
    rest = jax.tree.map(lambda on: not on, mask)
    records, _ = followed(optax.chain(optax.masked(ADAM, mask), optax.masked(optax.sgd(0.1), rest)), steps=1)
    np.testing.assert_allclose(records[0].layers.adam_lag, 1, rtol=1e-3)  # the first step's, whatever the gradient


def test_the_lag_sees_a_gradient_that_jumps():
    tx = optax.adam(1e-3, b2=B2)
    step = jaxprop.make_train_step(lambda p, b, k: jnp.sum(p["w"] * b["x"][0]), tx)
    state = step.init({"w": np.ones(4, np.float32)}, key=jax.random.key(0))
    for size in [1] * 20 + [100]:
        state, m = step(state, {"x": np.full((1, 4), size, np.float32)}, "full")
    np.testing.assert_allclose(
        m.layers.adam_lag, [adam_by_hand([np.ones(4)] * 20 + [np.full(4, 100)])[-1, 0]], rtol=1e-3
    )
    assert m.layers.adam_lag[0] > 3


class OtherState(NamedTuple):
    count: Any
    mu: Any
    nu: Any


def moving(grads, state):
    """A second moment of `b` alone."""
    nu = {"w": state.nu["w"], "b": 0.9 * state.nu["b"] + 0.1 * grads["b"] ** 2}
    return state._replace(count=state.count + 1, nu=nu)


def test_a_second_moment_of_another_shape_is_none():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    state = OtherState(jnp.int32(0), params, {"w": jnp.ones(()), "b": jnp.zeros(3)})
    [found] = adam.moments(moving, params, state, moving(params, state), params)
    assert (round(found.decay, 5), int(found.count)) == (0.9, 1)
    assert [x is None for x in found.after] == [False, True]  # b, w
    rows = adam.adam_rows(group_layers(params), [found], [EPS])
    np.testing.assert_allclose(rows["adam_lag"], [1, NOT_APPLICABLE], rtol=1e-6)
    np.testing.assert_allclose(rows["tiny_second_moment"], [0, NOT_APPLICABLE])
    none = state._replace(nu={"w": jnp.ones(()), "b": jnp.ones(())})
    assert adam.moments(moving, params, none, none, params) == []


UPDATES = {  # how a second moment moves, and the b2 that is to be read off it
    "mean of squares": (lambda nu, g: 0.9 * nu + 0.1 * g**2, 0.9),
    "the other way around": (lambda nu, g: (g * g) * 0.1 + nu * 0.9, 0.9),
    "in jit": (jax.jit(lambda nu, g: 0.9 * nu + 0.1 * g**2), 0.9),
    "shares that do not add up": (lambda nu, g: 0.9 * nu + g**2, None),
    "by a difference": (lambda nu, g: nu + 0.1 * (g**2 - nu), None),
    "a maximum": (lambda nu, g: jnp.maximum(0.9 * nu, jnp.abs(g)), None),
    "not at all": (lambda nu, g: nu, None),
}


@pytest.mark.parametrize("case", UPDATES)
def test_b2_is_read_off_the_update_where_it_is_a_mean_of_squares(case):
    function, expected = UPDATES[case]
    params = {"w": jnp.ones(3)}
    state = OtherState(jnp.int32(0), params, params)

    def update(grads, state):
        return state._replace(nu={"w": function(state.nu["w"], grads["w"])})

    found = adam.moments(update, params, state, update(params, state), params)
    assert [one.decay for one in found] == pytest.approx([] if expected is None else [expected])


def test_a_mean_of_other_squares_than_the_gradients_is_what_the_lag_is_taken_from():
    """What Adam saw stands in its moment: whatever clips or scales before it is no part of the lag."""
    tx = optax.chain(optax.scale(1e-3), ADAM)
    scaled, _ = followed(tx)
    plain, _ = followed(optax.adam(0.01, b2=B2, eps=EPS))
    for found, expected in zip(scaled, plain, strict=True):
        np.testing.assert_allclose(found.layers.adam_lag, expected.layers.adam_lag, rtol=2e-2)


def test_each_adam_of_a_partition_has_its_own_b2():
    label = {"a": {"w": "fast"}, "b": {"w": "slow"}}
    tx = optax.partition({"fast": optax.adam(1e-3, b2=0.9), "slow": optax.adam(1e-3, b2=0.99)}, label)
    step = jaxprop.make_train_step(lambda p, b, key: jnp.vdot(b[0], p["a"]["w"]) + jnp.vdot(b[1], p["b"]["w"]), tx)
    state = step.init({"a": {"w": jnp.zeros(2)}, "b": {"w": jnp.zeros(2)}}, key=jax.random.key(0))
    nu, decay = np.zeros((2, 2)), np.array([[0.9], [0.99]])
    for t in range(1, 20):
        grads = np.random.default_rng(t).normal(size=(2, 2)).astype(np.float32)
        state, m = step(state, grads, "full")
        nu = decay * nu + (1 - decay) * grads**2
        expected = np.sqrt(np.mean(grads**2 / (nu / (1 - decay**t)), 1))
        np.testing.assert_allclose(m.layers.adam_lag, expected, rtol=2e-3)
