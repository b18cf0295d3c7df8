"""Curvature on quadratics, whose Hessian is known, and on a network, next to the whole Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxprop
from jaxprop.health.signals import curvature
from jaxprop.health.signals.settings import Signals
from tests.steps import make_batch, make_params, mean_loss

EIGENVALUES = {
    "spread": [0.1, 1.0, 2.0, 5.0],
    "negative and largest": [1.0, -4.0, 2.0, 0.5],
    "flat": [0.0, 0.0, 0.0, 3.0],
}


def quadratic(eigenvalues, seed=0):
    """`w^T H w / 2` over a tree of two leaves, and H."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))
    hessian = (rotation * eigenvalues @ rotation.T).astype(np.float32)

    def loss(params):
        w = jnp.concatenate([params["a"], params["b"]])
        return w @ hessian @ w / 2

    return loss, hessian


PARAMS = {"a": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array([3.0])}


@pytest.mark.parametrize("case", EIGENVALUES)
def test_on_a_quadratic_curvature_is_exact_and_sharpness_converges(case):
    loss, hessian = quadratic(EIGENVALUES[case])
    gradient = jax.grad(loss)
    grads = gradient(PARAMS)
    measure = jax.jit(lambda v: curvature.measure(gradient, PARAMS, grads, v))
    v, seen = curvature.init_direction(PARAMS, jax.random.key(1)), []
    for _ in range(60):
        along, sharpness, v = measure(v)
        seen.append(float(sharpness))
    g = ravel_pytree(grads)[0]
    np.testing.assert_allclose(along, g @ hessian @ g / (g @ g), rtol=1e-5)
    largest = max(EIGENVALUES[case], key=abs)
    np.testing.assert_allclose(seen[-1], largest, rtol=1e-4)
    assert abs(seen[0] - largest) > 1e-2
    np.testing.assert_allclose(np.linalg.norm(ravel_pytree(v)[0]), 1, rtol=1e-6)


@pytest.mark.parametrize("gradient", [jnp.zeros_like, lambda w: w * np.float32(np.nan)], ids=["flat", "nan"])
def test_from_a_flat_or_a_broken_place_the_direction_comes_back(gradient):
    v = jnp.array([0.6, 0.8])
    _, _, after = curvature.measure(gradient, jnp.ones(2), jnp.zeros(2), v)
    np.testing.assert_array_equal(after, v)


def test_at_a_minimum_the_curvature_along_the_gradient_is_0():
    gradient = jax.grad(lambda w: jnp.sum(w**2))
    along, sharpness, _ = curvature.measure(gradient, jnp.zeros(2), jnp.zeros(2), jnp.array([1.0, 0.0]))
    assert (float(along), float(sharpness)) == (0, 2)


OPTIONS = {
    "plain": ({}, 1e-4),
    "loss scale, microbatches": ({"precision": "float16", "accumulate": 2}, 3e-2),
    "eight devices, several steps": ({"mesh": 8, "steps_per_call": 2}, 1e-4),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_in_the_step_both_are_those_of_the_whole_hessian(case):
    options, rtol = OPTIONS[case]
    options = {**options, "mesh": jaxprop.make_mesh(8)} if "mesh" in options else options
    tx, health, batch = optax.sgd(0.0), Signals(curvature=True), make_batch()
    step = jaxprop.make_train_step(mean_loss, tx, health=health, cast=("inputs",), **options)
    params = {n: {"kernel": x["kernel"], "bias": x["bias"] + np.float32(0.5)} for n, x in make_params().items()}
    kept = {n: options[n] for n in ("precision", "mesh") if n in options}
    state = jaxprop.init_state(params, tx, key=jax.random.key(0), health=health, **kept)
    several = options.get("steps_per_call", 1)
    batches = {n: np.stack([x] * several) for n, x in batch.items()} if several > 1 else batch
    for _ in range(40):
        # One call at a time: with dozens in flight on a busy machine, devices wait for each other until XLA aborts.
        state, m = jax.block_until_ready(step(state, batches, "full"))
    m = m if several == 1 else m.at(several - 1)
    flat, unravel = ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda w: mean_loss(unravel(w), batch, None)))(flat)
    g = ravel_pytree(jax.grad(lambda p: mean_loss(p, batch, None))(params))[0]
    np.testing.assert_allclose(m.rare.curvature, g @ hessian @ g / (g @ g), rtol=rtol)
    np.testing.assert_allclose(m.rare.sharpness, np.abs(np.linalg.eigvalsh(hessian)).max(), rtol=max(rtol, 1e-3))


def test_a_step_that_is_not_finite_does_not_spoil_the_next_ones():
    tx, health = optax.sgd(0.1), Signals(curvature=True)
    step = jaxprop.make_train_step(lambda p, b, k: jnp.mean(b["x"] * p["w"] ** 2), tx, health=health)
    state = jaxprop.init_state({"w": np.ones(3, np.float32)}, tx, key=jax.random.key(0), health=health)
    for value in (1, np.nan, 1):
        state, m = step(state, {"x": np.full(3, value, np.float32)}, "full")
    np.testing.assert_allclose(m.rare.sharpness, 2 / 3, rtol=1e-5)


def test_it_is_nan_where_it_is_not_asked_for():
    tx = optax.sgd(0.1)
    state = jaxprop.init_state(make_params(), tx, key=jax.random.key(0))
    _, m = jaxprop.make_train_step(mean_loss, tx)(state, make_batch(), "full")
    assert np.isnan([m.rare.curvature, m.rare.sharpness]).all()
