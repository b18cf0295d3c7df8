"""Test examples that stand among the training examples, too."""

import numpy as np

from jaxprop.tools.retrain.shared import digests, without
from jaxprop.types import Source


def source(inputs, labels=None, **more):
    held = {
        "inputs": np.asarray(inputs, np.float32),
        "labels": np.zeros(len(inputs), int) if labels is None else labels,
    }
    return Source(len(inputs), lambda i: {name: x[i] for name, x in held.items()}, {}, "f00d", **more)


def test_the_same_inputs_are_one_example_whatever_their_label():
    inputs = np.random.default_rng(0).normal(size=(600, 3, 2))
    train, test = source(inputs[:400], np.arange(400)), source(inputs[300:], np.ones(300))
    left, count = without(test, digests(train))
    assert count == 100
    np.testing.assert_array_equal(left.take(np.arange(200))["inputs"], inputs[400:].astype(np.float32))


def test_what_shares_nothing_stays_itself():
    test = source([[1.0], [2.0]])
    assert without(test, digests(source([[3.0]]))) == (test, 0)


def test_without_inputs_all_but_the_answers_count():
    def take(i):
        return {"left": np.arange(4)[i], "right": np.arange(4)[i] // 2, "labels": np.arange(4)[i]}

    assert len(set(digests(Source(4, take, {}, "f00d")).tolist())) == 4
