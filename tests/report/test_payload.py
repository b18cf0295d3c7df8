"""What the page is given to draw."""

import json

import numpy as np
import pytest

from jaxprop.report.page import encode
from jaxprop.report.payload import ALERTS, PATH, noise_scale, payload
from jaxprop.report.read import Reader
from tests.report.runs import ACTION, ALERT, CONFIG, FINDING, LR_FIND, make_run, train_records


def given(folder, **options):
    """What the page would be given of one run, through JSON and back."""
    data = payload([Reader(make_run(folder / "a", **options)).read()], ["a"])
    return json.loads(encode(data))["runs"][0]


def test_everything_of_a_run(tmp_path):
    run = given(tmp_path, alerts=[ALERT, ACTION], finding=FINDING, lr_find=LR_FIND)
    assert (run["name"], run["status"], run["step"], run["live"], run["batch_size"]) == (
        "a",
        "completed",
        100,
        False,
        64,
    )
    assert set(run["curves"]) == {"loss", "eval_loss", "eval_accuracy", "grad_norm", "lr"}
    assert run["metrics"] == ["accuracy"]
    assert run["card"]["facts"][0] == ["model", "mlp"]
    assert ["data.batch_size", "64"] in run["card"]["config"]
    assert [found["key"] for found in run["maps"]] == ["gradient", "ratio", "activation", "dead"]
    assert len(run["profiles"]) == 3
    assert run["alerts"] == [{
        "step": 60, "since": 55, "severity": "act", "kind": "gradient spike", "layer": "layers/1/dense",
        "message": ALERT["message"],
    }]  # fmt: skip
    assert run["actions"] == [{"step": 60, "due": 62, "action": "cut_lr", "message": ACTION["message"]}]
    assert [spike["step"] for spike in run["spikes"]] == [60]
    assert run["findings"][0]["path"][0]["primitive"] == "log"
    assert run["lr_find"]["suggested"] == 0.02


def test_every_metric_is_drawn_of_training_and_of_evaluations(tmp_path):
    train = [{"step": s, "split": "train", "loss": 1.0, "accuracy": 0.5, "grad_norm": 1.0} for s in (1, 2)]
    test = [{"step": 2, "split": "eval", "loss": 1.0, "accuracy": 0.4, "my_recall": 0.3}]
    run = given(tmp_path, metrics=[*train, *test])
    assert run["metrics"] == ["accuracy", "my_recall"]
    assert set(run["curves"]) == {"loss", "eval_loss", "accuracy", "eval_accuracy", "eval_my_recall", "grad_norm"}
    assert run["curves"]["accuracy"]["step"] == [1, 2]  # from the first record on
    alone = given(tmp_path / "b", metrics=train)
    assert (alone["metrics"], "accuracy" in alone["curves"]) == (["accuracy"], True)


def test_a_loss_scale_is_drawn_where_it_is_not_one(tmp_path):
    scaled = [record | {"loss_scale": 1024.0} for record in train_records(5)]
    assert "loss_scale" in given(tmp_path, metrics=scaled)["curves"]
    ones = [record | {"loss_scale": 1.0} for record in train_records(5)]
    assert "loss_scale" not in given(tmp_path / "b", metrics=ones)["curves"]


def test_what_the_loss_scale_did_is_told(tmp_path):
    records = list(train_records(5))
    for record, scale, skips in zip(records, (8.0, 2.0, 1.0, 1.0, 4.0), (0, 2, 3, 3, 3), strict=True):
        record |= ({} if scale == 1 else {"loss_scale": scale}) | ({"skips": skips} if skips else {})
    found = given(tmp_path, metrics=records)
    assert found["curves"]["loss_scale"]["value"] == [8, 2, 1, 1, 4]  # a record without it has the scale of 1
    assert found["scale_told"].startswith("8 at first, 1 at the lowest, 4 at last; halved by each of 3 skipped steps")
    assert given(tmp_path / "b", metrics=train_records(5))["scale_told"] == ""


def test_figures_of_trouble_have_no_curve_where_there_is_none(tmp_path):
    def curves(folder, value):
        return given(folder, metrics=[record | {"infeasible": value} for record in train_records(5)])["curves"]

    assert "infeasible" not in curves(tmp_path / "a", 0.0)
    assert "infeasible" in curves(tmp_path / "b", 0.25)


def test_the_noise_scale_is_the_ratio_of_means(tmp_path):
    rng = np.random.default_rng(0)
    records = [
        {
            "step": s,
            "split": "train",
            "loss": 1.0,
            "noise_trace": 50 * rng.exponential(),
            "noise_signal": rng.normal(1, 2),
        }
        for s in range(1, 2001)
    ]
    run = Reader(make_run(tmp_path / "a", metrics=records)).read()
    found = noise_scale(run)
    assert np.median(found.value) == pytest.approx(50, rel=0.25)
    assert (found.value > 0).all()
    constant = [record | {"noise_trace": 6.0, "noise_signal": 2.0} for record in records]
    assert noise_scale(Reader(make_run(tmp_path / "b", metrics=constant)).read()).value == pytest.approx(3.0)


@pytest.mark.parametrize("signal", [None, -1.0])
def test_no_noise_scale_without_a_signal(tmp_path, signal):
    records = [{"step": s, "split": "train", "loss": 1.0, "noise_trace": 1.0, "noise_signal": signal} for s in (1, 2)]
    assert "noise_scale" not in given(tmp_path, metrics=records)["curves"]


def test_many_alerts_are_counted(tmp_path):
    run = given(tmp_path, alerts=[ALERT] * (ALERTS + 5))
    assert (len(run["alerts"]), run["alerts_more"]) == (ALERTS, 5)


FINDINGS = {
    "empty": {},
    "of other types": {"step": "x", "path": 3, "affected": "abc", "index": None, "examples": [None, "a"], "line": []},
    "of odd items": {"path": [None, 3, {"bad": "x"}], "affected": [1, None]},
}


@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_of_which_anything_may_be_missing(tmp_path, name):
    found = given(tmp_path, finding=FINDINGS[name])["findings"][0]
    assert (found["step"], found["primitive"], found["hidden"]) == (None, "", 0)
    assert len(found["path"]) == (1 if name == "of odd items" else 0)


def test_a_long_path_keeps_both_ends(tmp_path):
    path = [{"primitive": f"op{i}"} for i in range(PATH + 40)]
    found = given(tmp_path, finding={"path": path})["findings"][0]
    names = [item["primitive"] for item in found["path"]]
    assert (len(names), names[0], names[-1], found["hidden"]) == (PATH, "op0", f"op{PATH + 39}", 40)
    assert names[found["hidden_after"]] == f"op{PATH // 2 + 40}"


def test_rates_are_put_in_order(tmp_path):
    found = given(tmp_path, lr_find={"lr": [0.1, 0.01], "loss": [2.0, None], "smoothed": [1.0]})["lr_find"]
    assert (found["lr"], found["loss"], found["smoothed"]) == ([0.01, 0.1], [None, 2.0], [])


def test_an_alert_that_says_little(tmp_path):
    run = given(tmp_path, alerts=[{"kind": 3}, {"step": 5, "since": 9}])
    assert [(alert["step"], alert["since"], alert["kind"]) for alert in run["alerts"]] == [
        (0, 0, "alert"),
        (5, 5, "alert"),
    ]


def test_many_runs_share_the_points(tmp_path):
    records = [{"step": s, "split": "train", "loss": s % 7} for s in range(1, 9000)]
    run = Reader(make_run(tmp_path / "a", metrics=records, layers=[])).read()
    one, ten = (payload([run] * n, ["a"] * n) for n in (1, 10))
    assert len(one["runs"][0]["curves"]["loss"]["step"]) > 3 * len(ten["runs"][0]["curves"]["loss"]["step"])
    assert (one["compare"], one["title"], ten["title"]) == (None, "a", "a, a, a and 7 more")


def test_a_config_that_is_no_config(tmp_path):
    assert given(tmp_path, config="data: 3\n")["batch_size"] is None
    assert given(tmp_path / "b", config=CONFIG.replace("64", "many"))["batch_size"] is None


def test_the_range_between_records_holds_minima_and_maxima(tmp_path):
    records = [
        {"step": s, "split": "train", "loss": 1.0, "loss_min": 1.0 / s, "loss_max": 2.0 + s, "loss_max_step": s - 1}
        for s in range(10, 60, 10)
    ]
    found = given(tmp_path, metrics=[*records, {"step": 60, "split": "train", "loss": 1.0, "loss_min": None}])["ranges"]
    assert set(found) == {"loss"}
    assert found["loss"]["step"] == [10, 20, 30, 40, 50]
    assert found["loss"]["low"] == pytest.approx([0.1, 0.05, 1 / 30, 0.025, 0.02], rel=1e-3)
    assert found["loss"]["high"] == [12, 22, 32, 42, 52]


def test_records_of_every_step_have_no_range_between_them(tmp_path):
    assert given(tmp_path)["ranges"] == {}
