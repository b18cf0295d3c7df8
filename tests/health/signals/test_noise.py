"""The gradient noise scale: unbiased, and of the microbatches that the step takes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core.precision import Scaling
from jaxprop.health.signals.noise import noise

MEAN = np.array([1.0, -0.5, 0.25, 0.0])
DEVIATION = np.array([2.0, 1.0, 0.5, 3.0])


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_the_noise_estimates_are_unbiased(accumulate):
    draws, examples = 20_000, 16
    gradients = MEAN + DEVIATION * np.random.default_rng(7).normal(size=(draws, examples, 4))
    micro = gradients.reshape(draws, accumulate, -1, 4).mean(2)
    batch_square = np.sum(gradients.mean(1) ** 2, -1)
    trace, signal = noise(batch_square, np.sum(micro**2, -1).mean(1), examples, accumulate)
    for found, expected in ((trace, np.sum(DEVIATION**2)), (signal, np.sum(MEAN**2))):
        assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(draws)
        assert found.std() / np.sqrt(draws) < 0.05 * expected


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_steps_noise_is_that_of_its_microbatches(precision):
    x = (MEAN + DEVIATION * np.random.default_rng(8).normal(size=(16, 4))).astype(np.float32)
    tx, options = optax.sgd(0.1), {"precision": precision, "scaling": Scaling(initial=64.0)}
    state = jaxprop.init_state({"w": np.zeros(4, np.float32)}, tx, key=jax.random.key(0), **options)
    step = jaxprop.make_train_step(lambda p, b, k: jnp.mean(b["x"] @ p["w"]), tx, accumulate=4, cast=("x",), **options)
    _, m = step(state, {"x": x}, "full")
    micro = [np.sum(x[k::4].mean(0) ** 2) for k in range(4)]
    expected = noise(np.sum(x.mean(0) ** 2), np.mean(micro), 16, 4)
    np.testing.assert_allclose(
        [m.rare.noise_trace, m.rare.noise_signal], expected, rtol=1e-4 if precision == "float32" else 2e-2
    )


def test_without_microbatches_there_is_no_estimate():
    assert [x.item() for x in noise(jnp.float32(1), jnp.float32(1), 8, 1)] == [0.0, 0.0]


def test_padding_has_no_noise():
    """Half of the examples have weight 0: the estimates are those of the other half, whatever the microbatches."""
    found = []

    def loss_fn(params, batch, key):
        weight = batch["weight"]
        return jnp.vdot(weight, batch["x"] @ params["w"]) / jnp.sum(weight), {"weight": jnp.sum(weight)}

    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.0), accumulate=4, cast=("x",))
    state = step.init({"w": np.zeros(4, np.float32)}, key=jax.random.key(0))
    for i in range(300):
        x = (MEAN + DEVIATION * np.random.default_rng(i).normal(size=(16, 4))).astype(np.float32)
        state, m = step(state, {"x": x, "weight": (np.arange(16) < 8).astype(np.float32)}, "full")
        found.append([float(m.rare.noise_trace), float(m.rare.noise_signal)])
    expected = np.array([np.sum(DEVIATION**2), np.sum(MEAN**2)])
    assert (np.abs(np.mean(found, 0) - expected) < 4 * np.std(found, 0) / 300**0.5).all()
    assert (np.std(found, 0) / 300**0.5 < 0.15 * expected).all()


def test_microbatches_of_padding_alone_do_not_count():
    step = jaxprop.make_train_step(
        lambda p, b, k: (jnp.mean(b["x"] * p), {"weight": jnp.sum(b["weight"])}),
        optax.sgd(0.0),
        accumulate=4,
        cast=True,
    )
    state = step.init(jnp.zeros(()), key=jax.random.key(0))
    batch = {"x": np.ones(8, np.float32), "weight": np.array([1, 0, 0, 0, 1, 0, 0, 0], np.float32)}
    _, m = step(state, batch, "full")
    assert (float(m.rare.noise_trace), float(m.rare.noise_signal)) == (0, 0)
