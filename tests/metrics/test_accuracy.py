"""Accuracies against NumPy, with weights and masks."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.metrics.accuracy import accuracy, multilabel_accuracy

WEIGHT = np.array([1, 2, 0], np.float32)
CLASSES = {"labels": np.array([1, 1, 0], np.int32), "weight": WEIGHT}
LOGITS = np.array([[0, 1], [2, 1], [5, 1]], np.float32)
TOKENS = {
    "labels": np.array([[0, 1], [1, 1]], np.int32),
    "mask": np.array([[1, 1], [0, 1]], np.float32),
    "weight": np.array([1, 3], np.float32),
}
TOKEN_LOGITS = np.array([[[1, 0], [1, 0]], [[1, 0], [0, 1]]], np.float32)


@pytest.mark.parametrize(
    ("metric", "outputs", "batch", "expected"),
    [
        (accuracy, LOGITS, CLASSES, (1, 3)),
        (accuracy, LOGITS, {"labels": CLASSES["labels"]}, (2, 3)),
        (accuracy, TOKEN_LOGITS, TOKENS, (1 + 3, 2 + 3)),
        (accuracy, TOKEN_LOGITS, {"labels": TOKENS["labels"]}, (2, 4)),
        (multilabel_accuracy, LOGITS - 1.5, {"labels": np.eye(3, 2, dtype=np.float32), "weight": WEIGHT}, (0.5, 3)),
        (multilabel_accuracy, LOGITS - 0.5, {"labels": np.eye(3, 2)[[1, 1, 0]], "weight": WEIGHT}, (1 + 2 * 0.5, 3)),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sum_and_count(metric, outputs, batch, expected, dtype):
    total, count = metric(jnp.asarray(outputs, dtype), batch)
    assert total.dtype == count.dtype == jnp.float32
    assert (float(total), float(count)) == expected


def test_sums_add_up_over_batches():
    parts = [accuracy(LOGITS[rows], {k: v[rows] for k, v in CLASSES.items()}) for rows in ([0], [1, 2])]
    assert [float(sum(x)) for x in zip(*parts, strict=True)] == [float(x) for x in accuracy(LOGITS, CLASSES)]


@pytest.mark.parametrize(("outputs", "batch"), [(LOGITS, CLASSES), (TOKEN_LOGITS, TOKENS)])
def test_of_shares_the_largest_is_the_label(outputs, batch):
    rest = 0.4 / (outputs.shape[-1] - 1)
    soft = {**batch, "labels": np.where(np.eye(outputs.shape[-1])[batch["labels"]], 0.6, rest).astype(np.float32)}
    found, expected = accuracy(jnp.asarray(outputs), soft), accuracy(jnp.asarray(outputs), batch)
    assert [float(x) for x in found] == [float(x) for x in expected]


def test_shares_that_are_no_distribution_are_not_counted_as_wrong_in_silence():
    total, count = accuracy(jnp.zeros((2, 2)), {"labels": jnp.array([[0.5, 0.5], [0.5, 0.1]])})
    assert np.isnan(total)
    assert count == 2
