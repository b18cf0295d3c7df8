"""What the page of a sweep is given to draw."""

import json
import math

import pytest

from jaxprop.report.page import encode
from jaxprop.report.sweeps import payload as module
from jaxprop.report.sweeps.payload import payload
from jaxprop.report.sweeps.read import SweepReader
from tests.report.runs import ALERT, make_run
from tests.run.sweeps import make_sweep


def given(folder, page=None, use="jaxprop train --from s"):
    return json.loads(encode(payload(SweepReader(folder).read(), page, use)))["sweep"]


def grid(lost=()):
    return [
        ({"lr": lr, "wd": wd}, seed, "diverged" if (lr, seed) in lost else lr + wd / 10 + seed / 100)
        for lr in (0.1, 0.2)
        for wd in (0.5, 0.25)
        for seed in (0, 1)
    ]


def test_the_first_words(tmp_path):
    found = given(make_sweep(tmp_path, grid()))
    assert found["verdict"]["headline"] == "Best of 4: lr=0.2, wd=0.5, with accuracy 0.255 ± 0.064 over 2 seeds."
    assert [name for name, _ in found["verdict"]["facts"]] == ["how sure", "use it with", "runs"]
    assert found["verdict"]["tone"] == "good"  # both seeds differ by the same, to the bit of floats
    assert found["settings"][0] == {
        "label": "lr=0.2, wd=0.5", "values": ["0.2", "0.5"], "mean": pytest.approx(0.255),
        "margin": pytest.approx(0.0635, rel=1e-3), "seeds": 2, "lost": 0, "alerts": 0,
        "runs": [[0, None, "completed"], [1, None, "completed"]],
    }  # fmt: skip
    left = given(make_sweep(tmp_path / "b", grid(), left=3))["verdict"]
    assert (left["tone"], left["facts"][-1]) == ("open", ["left", "3 runs, with which the same command goes on"])


def test_a_sweep_of_lost_runs(tmp_path):
    found = given(make_sweep(tmp_path, [({"lr": 1}, 0, "the loss was not finite")]))
    assert found["verdict"]["headline"] == "No setting can be recommended: the loss was not finite"
    assert (found["coordinates"], found["map"], found["charts"], found["colours"]) == (None, None, [], None)
    assert found["lost"] == [["lr=1", 0, "diverged", "the loss was not finite", None]]
    assert found["settings"][0]["mean"] is None


def test_curves_have_a_mean_over_seeds_and_the_best_settings_their_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEST", 1)
    folder = make_sweep(tmp_path, [({"lr": lr}, seed, lr) for lr in (1, 2) for seed in (0, 1)])
    for lr in (1, 2):
        for seed in (0, 1):
            records = [{"step": s, "split": "eval", "accuracy": s * lr + seed} for s in (1, 2 + seed, 4)]
            make_run(folder / f"lr={lr},seed={seed}", metrics=records)
    (chart,) = given(folder)["charts"]
    assert (chart["name"], chart["split"]) == ("accuracy", "evaluation")
    drawn = {(line["setting"], line["seed"]): (line["step"], line["value"]) for line in chart["lines"]}
    assert drawn == {
        (0, 0): ([1, 2, 4], [2, 4, 8]), (0, 1): ([1, 3, 4], [3, 7, 9]),
        (0, None): ([1, 4], [2.5, 8.5]), (1, None): ([1, 4], [1.5, 4.5]),
    }  # fmt: skip


def test_a_lost_run_is_drawn_and_not_in_the_mean(tmp_path):
    folder = make_sweep(tmp_path, [({"lr": 1}, 0, 0.5), ({"lr": 1}, 1, "diverged")])
    for seed, value in ((0, 1.0), (1, math.inf)):
        record = {"step": 1, "split": "train", "loss": value if seed == 0 else None}
        make_run(folder / f"lr=1,seed={seed}", metrics=[record])
    (chart,) = given(folder)["charts"]
    assert [(line["seed"], line["value"]) for line in chart["lines"]] == [(0, [1.0]), (1, [None]), (None, [1.0])]


def test_two_keys_make_a_map_with_lost_runs(tmp_path):
    found = given(make_sweep(tmp_path, grid(lost=[(0.1, 1)])))["map"]
    assert (found["row_names"], found["column_names"], found["best"]) == (["0.1", "0.2"], ["0.25", "0.5"], [1, 1])
    assert found["cells"][0][0] == {"mean": pytest.approx(0.125), "level": 0.0, "lost": 1, "seeds": 1}
    assert found["cells"][1][1]["level"] == 1.0


def test_other_numbers_of_keys_and_scattered_settings_have_no_map(tmp_path):
    three = [({"a": i, "b": 1, "c": i}, 0, 0.5 + i) for i in range(2)]
    scattered = [({"a": i / 7, "b": i / 3}, 0, 0.5 + i) for i in range(9)]
    for i, runs in enumerate(([({"a": 1}, 0, 0.5), ({"a": 2}, 0, 0.6)], three, scattered)):
        found = given(make_sweep(tmp_path / str(i), runs))
        assert found["map"] is None
        assert len(found["coordinates"]["axes"]) == len(found["keys"])


def test_settings_need_not_have_every_key(tmp_path):
    runs = [({"name": "sgd", "momentum": 0.9}, 0, 0.5), ({"name": "adam"}, 0, 0.7)]
    found = given(make_sweep(tmp_path, runs))
    assert [one["values"] for one in found["settings"]] == [["adam", None], ["sgd", "0.9"]]
    assert [line["at"] for line in found["coordinates"]["lines"]] == [[1, None], [0, 0.5]]
    assert found["map"] is None


def test_runs_are_linked_from_where_the_page_lies(tmp_path):
    folder = make_sweep(tmp_path / "s", [({"lr": "javascript:alert(1)#?"}, 0, 0.5), ({"lr": 2}, 0, 0.4)])
    make_run(folder / "lr=2,seed=0")
    (folder / "lr=2,seed=0" / "report.html").touch()
    (one,), (other,) = (setting["runs"] for setting in given(folder, folder)["settings"])
    assert one[1] == "lr%3Djavascript%3Aalert%281%29%23%3F%2Cseed%3D0/"
    assert other[1] == "lr%3D2%2Cseed%3D0/report.html"
    (_,), (other,) = (setting["runs"] for setting in given(folder, tmp_path / "elsewhere")["settings"])
    assert other[1] == "../s/lr%3D2%2Cseed%3D0/report.html"


def test_alerts_by_setting(tmp_path):
    folder = make_sweep(tmp_path, [({"lr": 1}, seed, 0.5) for seed in (0, 1)])
    make_run(folder / "lr=1,seed=0", alerts=[ALERT, ALERT | {"severity": "advice", "kind": "dead"}])
    make_run(folder / "lr=1,seed=1", alerts=[ALERT])
    found = given(folder)
    assert found["alerts"] == [
        {"label": "lr=1", "act": 2, "advice": 1, "kinds": [["gradient spike", 2], ["dead units", 1]]}
    ]
    assert found["settings"][0]["alerts"] == 3


def test_of_very_many_settings_the_rest_is_counted(tmp_path):
    found = given(make_sweep(tmp_path, [({"lr": i}, 0, i / 1000 if i % 3 else "lost") for i in range(1, 700)]))
    assert (len(found["settings"]), found["settings_more"]) == (200, 499)
    assert (len(found["coordinates"]["lines"]), found["coordinates"]["more"]) == (500, 199)
    assert (len(found["lost"]), found["lost_more"]) == (200, 33)


def test_runs_that_were_given_up_for_others_or_interrupted_are_not_lost(tmp_path):
    folder = make_sweep(
        tmp_path, [({"lr": 1}, 0, 0.5), ({"lr": 1}, 1, 0.6), ({"lr": 2}, 0, 0.4), ({"lr": 3}, 0, "lost")]
    )
    found = json.loads((folder / "results.json").read_text())
    gone = {"metrics": {}, "problem": "ended early"}
    found["runs"][1] |= gone | {"status": "interrupted"}
    found["runs"][2] |= gone | {"status": "halved"}
    del found["settings"][1]  # as of a setting whose only run was given up
    (folder / "results.json").write_text(json.dumps(found))
    shown = given(folder)
    assert [row[0] for row in shown["lost"]] == ["lr=3"]
    said = "4 runs of 3 settings; 1 lost, 1 ended early, since other settings were better"
    assert ["runs", said] in shown["verdict"]["facts"]
