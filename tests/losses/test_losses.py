"""Losses against their equations, their gradients, and their aggregation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.schema import task
from jaxprop.config.schema.model import Mlp
from jaxprop.core.precision import policy
from jaxprop.errors import ShapeError
from jaxprop.losses import LOSSES, make_loss
from jaxprop.losses.huber import huber
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.losses.squared import squared_error
from jaxprop.metrics.accuracy import accuracy
from jaxprop.models import from_functions, make_model
from jaxprop.train.objective import loss_from
from jaxprop.types import Spec
from tests.gradients import check

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 3))
TOKEN_LOGITS = RNG.normal(size=(2, 3, 5))
CLASSES = {"labels": np.array([0, 2, 1, 1], np.int32), "weight": np.array([1, 1, 2, 0], np.float32)}
TOKENS = {
    "labels": RNG.integers(0, 5, (2, 3)).astype(np.int32),
    "mask": np.array([[1, 1, 1], [1, 0, 0]], np.float32),
    "weight": np.array([1, 0.5], np.float32),
}
MANY = {"labels": RNG.integers(0, 2, (4, 3)).astype(np.float32), "weight": CLASSES["weight"]}
TARGETS = {"labels": 2 * RNG.normal(size=(4, 3)).astype(np.float32), "weight": CLASSES["weight"]}


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def softmax_reference(logits, batch, label_smoothing=0.0, z_loss=0.0):
    classes = logits.shape[-1]
    target = (1 - label_smoothing) * np.eye(classes)[batch["labels"]] + label_smoothing / classes
    lse = np.log(np.exp(logits).sum(-1))
    return -(target * log_softmax(logits)).sum(-1) + z_loss * lse**2


def sigmoid_reference(logits, batch, label_smoothing=0.0):
    y = (1 - label_smoothing) * batch["labels"] + label_smoothing / 2
    return -(y * log_sigmoid(logits) + (1 - y) * log_sigmoid(-logits)).mean(-1)


def huber_reference(outputs, batch, delta=1.0):
    error = np.abs(outputs - batch["labels"])
    return np.where(error <= delta, error**2 / 2, delta * (error - delta / 2)).mean(-1)


CASES = {
    "softmax": (task.SoftmaxCrossEntropy(), LOGITS, CLASSES, softmax_reference),
    "softmax_smoothed": (
        task.SoftmaxCrossEntropy(label_smoothing=0.1, z_loss=0.01),
        LOGITS,
        CLASSES,
        lambda o, b: softmax_reference(o, b, 0.1, 0.01),
    ),
    "sigmoid": (task.SigmoidCrossEntropy(name="sigmoid_cross_entropy"), LOGITS, MANY, sigmoid_reference),
    "sigmoid_smoothed": (
        task.SigmoidCrossEntropy(name="sigmoid_cross_entropy", label_smoothing=0.2),
        LOGITS,
        MANY,
        lambda o, b: sigmoid_reference(o, b, 0.2),
    ),
    "squared": (
        task.SquaredError(name="squared_error"),
        LOGITS,
        TARGETS,
        lambda o, b: ((o - b["labels"]) ** 2).mean(-1) / 2,
    ),
    "huber": (task.Huber(name="huber", delta=0.7), LOGITS, TARGETS, lambda o, b: huber_reference(o, b, 0.7)),
}


@pytest.mark.parametrize("case", list(CASES))
def test_equation(case):
    section, outputs, batch, reference = CASES[case]
    for dtype, rtol in ((jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)):
        per_example, weight = make_loss(section)(jnp.asarray(outputs, dtype), batch)
        assert per_example.dtype == weight.dtype == jnp.float32
        expected = np.where(batch["weight"] != 0, reference(outputs, batch), 0)
        np.testing.assert_allclose(per_example, expected, rtol=rtol)
        np.testing.assert_array_equal(weight, batch["weight"])


@pytest.mark.parametrize("case", list(CASES))
def test_gradient(x64, case):
    section, outputs, batch, _ = CASES[case]
    loss = make_loss(section)
    check(lambda outputs, _: jnp.vdot(*loss(outputs, batch)), jnp.asarray(outputs))


def test_gradient_of_tokens(x64):
    check(lambda outputs, _: jnp.vdot(*softmax_cross_entropy(outputs, TOKENS, z_loss=0.1)), jnp.asarray(TOKEN_LOGITS))


def test_the_check_sees_a_wrong_gradient(x64):
    @jax.custom_jvp
    def square(x):
        return x**2

    square.defjvp(lambda primals, tangents: (primals[0] ** 2, 2.00001 * primals[0] * tangents[0]))
    with pytest.raises(AssertionError):
        check(lambda x, _: square(x).sum(), jnp.arange(1.0, 4.0))


def test_every_section_has_its_loss():
    assert {section.name for section, *_ in CASES.values()} == set(LOSSES)


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


@pytest.mark.parametrize(
    ("loss", "outputs", "labels", "message"),
    [
        (softmax_cross_entropy, (4, 3), np.zeros(5, np.int32), r"expected labels \[4\] .* got \[5\]"),
        (softmax_cross_entropy, (4, 3), np.zeros((4, 3), np.int32), r"expected labels \[4\]"),
        (softmax_cross_entropy, (4, 3), np.zeros(4, np.float32), "expected integer labels"),
        (squared_error, (4, 3), np.zeros((4, 2), np.float32), r"expected labels \[4, 3\]"),
        (huber, (4, 2), np.zeros(4, np.float32), r"expected labels \[4, 2\]"),
    ],
)
def test_shapes_that_disagree(loss, outputs, labels, message):
    with pytest.raises(ShapeError, match=message):
        jax.eval_shape(lambda o: loss(o, {"labels": labels}), jax.ShapeDtypeStruct(outputs, jnp.float32))


# -- a model bound to a loss --------------------------------------------------------------------


def linear(outputs_dtypes):
    def apply(params, extras, batch, *, key, train):
        outputs = batch["inputs"] @ params["w"]
        outputs_dtypes.append((batch["inputs"].dtype, outputs.dtype, train))
        return outputs, {"seen": extras["seen"] + (1 if train else 0)}

    return from_functions(lambda key, batch: ({"w": jnp.ones((3, 3))}, {"seen": jnp.float32(0)}), apply)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_an_objective_casts_by_policy_and_keeps_extras(precision):
    seen = []
    objective = loss_from(linear(seen), softmax_cross_entropy, {"accuracy": accuracy})
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES}
    dtypes = policy(precision)
    params, extras = {"w": jnp.eye(3)}, {"seen": jnp.float32(0)}
    loss, (weight, new, sums) = objective.mean_loss(params, extras, batch, jax.random.key(0), dtypes)
    assert seen == [(dtypes.compute, dtypes.compute, True)]
    assert loss.dtype == weight.dtype == new["seen"].dtype == jnp.float32
    assert (weight, new["seen"], sums["accuracy"][1]) == (4, 1, 4)
    expected = softmax_reference(LOGITS, CLASSES) @ CLASSES["weight"] / 4
    np.testing.assert_allclose(loss, expected, rtol=1e-6 if precision == "float32" else 2e-2)
    evaluated = objective.sums(params, extras, batch, dtypes)
    np.testing.assert_allclose(evaluated["loss"][0] / evaluated["loss"][1], loss, rtol=1e-6)
    assert seen[-1][2] is False
    assert evaluated["accuracy"] == sums["accuracy"]


def test_a_batch_of_padding_has_loss_and_gradient_zero():
    objective = loss_from(linear([]), softmax_cross_entropy)
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES, "weight": np.zeros(4, np.float32)}

    def loss(params):
        return objective.mean_loss(params, {"seen": jnp.float32(0)}, batch, jax.random.key(0), policy("float32"))[0]

    value, grads = jax.value_and_grad(loss)({"w": jnp.eye(3)})
    assert value == 0
    np.testing.assert_array_equal(grads["w"], np.zeros((3, 3)))


def test_unequal_masks_aggregate_by_their_weights():
    objective = loss_from(linear([]), softmax_cross_entropy)
    batch = {"inputs": RNG.normal(size=(4, 2, 3)).astype(np.float32), "labels": RNG.integers(0, 3, (4, 2))}
    batch |= {
        "labels": batch["labels"].astype(np.int32),
        "mask": np.array([[1, 1], [1, 1], [1, 0], [0, 0]], np.float32),
    }

    def mean_loss(rows):
        part = {name: x[rows] for name, x in batch.items()}
        out = objective.mean_loss(
            {"w": jnp.eye(3)}, {"seen": jnp.float32(0)}, part, jax.random.key(0), policy("float32")
        )
        return float(out[0]), float(out[1][0])

    (first, w1), (second, w2), (whole, w) = (mean_loss(slice(*rows)) for rows in ((0, 2), (2, 4), (0, 4)))
    assert (w1, w2, w) == (4, 1, 5)
    assert whole == pytest.approx((4 * first + second) / 5, rel=1e-6)
    assert whole != pytest.approx((first + second) / 2, rel=1e-3)


@pytest.mark.parametrize("returned", [lambda o: jnp.sum(o), lambda o: (o[:, 0], jnp.float32(1)), lambda o: (o, o)])
def test_a_loss_that_returns_something_else(returned):
    objective = loss_from(linear([]), lambda outputs, batch: returned(outputs))
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES}
    with pytest.raises(
        ShapeError, match=r"expected the loss to return \(per_example \[B\], weight \[B\]\), got shapes"
    ):
        objective.sums({"w": jnp.eye(3)}, {"seen": jnp.float32(0)}, batch, policy("float32"))


def test_two_layers_against_the_backward_pass_by_hand(x64):
    spec = Spec({"inputs": jax.ShapeDtypeStruct((3,), jnp.float32)}, {"classes": 4})
    model = make_model(Mlp(name="mlp", hidden=(5,), activation="tanh"), spec)
    rng = np.random.default_rng(2)
    w1, b1, w2, b2 = (rng.normal(size=s) for s in ((3, 5), (5,), (5, 4), (4,)))
    params = {"layers": {0: {"dense": {"kernel": w1, "bias": b1}}}, "head": {"kernel": w2, "bias": b2}}
    batch = {
        "inputs": rng.normal(size=(6, 3)),
        "labels": rng.integers(0, 4, 6),
        "weight": np.array([1, 1, 0, 2, 1, 1.0]),
    }

    h = np.tanh(batch["inputs"] @ w1 + b1)  # [B, 5]
    logits = h @ w2 + b2  # [B, 4]
    share = batch["weight"][:, None] / batch["weight"].sum()
    d_logits = share * (np.exp(log_softmax(logits)) - np.eye(4)[batch["labels"]])
    d_hidden = (d_logits @ w2.T) * (1 - h**2)
    by_hand = {
        "layers": {0: {"dense": {"kernel": batch["inputs"].T @ d_hidden, "bias": d_hidden.sum(0)}}},
        "head": {"kernel": h.T @ d_logits, "bias": d_logits.sum(0)},
    }

    mean_loss = loss_from(model, softmax_cross_entropy).mean_loss
    loss, grads = jax.jit(
        jax.value_and_grad(lambda p: mean_loss(p, {}, batch, jax.random.key(0), policy("float64"))[0])
    )(jax.tree.map(jnp.asarray, params))
    np.testing.assert_allclose(loss, (share[:, 0] * softmax_reference(logits, batch)).sum(), rtol=1e-12)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-14), grads, by_hand)


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
