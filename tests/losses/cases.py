"""What the tests of the losses share: batches, and each loss written in NumPy."""

import jax.numpy as jnp
import numpy as np

from jaxprop.config.schema import task
from jaxprop.losses import make_loss
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


def check_equation(case):
    section, outputs, batch, reference = CASES[case]
    for dtype, rtol in ((jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)):
        per_example, weight = make_loss(section)(jnp.asarray(outputs, dtype), batch)
        assert per_example.dtype == weight.dtype == jnp.float32
        expected = np.where(batch["weight"] != 0, reference(outputs, batch), 0)
        np.testing.assert_allclose(per_example, expected, rtol=rtol)
        np.testing.assert_array_equal(weight, batch["weight"])


def check_gradient(case):
    section, outputs, batch, _ = CASES[case]
    loss = make_loss(section)
    check(lambda outputs, _: jnp.vdot(*loss(outputs, batch)), jnp.asarray(outputs))
