"""What happened around a spike."""

import pytest

from jaxprop.report.read import Reader
from jaxprop.report.spikes import spikes
from tests.report.runs import ALERT, make_run, rows, train_records


def found(folder, alerts, **given):
    return spikes(Reader(make_run(folder / "a", alerts=alerts, **given)).read())


def test_the_window_and_the_layers_that_stand_out(tmp_path):
    table = [
        row | ({"grad_norm": 30.0} if row["step"] == 60 and row.get("layer") == "head" else {}) for row in rows(200)
    ]
    (spike,), more = found(tmp_path, [ALERT], metrics=train_records(200, spike=60), layers=table)
    assert (more, spike.step, spike.at, spike.title) == (0, 60, 60, "Gradient spike in layers/1/dense")
    assert spike.curves["grad_norm"]["step"] == list(range(10, 111))
    assert max(spike.curves["grad_norm"]["value"]) == 50
    name, value, median, times = spike.layers[0]
    assert (name, value) == ("head", 30.0)
    assert (median, times) == (pytest.approx(0.001), pytest.approx(30_000))
    assert [layer[3] for layer in spike.layers[1:]] == [1, 1, 1]


def test_what_is_not_finite_stands_highest(tmp_path):
    table = [row | ({"grad_norm": None} if row["step"] == 60 and row.get("layer") == "head" else {}) for row in rows()]
    (spike,), _ = found(tmp_path, [ALERT], layers=table)
    assert spike.layers[0] == ("head", None, pytest.approx(0.001), None)


def test_at_most_ten_and_the_rest_counted(tmp_path):
    alerts = [ALERT | {"step": step, "kind": kind} for step in range(1, 14) for kind in ("loss_jump", "dead")]
    shown, more = found(tmp_path, [*alerts, ALERT | {"step": None}])
    assert ([spike.step for spike in shown], more) == (list(range(1, 11)), 3)


@pytest.mark.parametrize("layers", [[], [{"step": 5, "layer": "a", "grad_norm": 1.0}]])
def test_no_rows_near(tmp_path, layers):
    (spike,), _ = found(tmp_path, [ALERT], layers=layers)
    assert (spike.at, spike.layers) == (None, [])


def test_layers_that_are_never_finite_or_always_zero(tmp_path):
    table = [{"step": s, "layer": "dead", "grad_norm": 0.0} for s in range(55, 65)]
    table += [{"step": s, "layer": "nan", "grad_norm": None} for s in range(55, 65)]
    (spike,), _ = found(tmp_path, [ALERT], layers=table)
    assert spike.layers == [("dead", 0.0, 0.0, None)]
