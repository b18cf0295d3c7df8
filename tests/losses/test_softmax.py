"""Softmax cross-entropy over tokens: masks, weights, and labels that count for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.errors import ShapeError
from jaxprop.losses.softmax import softmax_cross_entropy
from tests.gradients import check
from tests.losses.cases import CLASSES, LOGITS, TOKEN_LOGITS, TOKENS, check_equation, check_gradient, softmax_reference


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


# -- shares of classes ------------------------------------------------------------------------------

SETTINGS = [{}, {"label_smoothing": 0.2}, {"z_loss": 0.1}, {"label_smoothing": 0.1, "z_loss": 0.01}]


def shares(*shape):
    drawn = np.random.default_rng(1).dirichlet(np.ones(shape[-1]), shape[:-1])
    return drawn.astype(np.float32)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("logits", "batch"), [(LOGITS, CLASSES), (TOKEN_LOGITS, TOKENS)])
def test_all_of_a_label_in_one_class_is_that_class(logits, batch, settings):
    outputs = jnp.asarray(logits, jnp.float32)
    soft = {**batch, "labels": jax.nn.one_hot(batch["labels"], logits.shape[-1])}
    found, expected = (softmax_cross_entropy(outputs, b, **settings) for b in (soft, batch))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("logits", [LOGITS, TOKEN_LOGITS])
def test_the_loss_is_linear_in_the_shares(x64, logits, settings):
    """So that it is the mean of the losses of all classes, by their shares."""
    outputs, labels = jnp.asarray(logits), jnp.asarray(shares(*logits.shape), jnp.float64)
    labels = labels / labels.sum(-1, keepdims=True)
    mask = np.ones(logits.shape[:-1])
    found, _ = softmax_cross_entropy(outputs, {"labels": labels, "mask": mask}, **settings)
    of_classes = [
        softmax_cross_entropy(outputs[:, None] if logits.ndim == 2 else outputs.reshape(-1, 1, logits.shape[-1]),
                              {"labels": np.full((mask.size, 1), c, np.int32)}, **settings)[0].reshape(mask.shape)
        for c in range(logits.shape[-1])
    ]  # fmt: skip
    each = np.sum(np.stack(of_classes, -1) * labels, -1)
    np.testing.assert_allclose(found, each.reshape(len(logits), -1).mean(-1), rtol=1e-9)
    check(lambda o, _: jnp.sum(softmax_cross_entropy(o, {"labels": labels}, **settings)[0]), outputs)


def test_a_class_without_a_share_may_have_a_logit_of_minus_infinity():
    outputs, labels = jnp.array([[0.0, -jnp.inf, 1.0]]), jnp.array([[0.25, 0.0, 0.75]])
    value, grads = jax.value_and_grad(lambda o: softmax_cross_entropy(o, {"labels": labels})[0].sum())(outputs)
    kept = jax.value_and_grad(lambda o: softmax_cross_entropy(o, {"labels": labels[:, ::2]})[0].sum())(outputs[:, ::2])
    np.testing.assert_allclose(value, kept[0], rtol=1e-6)
    np.testing.assert_allclose(grads[:, ::2], kept[1], rtol=1e-6)
    assert float(grads[0, 1]) == 0


@pytest.mark.parametrize("label", [[0.5, 0.4, 0.0], [-0.5, 1.0, 0.5], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [np.nan, 1, 0]])
def test_what_is_no_distribution_gives_nan_where_it_counts(label):
    labels = jnp.array([[0.2, 0.3, 0.5], label])
    outputs = jnp.zeros((2, 3))

    def total(outputs, weight):
        loss, weight = softmax_cross_entropy(outputs, {"labels": labels, "weight": weight})
        return jnp.sum(loss * weight), loss

    (_, loss), grads = jax.value_and_grad(total, has_aux=True)(outputs, jnp.array([1.0, 1.0]))
    assert np.isnan(loss).tolist() == [False, True]
    assert np.isnan(grads).any(1).tolist() == [False, True]
    (value, _), grads = jax.value_and_grad(total, has_aux=True)(outputs.at[1].set(jnp.nan), jnp.array([1.0, 0.0]))
    assert np.isfinite(value)
    assert np.isfinite(grads).all()


def test_shares_rounded_to_bfloat16_are_taken():
    labels = jnp.asarray(shares(50, 100)).astype(jnp.bfloat16)
    assert np.isfinite(softmax_cross_entropy(jnp.zeros((50, 100)), {"labels": labels})[0]).all()


@pytest.mark.parametrize("labels", [np.zeros(4, np.float32), np.zeros((4, 2), np.float32), np.zeros((4, 3), bool)])
def test_labels_that_are_neither_classes_nor_shares(labels):
    with pytest.raises(ShapeError, match=r"expected (integer )?labels"):
        softmax_cross_entropy(jnp.zeros((4, 3)), {"labels": labels})
