"""Early stopping: patience, targets and minutes; what a resumed run knows; what the summary says."""

import json

import pytest

from jaxprop.config.build import build
from jaxprop.run import stopping as module
from jaxprop.run.stopping import Stopping, watched
from jaxprop.run.train import train
from tests.run.trained import sections, write_arrays


def config(stop, **changes):
    given = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"}} | changes
    return build(given | {"optimizer": {"name": "sgd", "lr": 0.1}, "run": {"epochs": 1, "stop": stop}})


def fed(stop, values, metric="loss", **changes):
    stopping = Stopping(config(stop, **changes))
    for i, value in enumerate(values):
        stopping.evaluated(10 * (i + 1), {metric: value})
    return stopping


@pytest.mark.parametrize(
    ("stop", "values", "why"),
    [
        ({"patience": 2}, [3.0, 2.0, 2.5], None),
        ({"patience": 2}, [3.0, 2.0, 2.5, 2.0], "loss was no better in 2 evaluations than 2 at step 20"),
        ({"patience": 1}, [3.0, float("nan")], "loss was no better in an evaluation than 3 at step 10"),
        ({"patience": 1}, [float("nan")], "loss was no better in an evaluation than at the start"),
        ({"patience": 2}, [3.0, 3.0, 2.9, 3.0], None),
        ({"target": 0.5}, [0.6], None),
        ({"target": 0.5}, [0.6, 0.5], "loss 0.5 has reached the target 0.5"),
        ({"target": 0.5}, [float("nan")], None),
        ({"minutes": 1}, [1.0], None),
    ],
)
def test_why_a_run_ends(stop, values, why):
    assert fed(stop, values).why == why


def test_larger_is_better_for_an_accuracy():
    stop = {"metric": "accuracy", "target": 0.9, "patience": 1}
    assert fed(stop, [0.8], "accuracy").why is None
    assert fed(stop, [0.91], "accuracy").why == "accuracy 0.91 has reached the target 0.9"
    assert fed(stop, [0.8, 0.7], "accuracy").why == "accuracy was no better in an evaluation than 0.8 at step 10"
    assert watched(config({"patience": 1}, checkpoint={"best": "accuracy", "mode": "max"})) == ("accuracy", -1)


def test_minutes_go_on_where_a_run_is_resumed(monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    first = Stopping(config({"minutes": 2}))
    now = 90.0
    assert first.overdue is None
    saved = json.loads(json.dumps(first.state()))
    now = 1000.0  # another process, a day later
    second = Stopping(config({"minutes": 2}))
    second.restore(saved)
    now = 1029.0
    assert second.overdue is None
    now = 1030.0
    assert second.overdue == "2 minutes are over"
    second.restore(saved)  # as a rollback does: time is not taken back
    assert second.overdue == "2 minutes are over"


def test_what_was_seen_is_saved():
    first = fed({"patience": 2}, [1.0, 2.0])
    second = Stopping(config({"patience": 2}))
    second.restore(json.loads(json.dumps(first.state())))
    second.evaluated(30, {"loss": 1.5})
    assert second.why == "loss was no better in 2 evaluations than 1 at step 10"
    second.restore(None)  # of a version that saved none
    assert second.why is not None


# -- whole runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_arrays(folder)
    return folder


def run(data, folder, stop, **changes):
    return train(
        build(sections(data, run={"steps": 40, "eval_every": 4, "log_every": 8, "stop": stop}, **changes)),
        folder,
        quiet=True,
    ).summary


def evaluations(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if record["split"] == "eval"}


def test_a_run_ends_where_its_target_is_reached(data, tmp_path, capfd):
    summary = run(data, tmp_path / "run", {"target": 0.8})
    losses = evaluations(tmp_path / "run")
    first = min(step for step, loss in losses.items() if loss <= 0.8)
    assert 4 < first < 40, losses
    assert (summary["status"], summary["step"], max(losses)) == ("completed", first, first)
    assert summary["stopped"] == f"loss {losses[first]:.6g} has reached the target 0.8"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stopped"] == summary["stopped"]
    capfd.readouterr()
    again = run(data, tmp_path / "run", {"target": 0.8})
    assert again == summary
    assert f"the run has ended early after step {first} of 40: loss" in capfd.readouterr().err


def test_a_looser_rule_goes_on_from_there(data, tmp_path):
    first = run(data, tmp_path / "run", {"target": 0.8})
    second = run(data, tmp_path / "run", None)
    assert (second["step"], second["stopped"]) == (40, None)
    whole = run(data, tmp_path / "whole", None)
    assert evaluations(tmp_path / "run") == evaluations(tmp_path / "whole")
    assert first["step"] < whole["step"]


def test_patience_keeps_the_best_checkpoint(data, tmp_path):
    from jaxprop.run.loaded import load

    summary = run(data, tmp_path / "run", {"patience": 2}, optimizer={"name": "sgd", "lr": 30.0})
    losses = evaluations(tmp_path / "run")
    assert summary["step"] < 40
    assert summary["stopped"].startswith("loss was no better in 2 evaluations than ")
    assert list(losses)[-3] == summary["best"]["step"] == min(losses, key=losses.__getitem__)
    assert load(tmp_path / "run").step == summary["best"]["step"]


def test_when_its_minutes_are_over_a_run_is_evaluated_and_saved(data, tmp_path, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(module, "time", type("Ticking", (), {"monotonic": staticmethod(lambda: next(ticks))}))
    summary = run(data, tmp_path / "run", {"minutes": 0.1})
    assert summary["stopped"] == "0.1 minutes are over"
    step = summary["step"]
    assert 0 < step < 40
    assert step % 4  # it is no step of an evaluation, and is evaluated all the same
    assert max(evaluations(tmp_path / "run")) == step
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["split"] == "train"][-1] == step
    assert summary["best"]["step"] <= step
