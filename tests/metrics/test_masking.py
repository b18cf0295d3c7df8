"""What a metric gives the weight 0 may hold anything, and what counts is checked."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.errors import ShapeError
from jaxprop.metrics import METRICS
from tests.losses.test_masking import ANSWERS, BAD, spoil

OF = {"accuracy": "classes", "multilabel_accuracy": "marks", "mean_absolute_error": "targets"}
CASES = [(name, OF[name]) for name in METRICS] + [("accuracy", "tokens")]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("by", ["weight", "mask", "part of a mask"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_nothing_of_weight_0_reaches_a_metric(name, kind, by, bad):
    if kind == "classes" and by == "part of a mask":
        pytest.skip("an example has one entry")
    outputs, batch = ANSWERS[kind]()
    outputs, batch, spoiled, spoiled_batch = spoil(outputs, batch, by, bad)
    expected, found = METRICS[name](outputs, batch), METRICS[name](spoiled, spoiled_batch)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).all()
    assert found[1] > 0


@pytest.mark.parametrize("label", [-100, -1, 3])
def test_a_label_that_is_no_class_is_not_counted_as_wrong_in_silence(label):
    total, count = METRICS["accuracy"](jnp.zeros((2, 3)), {"labels": jnp.array([0, label])})
    assert np.isnan(total)
    assert count == 2


@pytest.mark.parametrize("label", [-1.0, 2.0, np.nan])
def test_a_mark_that_is_neither_0_nor_1(label):
    assert np.isnan(METRICS["multilabel_accuracy"](jnp.zeros((1, 2)), {"labels": jnp.array([[0, label]])})[0])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_labels_of_another_shape(name, kind):
    outputs, batch = ANSWERS[kind]()
    with pytest.raises(ShapeError, match="expected labels"):
        METRICS[name](outputs, {"labels": np.moveaxis(batch["labels"][..., None], 0, -1)})
