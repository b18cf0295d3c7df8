"""Runs that have learned nothing, and those that have."""

import numpy as np
import pytest

from jaxprop.health import Watch
from jaxprop.health.watch.outcome import dead, trivial, unchanged
from tests.health.records import LAYERS, ROWS, record


@pytest.mark.parametrize(
    ("metrics", "reference", "worse"),
    [
        ({"accuracy": 0.103}, {"majority_accuracy": 0.103}, True),
        ({"accuracy": 0.05}, {"majority_accuracy": 0.103}, True),
        ({"accuracy": 0.2}, {"majority_accuracy": 0.103}, False),
        ({"accuracy": 0.96}, {"majority_accuracy": 0.95}, False),
        ({"accuracy": 0.9505}, {"majority_accuracy": 0.95}, True),
        ({"loss": 3.1}, {"unigram_loss": 3.115}, True),
        ({"loss": 1.8}, {"unigram_loss": 3.115}, False),
        ({"loss": float("nan")}, {"unigram_loss": 3.115}, False),
        ({}, {"majority_accuracy": 0.1}, False),
        ({"accuracy": 0.1}, {}, False),
        ({"accuracy": None}, {"majority_accuracy": 0.1}, False),
        ({"accuracy": 0.9}, {"linear_accuracy": 0.95}, False),
        ({"accuracy": 0.1}, {"linear_accuracy": 0.95, "majority_accuracy": 0.1}, True),
    ],
)
def test_no_better_than_a_trivial_predictor(metrics, reference, worse):
    assert (trivial(metrics, reference) is not None) == worse


def test_sentences():
    assert dead(100, 90, 3, 4) is None
    assert dead(100, 0, 3, 4) is None
    assert dead(100, 81, 3, 4) == "dead since step 81: the gradient of 3 of 4 layers is exactly zero"
    assert unchanged(2.3, 2.31) == "no better than at its start: loss 2.31 against 2.3"
    assert unchanged(2.3, 1.9) is None
    assert unchanged(-1.0, -3.0) is None
    assert unchanged(np.nan, 1.0) is None


def run(losses, zero_from=None, **options):
    watch = Watch(LAYERS, **options)
    for step, loss in enumerate(losses, 1):
        row = np.full(6, 0.4)
        if zero_from is not None and step >= zero_from:
            row[:4] = 0
        watch.update(step, record(ROWS, loss=loss, grad_norm=1.0, rows_grad_norm=row))
    return watch


def test_a_watch_tells_how_its_run_has_come_out():
    falling = 1 / (1 + 0.02 * np.arange(300))
    assert run(falling).outcome() is None
    assert run(falling).outcome({"accuracy": 0.1}, {"majority_accuracy": 0.1}).startswith("no better than the majority")
    assert run(falling, zero_from=200).outcome() == "dead since step 200: the gradient of 4 of 6 layers is exactly zero"
    known = {"accuracy": 0.9}, {"majority_accuracy": 0.1}
    assert run(falling, zero_from=200).outcome(*known) is None, "a network that predicts well is not dead"
    to_zero = np.maximum(1 - 0.01 * np.arange(300), 0)
    assert run(to_zero, zero_from=150).outcome() is None, "no gradient is left of a loss that is zero"
    assert run(np.full(300, 2.3)).outcome() == "no better than at its start: loss 2.3 against 2.3"
    assert run(np.full(300, 2.3), stationary=False).outcome() is None
    assert run(np.full(50, 2.3)).outcome() is None
    assert Watch().outcome() is None
