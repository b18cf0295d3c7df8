"""Regression binds and learns, from targets with and without a second axis."""

import numpy as np
import pytest

HUBER = {"name": "huber", "delta": 0.5}


@pytest.mark.parametrize(("columns", "loss"), [(None, None), (2, HUBER)], ids=["[N] squared", "[N, 2] huber"])
def test_learns(bound, learn, columns, loss):
    inputs = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    targets = inputs @ np.array([[1.0, 0.5], [-1.0, 0.5], [0.5, 1.0]], np.float32)
    targets = targets[:, 0] if columns is None else targets[:, :columns]
    config, _, task = bound("regress", (inputs, targets), (inputs, targets), task={"name": "regress", "loss": loss})
    assert task.spec.sizes == {"targets": columns or 1}
    learned = learn(config)
    assert set(learned.after) == {"loss", "mean_absolute_error"}
    assert learned.after["loss"] < 0.6 * learned.before["loss"]
    assert learned.after["mean_absolute_error"] < 0.8 * learned.before["mean_absolute_error"]


def test_targets_without_a_second_axis_are_not_broadcast(bound):
    """[B, 1] outputs against [B] targets would make [B, B] differences without a word."""
    inputs = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    _, sources, task = bound("regress", (inputs, inputs[:, 0]))
    assert sources["train"].take(np.arange(4))["labels"].shape == (4, task.spec.sizes["targets"]) == (4, 1)
