"""Softmax cross-entropy over tokens: masks, weights, and labels that count for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.losses.softmax import softmax_cross_entropy
from tests.gradients import check
from tests.losses.cases import TOKEN_LOGITS, TOKENS, check_equation, check_gradient, softmax_reference


@pytest.mark.parametrize("case", ["softmax", "softmax_smoothed"])
def test_equation(case):
    check_equation(case)


@pytest.mark.parametrize("case", ["softmax", "softmax_smoothed"])
def test_gradient(x64, case):
    check_gradient(case)


def test_gradient_of_tokens(x64):
    check(lambda outputs, _: jnp.vdot(*softmax_cross_entropy(outputs, TOKENS, z_loss=0.1)), jnp.asarray(TOKEN_LOGITS))


def test_tokens_aggregate_to_the_mean_over_real_tokens():
    per_example, weight = softmax_cross_entropy(jnp.asarray(TOKEN_LOGITS, jnp.float32), TOKENS)
    each = softmax_reference(TOKEN_LOGITS, TOKENS)
    real = TOKENS["mask"] * TOKENS["weight"][:, None]
    np.testing.assert_allclose(
        jnp.vdot(per_example, weight) / weight.sum(), (real * each).sum() / real.sum(), rtol=1e-6
    )
    np.testing.assert_array_equal(weight, [3, 0.5])


def test_absent_weight_and_mask_mean_one():
    bare = {"labels": TOKENS["labels"]}
    ones = {**bare, "mask": np.ones((2, 3), np.float32), "weight": np.ones(2, np.float32)}
    outputs = jnp.asarray(TOKEN_LOGITS, jnp.float32)
    for got, want in zip(softmax_cross_entropy(outputs, bare), softmax_cross_entropy(outputs, ones), strict=True):
        np.testing.assert_array_equal(got, want)


def test_an_example_of_padding_only_is_finite_and_weighs_nothing():
    batch = {**TOKENS, "mask": np.zeros((2, 3), np.float32)}
    per_example, weight = softmax_cross_entropy(jnp.asarray(TOKEN_LOGITS, jnp.float32), batch)
    assert per_example.tolist() == weight.tolist() == [0, 0]


@pytest.mark.parametrize("masked_by", ["mask", "weight"])
def test_what_counts_for_nothing_may_be_anything(masked_by):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5)), jnp.float32)
    labels = np.array([[1, 2, 3], [4, 0, 1]])
    hidden = np.array([[0, 1, 1], [0, 0, 0]] if masked_by == "weight" else [[0, 1, 1], [1, 0, 1]])
    batch = {"mask": np.float32(hidden), "weight": np.float32([1, masked_by == "mask"])}

    def total(labels, logits):
        per_example, weight = softmax_cross_entropy(logits, {**batch, "labels": labels})
        return jnp.sum(weight * per_example)

    spoiled = jnp.asarray(np.where(hidden, labels, -100))
    value, grads = jax.value_and_grad(total, argnums=1)(spoiled, logits)
    expected, expected_grads = jax.value_and_grad(total, argnums=1)(jnp.asarray(labels), logits)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(grads, expected_grads, rtol=1e-6)
