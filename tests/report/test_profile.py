"""Signals against depth at the steps that matter."""

import numpy as np
import pytest

from jaxprop.report.profile import as_json, moments, profiles
from jaxprop.report.read import Reader
from tests.report.runs import ALERT, LAYERS, TAPS, make_run, rows

STEPS = np.arange(10, 101, 10)


@pytest.mark.parametrize(
    ("alert", "expected"),
    [
        (None, [("start", 0), ("middle", 5), ("end", 9)]),
        ({"step": 60, "since": 55}, [("start", 0), ("before the first alert", 4), ("first alert", 5)]),
        ({"step": 61, "since": 60}, [("start", 0), ("before the first alert", 4), ("after the first alert", 6)]),
        ({"step": 15, "since": 12}, [("start", 0), ("after the first alert", 1)]),
        ({"step": 5, "since": 5}, [("start", 0)]),
        ({"step": 500, "since": None}, [("start", 0), ("before the first alert", 9)]),
        ({"step": "x"}, [("start", 0), ("middle", 5), ("end", 9)]),
    ],
)
def test_moments(tmp_path, alert, expected):
    run = Reader(make_run(tmp_path / "a", alerts=[ALERT | alert] if alert else [])).read()
    assert moments(run, STEPS) == expected


def test_one_step_is_one_moment(tmp_path):
    run = Reader(make_run(tmp_path / "a")).read()
    assert moments(run, STEPS[:1]) == [("start", 0)]


def test_profiles_in_forward_order(tmp_path):
    run = Reader(make_run(tmp_path / "a")).read()
    gradient, activation_gradient, activation = profiles(run)
    assert (gradient.title, gradient.unit, tuple(gradient.names)) == ("Gradient of the parameters", "RMS", LAYERS)
    assert gradient.lines[0].values == pytest.approx([0.01 / 8, 0.1 / 8, 1 / 8, 0.001 / 8], rel=1e-3)
    assert tuple(activation_gradient.names) == TAPS
    assert [line.step for line in activation.lines] == [5, 55, 100]
    assert as_json(gradient)["lines"][2]["label"] == "end"


def test_rows_without_an_rms_show_the_norm(tmp_path):
    table = [{"step": 1, "layer": "a", "grad_norm": 2.0}]
    (profile,) = profiles(Reader(make_run(tmp_path / "a", layers=table)).read())
    assert (profile.unit, profile.lines[0].values) == ("L2 norm", [2.0])


def test_what_is_not_finite_is_marked(tmp_path):
    table = [*rows(10), {"step": 10, "layer": "head", "grad_rms": None}]
    last = profiles(Reader(make_run(tmp_path / "a", layers=table)).read())[0].lines[-1]
    assert (last.values[3], last.broken) == (None, [3])


def test_advice_before_the_alert_to_act_on_is_the_first_alert(tmp_path):
    alerts = [ALERT | {"step": at, "since": at, "severity": severity} for at, severity in ((20, "act"), (10, "advice"))]
    run = Reader(make_run(tmp_path / "a", alerts=sorted(alerts, key=lambda alert: alert["step"]))).read()
    assert moments(run, np.array([1, 10, 20, 30])) == [("start", 0), ("first alert", 1), ("first alert to act on", 2)]
    late = [alert | {"step": alert["step"] + 30, "since": alert["since"] + 30} for alert in alerts]
    run = Reader(make_run(tmp_path / "b", alerts=late[::-1])).read()
    labels = ("start", 0), ("before the first alert", 2), ("first alert", 3), ("first alert to act on", 4)
    assert moments(run, np.array([1, 10, 30, 40, 50])) == list(labels)


def test_the_last_of_two_steps_is_the_end(tmp_path):
    run = Reader(make_run(tmp_path / "a")).read()
    assert moments(run, STEPS[:2]) == [("start", 0), ("end", 1)]
