"""Runs that exist, compared: settings, seeds, lost runs, sweeps, and what cannot be compared."""

import json
from pathlib import Path

import pytest
import yaml

from jaxprop.errors import UsageError
from jaxprop.tools.compare import compare
from tests.run.sweeps import make_sweep


def make_run(folder, *, lr=0.1, seed=0, accuracy=0.9, status="completed", summary=True, **over):
    folder = Path(folder)
    folder.mkdir(parents=True)
    optimizer = {"name": "sgd", "lr": lr} | over.pop("optimizer", {})
    config = {
        "task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp", "hidden": [8, 8]},
        "optimizer": optimizer, "sinks": {"console": seed > 0}, "run": {"seed": seed, "steps": 10},
    } | over  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    figures = {"step": 10, "loss": 1 - accuracy, "accuracy": accuracy}
    if summary:
        told = {"status": status, "best": figures, "metrics": figures, "seconds": 2.0}
        (folder / "summary.json").write_text(json.dumps(told))
    return folder


def test_settings_are_what_differs_and_are_ranked_over_their_seeds(tmp_path):
    runs = [
        make_run(tmp_path / f"{lr} {seed}", lr=lr, seed=seed, accuracy=base + shift)
        for lr, base in ((0.1, 0.8), (0.2, 0.9))
        for seed, shift in enumerate((0.0, 0.01, 0.04))
    ]
    found = compare(runs)
    assert (found.metric, found.better, found.keys, found.left) == ("accuracy", "max", ("optimizer.lr",), 0)
    assert [(one.setting, one.seeds, round(one.mean, 4)) for one in found.settings] == [
        ({"optimizer.lr": 0.2}, (0, 1, 2), 0.9167), ({"optimizer.lr": 0.1}, (0, 1, 2), 0.8167),
    ]  # fmt: skip
    assert found.verdict.pairs == 3
    assert found.verdict.difference == pytest.approx(0.1)
    assert found.verdict.p < 1e-6
    assert compare(runs, "loss").better == "min"
    assert found.runs[0].folder == str(runs[0])


def test_a_key_that_comes_with_a_name_is_not_told_twice(tmp_path):
    plain = make_run(tmp_path / "a")
    other = make_run(tmp_path / "b", optimizer={"name": "adam", "b1": 0.9})
    third = make_run(tmp_path / "c", model={"name": "mlp", "hidden": [8, 4]})
    assert compare([plain, other]).keys == ("optimizer.name",)
    assert compare([plain, third]).keys == ("model.hidden",)
    grown = make_run(tmp_path / "g", run={"seed": 0, "steps": 10, "grow_batch": {"name": "steps", "factors": [2]}})
    assert compare([plain, grown]).keys == ("run.grow_batch.name",)
    averaged = make_run(tmp_path / "e", run={"seed": 0, "steps": 10, "ema_decay": 0.9})
    assert compare([plain, averaged]).keys == ("run.ema_decay",)
    again = make_run(tmp_path / "d", optimizer={"name": "adam", "b1": 0.8})
    assert set(compare([plain, other, again]).keys) == {"optimizer.name", "optimizer.b1"}
    assert len(compare([plain, other, again]).settings) == 3


def test_runs_that_have_not_ended_well_are_told_and_not_ranked(tmp_path):
    good = make_run(tmp_path / "good")
    lost = make_run(tmp_path / "lost", lr=9.0, status="diverged")
    begun = make_run(tmp_path / "begun", lr=0.3, summary=False)
    found = compare([good, lost, begun])
    assert [(one.status, one.problem) for one in found.runs] == [
        ("completed", ""), ("diverged", "diverged"), ("unfinished", "unfinished"),
    ]  # fmt: skip
    assert [one.lost for one in found.settings] == [0, 1, 1]
    assert (found.left, found.verdict) == (1, None)
    assert compare([lost, begun]).settings == []


def test_a_run_that_repeats_another_one_is_no_further_seed(tmp_path):
    lost = make_run(tmp_path / "lost", status="diverged")
    first, again = (make_run(tmp_path / name, accuracy=0.9) for name in ("first", "again"))
    second, other = make_run(tmp_path / "second", seed=1, accuracy=0.8), make_run(tmp_path / "other", lr=0.2)
    found = compare([lost, first, again, second, other])
    assert [(one.status, one.problem) for one in found.runs] == [
        ("repeated", f"repeats {first} and counts once"), ("completed", ""),
        ("repeated", f"repeats {first} and counts once"), ("completed", ""), ("completed", ""),
    ]  # fmt: skip
    (both,) = [one for one in found.settings if len(one.values) > 1]
    assert (both.seeds, both.values, both.lost) == ((0, 1), (0.9, 0.8), 0)


def test_a_sweep_stands_for_its_runs(tmp_path):
    sweep = make_sweep(tmp_path / "s", [({"optimizer.lr": 0.1}, 0, 0.5), ({"optimizer.lr": 0.2}, 0, 0.6)])
    for name, lr in (("lr=0.1,seed=0", 0.1), ("lr=0.2,seed=0", 0.2)):
        make_run(sweep / name, lr=lr)
    found = compare([sweep, make_run(tmp_path / "beside", lr=0.3)])
    assert [one.setting["optimizer.lr"] for one in found.runs] == [0.1, 0.2, 0.3]


def test_runs_that_were_evaluated_on_other_examples_are_told(tmp_path):
    def made(name, splits, **over):
        folder = make_run(tmp_path / name, **over)
        if splits is not None:
            (folder / "prepared.json").write_text(json.dumps({"splits": splits}))
        return folder

    a, b = made("a", {"test": "1", "validation": "2"}), made("b", {"test": "3", "validation": "2"}, lr=0.2)
    old, lost = made("old", None, lr=0.3), made("lost", {"test": "9"}, lr=0.4, status="diverged")
    assert compare([a, b, old, lost]).warning is None  # the same validation split; the others tell nothing
    c = made("c", {"test": "2b"}, lr=0.5)
    assert f"{a} and {c} were evaluated on different examples" in compare([a, b, c]).warning


def test_what_cannot_be_compared_is_one_sentence(tmp_path):
    run = make_run(tmp_path / "a")
    other = make_run(tmp_path / "b", task={"name": "regress"})
    with pytest.raises(UsageError, match="expected two runs or more"):
        compare([run, run])
    with pytest.raises(UsageError, match=r"a is a run of classify, and .*b one of regress; compare runs of one task"):
        compare([run, other])
    with pytest.raises(UsageError, match="unknown metric of these runs 'accurcy'; did you mean 'accuracy'"):
        compare([run, make_run(tmp_path / "c")], "accurcy")
    with pytest.raises(UsageError, match="there is no such run folder"):
        compare([run, tmp_path / "nowhere"])
    (other / "config.yaml").write_text("a: [")
    with pytest.raises(UsageError, match=r"its config.yaml cannot be read"):
        compare([run, other])
