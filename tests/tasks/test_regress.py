"""Regression binds and learns, from targets with and without a second axis."""

import numpy as np
import pytest

from jaxprop.tasks import make_task

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


def test_standardized_targets_are_told_in_their_own_units(bound):
    """The same labels, once as they are and once standardized, with outputs that say the same."""
    mean, std = np.array([100.0, -3.0], np.float32), np.array([20.0, 0.5], np.float32)
    labels = np.random.default_rng(1).normal(size=(16, 2)).astype(np.float32)
    inputs = np.ones((16, 3), np.float32)
    config, plain, task = bound("regress", (inputs, labels * std + mean))
    info = {"targets": 2, "target_scale": np.stack([mean, std], 1).tolist()}
    scaled_task = make_task(config, {"train": plain["train"]._replace(info=info)})
    outputs = np.random.default_rng(2).normal(size=(16, 2)).astype(np.float32)
    told = scaled_task.predict(outputs, {})["value"]
    np.testing.assert_allclose(told, outputs * std + mean, rtol=1e-6)
    own = task.objective.metrics["mean_absolute_error"]
    scaled = scaled_task.objective.metrics["mean_absolute_error"]
    expected = own.finish(own.update(outputs * std + mean, {"labels": labels * std + mean}))
    assert scaled.finish(scaled.update(outputs, {"labels": labels})) == pytest.approx(expected, rel=1e-5)
    for panel, other in zip(scaled_task.panels, task.panels, strict=True):
        drawn = panel({"value": told}, {"labels": labels})
        plainly = other({"value": outputs * std + mean}, {"labels": labels * std + mean})
        assert drawn.title == plainly.title
        assert str(drawn.data)[:40] == str(plainly.data)[:40]
