"""Adam's lag and its tiny second moments, against an Adam run by hand in float64."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core.layers import group_layers
from jaxprop.health.signals import adam
from jaxprop.health.signals.settings import Signals
from tests.steps import entries, make_batch, make_params, mean_loss, one_step

B2, EPS = 0.99, 1e-8
ADAM = optax.adam(0.01, b2=B2, eps=EPS)
LABELS = {"dense_0": "adam", "dense_1": "sgd"}
CLIP = 0.05
OPTIMIZERS = {  # transformation, norm it clips to, layers that have a second moment
    "adam": (ADAM, None, (True, True)),
    "clipped": (optax.chain(optax.clip_by_global_norm(CLIP), ADAM), CLIP, (True, True)),
    "partition": (
        optax.partition({"adam": ADAM, "sgd": optax.sgd(0.1)}, lambda p: {n: LABELS[n] for n in p}),
        None,
        (True, False),
    ),
    "masked": (optax.masked(ADAM, {"dense_0": {"kernel": True, "bias": True}, "dense_1": False}), None, (True, False)),
    "injected": (optax.inject_hyperparams(optax.adam)(0.01, b2=B2, eps=EPS), None, (True, True)),
    "sgd": (optax.sgd(0.1, momentum=0.9), None, (False, False)),
    "adafactor": (optax.adafactor(0.01), None, (False, False)),
}


def adam_by_hand(grads, eps=EPS):
    """Lags and tiny shares of every step of a gradient's series, float64."""
    nu, found = np.zeros_like(grads[0]), []
    for t, g in enumerate(grads, 1):
        nu = B2 * nu + (1 - B2) * g**2
        v = nu / (1 - B2**t)
        found.append((np.sqrt(np.mean(g**2 / np.maximum(v, eps**2))), np.mean(np.sqrt(v) < 10 * eps)))
    return np.array(found)


def followed(tx, settings, steps=4):
    """Records of a few steps, and the gradient before each, by layer."""
    state = jaxprop.init_state(make_params(), tx, key=jax.random.key(0))
    step = jaxprop.make_train_step(mean_loss, tx, health=settings)
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
    tx, clip, has = OPTIMIZERS[case]
    records, grads = followed(tx, Signals(b2=B2, eps=EPS))
    if clip is not None:
        norms = [np.sqrt(sum(np.sum(x**2) for x in g)) for g in grads]
        assert min(norms) > clip
        grads = [[x * clip / n for x in g] for g, n in zip(grads, norms, strict=True)]
    for layer in range(2):
        found = np.array([[m.layers.adam_lag[layer], m.rare.tiny_second_moment[layer]] for m in records])
        expected = adam_by_hand([g[layer] for g in grads]) if has[layer] else np.full_like(found, np.nan)
        np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_a_large_epsilon_takes_over_and_is_counted():
    eps = 2e-3
    records, grads = followed(optax.adam(0.01, b2=B2, eps=eps), Signals(b2=B2, eps=eps))
    for layer in range(2):
        found = [[m.layers.adam_lag[layer], m.rare.tiny_second_moment[layer]] for m in records]
        expected = adam_by_hand([g[layer] for g in grads], eps)
        np.testing.assert_allclose(found, expected, rtol=2e-4)
        assert 0 < expected[0, 1] < 1


def test_the_lag_of_a_layer_that_is_half_masked_is_of_the_other_half():
    mask = {name: {"kernel": True, "bias": False} for name in LABELS}
    records, _ = followed(optax.masked(ADAM, mask), Signals(b2=B2), steps=1)
    np.testing.assert_allclose(records[0].layers.adam_lag, 1, rtol=1e-3)  # the first step's, whatever the gradient


def test_the_lag_sees_a_gradient_that_jumps():
    tx = optax.adam(1e-3, b2=B2)
    step = jaxprop.make_train_step(lambda p, b, k: jnp.sum(p["w"] * b["x"][0]), tx, health=Signals(b2=B2))
    state = jaxprop.init_state({"w": np.ones(4, np.float32)}, tx, key=jax.random.key(0))
    for size in [1] * 20 + [100]:
        state, m = step(state, {"x": np.full((1, 4), size, np.float32)}, "rows")
    np.testing.assert_allclose(
        m.layers.adam_lag, [adam_by_hand([np.ones(4)] * 20 + [np.full(4, 100)])[-1, 0]], rtol=1e-3
    )
    assert m.layers.adam_lag[0] > 3


class OtherState(NamedTuple):
    count: Any
    mu: Any
    nu: Any


def test_a_second_moment_of_another_shape_is_none():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    state = OtherState(jnp.int32(1), params, {"w": jnp.ones(()), "b": jnp.ones(3)})
    found = adam.moments(state, state, params)
    lags = adam.adam_lag(group_layers(params), found, B2, EPS)
    assert np.isfinite(lags).tolist() == [True, False]  # b, w
    none = state._replace(nu={"w": jnp.ones(()), "b": jnp.ones(())})
    assert adam.moments(none, none, params) is None


def test_an_optimizer_whose_nu_is_no_mean_of_squares_has_no_lag():
    tx = optax.adamax(0.1)
    assert np.isfinite(one_step(tx=tx).layers.adam_lag).all()  # what it would be taken for
    m = one_step(tx=tx, health=Signals(b2=None))
    assert np.isnan(m.layers.adam_lag).all()
    assert np.isnan(m.rare.tiny_second_moment).all()
