"""What is logged of a record."""

import json

import numpy as np

from jaxprop.run.records import Interval, layer_rows, train_record
from tests.health.records import FULL, LAYERS, LEAN, ROWS, TAPS, record

STEP = {"loss": 0.5, "grad_norm": 2.0}


def test_a_record_has_what_is_known():
    lean = train_record(5, record(LEAN, **STEP), None)
    assert set(lean) == {"step", "split", "loss", "grad_norm", "lr"}
    more = record(FULL, **STEP, loss_scale=8.0, skips=2.0, guard=0.5, output_max=3.0, curvature=0.5)
    known = train_record(5, more, 100.0)
    assert known["loss_scale"] == 8
    assert (known["skips"], known["guard"], known["output_max"]) == (2, 0.5, 3)
    assert (known["curvature"], known["examples_per_second"]) == (0.5, 100)
    assert "sharpness" not in known


def test_a_loss_that_is_not_finite_is_there():
    assert np.isnan(train_record(5, record(LEAN, loss=np.nan, grad_norm=np.inf), None)["loss"])


def test_rows_of_layers():
    rows = list(layer_rows(5, record(ROWS, **STEP)))
    assert [row["layer"] for row in rows] == list(LAYERS)
    assert set(rows[0]) == {"step", "layer", "grad_norm", "grad_rms", "nonfinite"}
    broken = next(layer_rows(5, record(ROWS, **STEP, rows_grad_norm=np.nan)))
    assert np.isnan(broken["grad_norm"])
    assert broken["nonfinite"] == 1
    assert list(layer_rows(5, record(LEAN, **STEP))) == []


def test_rows_of_everything():
    rows = list(layer_rows(5, record(FULL, **STEP)))
    assert rows[0]["swallowed"] == 0
    assert set(rows[0]) == {
        "step", "layer", "grad_norm", "grad_rms", "nonfinite", "param_norm", "update_norm", "update_ratio",
        "zero_fraction", "adam_lag", "tiny_second_moment", "swallowed",
    }  # fmt: skip
    assert "flushed" not in rows[0]  # without a loss scale it is not known
    assert "adam_lag" not in next(layer_rows(5, record(FULL, **STEP, rows_adam_lag=np.nan)))
    taps = rows[len(LAYERS) :]
    assert [row["tap"] for row in taps] == [name for name, _ in TAPS]
    assert set(taps[0]) == {"step", "tap", "grad_rms", "rms", "abs_max", "dead"}


def test_either_part_alone():
    full = record(FULL, **STEP)
    assert list(layer_rows(5, full, columns=False, rare=False)) == []
    only = list(layer_rows(5, full, columns=False))
    assert "grad_norm" not in only[0]
    assert only[0].keys() >= {"step", "layer", "param_norm", "tiny_second_moment", "swallowed"}
    assert len(only) == len(LAYERS) + len(TAPS)
    assert len(list(layer_rows(5, full, rare=False))) == len(LAYERS)


def test_peaks_of_an_interval():
    interval = Interval()
    for step, loss in enumerate([1.0, 9.0, np.nan, 2.0], start=11):
        interval.add(step, record(LEAN, loss=loss, grad_norm=np.inf if step == 14 else step))
    again = Interval()
    again.restore(json.loads(json.dumps(interval.state())))
    expected = {
        "loss_min": 1.0, "loss_max": 9.0, "loss_max_step": 12, "grad_norm_min": 11.0, "grad_norm_max": 13.0,
        "grad_norm_max_step": 13, "nonfinite_steps": 2,
    }  # fmt: skip
    assert interval.take() == again.take() == expected
    interval.add(15, record(LEAN, **STEP))
    assert interval.take() == {}  # one step stands for itself
    again.restore(None)
    assert again.take() == {}


def test_a_step_that_is_not_finite_is_no_peak():
    interval = Interval()
    for step in (1, 2):
        interval.add(step, record(LEAN, loss=np.nan, grad_norm=np.nan))
    assert interval.take() == {"nonfinite_steps": 2}
