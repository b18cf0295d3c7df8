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
    assert np.isnan(noise(jnp.float32(1), jnp.float32(1), 8, 1)).all()
