"""Divergences from a teacher against the formulas in NumPy and central differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.errors import ShapeError
from jaxprop.losses import DIVERGENCES, sigmoid_divergence, softmax_divergence, squared_divergence
from tests.gradients import check
from tests.losses.cases import CLASSES, LOGITS, TOKEN_LOGITS, TOKENS, log_sigmoid, log_softmax

RNG = np.random.default_rng(1)
TOLD, TOKENS_TOLD = RNG.normal(size=LOGITS.shape), RNG.normal(size=TOKEN_LOGITS.shape)


def softmax_reference(outputs, told, t):
    p, q = log_softmax(told / t), log_softmax(outputs / t)
    return t**2 * (np.exp(p) * (p - q)).sum(-1)


def sigmoid_reference(outputs, told, t):
    o, y = outputs / t, told / t
    p = np.exp(log_sigmoid(y))
    both = p * (log_sigmoid(y) - log_sigmoid(o)) + (1 - p) * (log_sigmoid(-y) - log_sigmoid(-o))
    return t**2 * both.mean(-1)


def squared_reference(outputs, told, t):
    return (np.square(outputs - told) / 2).mean(-1)


REFERENCES = {"softmax": softmax_reference, "sigmoid": sigmoid_reference, "squared": squared_reference}


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_formula(name, temperature):
    values, weight = DIVERGENCES[name](
        jnp.asarray(LOGITS), {"teacher": TOLD, "weight": CLASSES["weight"]}, temperature=temperature
    )
    counts = CLASSES["weight"] != 0
    np.testing.assert_allclose(values[counts], REFERENCES[name](LOGITS, TOLD, temperature)[counts], rtol=1e-5)
    np.testing.assert_array_equal(weight, CLASSES["weight"])


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradient(name):
    with jax.enable_x64(True):
        told = jnp.asarray(TOLD)
        check(lambda x, _: DIVERGENCES[name](x, {"teacher": told}, temperature=3.0)[0].sum(), jnp.asarray(LOGITS))


def test_the_mean_of_tokens_is_by_their_mask():
    batch = {"teacher": TOKENS_TOLD, "mask": TOKENS["mask"], "weight": TOKENS["weight"]}
    values, weight = softmax_divergence(jnp.asarray(TOKEN_LOGITS), batch, temperature=2.0)
    each = softmax_reference(TOKEN_LOGITS, TOKENS_TOLD, 2.0)
    np.testing.assert_allclose(values, [each[0].mean(), each[1, 0]], rtol=1e-5)
    np.testing.assert_allclose(weight, [3.0, 0.5])


@pytest.mark.parametrize("name", DIVERGENCES)
def test_what_counts_for_nothing_may_be_anything(name):
    outputs, told = LOGITS.astype(np.float32), TOLD.astype(np.float32)
    outputs[3], told[3] = np.nan, np.inf
    batch = {"teacher": told, "weight": CLASSES["weight"]}

    def total(x):
        values, weight = DIVERGENCES[name](x, batch)
        return jnp.sum(jnp.where(weight != 0, weight * values, 0))

    loss, grads = jax.value_and_grad(total)(jnp.asarray(outputs))
    assert np.isfinite(loss)
    assert np.isfinite(grads).all()
    assert not grads[3].any()


def test_a_class_that_the_teacher_rules_out_adds_nothing():
    told = jnp.array([[0.0, -jnp.inf, 1.0]])
    loss, grads = jax.value_and_grad(lambda x: softmax_divergence(x, {"teacher": told})[0].sum())(jnp.ones((1, 3)))
    assert np.isfinite(loss)
    assert np.isfinite(grads).all()
    np.testing.assert_allclose(loss, softmax_reference(np.ones((1, 3)), np.array([[0.0, -200.0, 1.0]]), 1.0)[0], 1e-5)


def test_nothing_is_to_be_learned_from_the_same_outputs():
    for divergence in (softmax_divergence, sigmoid_divergence, squared_divergence):
        x = jnp.asarray(LOGITS)
        grads = jax.grad(lambda x, told, one=divergence: one(x, {"teacher": told})[0].sum())(x, x)
        np.testing.assert_allclose(grads, 0, atol=1e-6)


def test_outputs_of_another_shape():
    with pytest.raises(ShapeError, match=r"shape \[4, 3\], as the model's are, got \[4, 2\]; use a teacher"):
        softmax_divergence(jnp.zeros((4, 3)), {"teacher": jnp.zeros((4, 2))})
