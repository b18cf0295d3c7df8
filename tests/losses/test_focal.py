"""The focal loss against its formula, and its gradient by differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.losses.focal import focal
from tests.gradients import check

RNG = np.random.default_rng(0)
LOGITS, TARGETS = 3 * RNG.normal(size=(5, 4)), RNG.integers(0, 2, (5, 4)).astype(np.float64)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 0.5)])
def test_equation(alpha, gamma):
    p = 1 / (1 + np.exp(-LOGITS))
    right = np.where(TARGETS == 1, p, 1 - p)
    expected = -np.where(TARGETS == 1, alpha, 1 - alpha) * (1 - right) ** gamma * np.log(right)
    found = focal(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(TARGETS, jnp.float32), alpha=alpha, gamma=gamma)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("gamma", [2.0, 0.0, 0.5])
def test_gradient(x64, gamma):
    weights = jnp.asarray(RNG.normal(size=LOGITS.shape))
    check(lambda o, _: jnp.vdot(weights, focal(o, jnp.asarray(TARGETS), gamma=gamma)), jnp.asarray(LOGITS))


@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_sure_answers_have_finite_losses_and_gradients(logit, target):
    loss, grad = jax.value_and_grad(focal)(jnp.float32(logit), jnp.float32(target), gamma=0.5)
    assert np.isfinite([loss, grad]).all()
