"""Runs in a folder: what is listed of each, also of those that are open, broken, or none."""

import json
import math
import os
import socket
from pathlib import Path

import pytest

from jaxprop.errors import UsageError
from jaxprop.run.lock import hold
from jaxprop.tools.runs import list_runs
from tests.run.sweeps import make_sweep

CONFIG = "task: {name: classify}\n"


def make(folder, name, *, config=CONFIG, records=(), when=1000, **summary):
    """A run's folder by hand."""
    run = Path(folder, name)
    run.mkdir(parents=True)
    if config is not None:
        (run / "config.yaml").write_text(config)
    if records:
        (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if summary:
        (run / "summary.json").write_text(json.dumps(summary))
    for path in run.iterdir():
        os.utime(path, (when, when))
    return run


def evaluated(step, loss, accuracy):
    return {"step": step, "split": "eval", "loss": loss, "accuracy": accuracy}


def done(folder, name, accuracy, step=10, seconds=1.0, when=1000):
    return make(
        folder, name, when=when, status="completed", step=step, seconds=seconds,
        metrics={"loss": 0.5, "accuracy": accuracy}, best={"step": 5, "loss": 0.4, "accuracy": accuracy + 0.01},
    )  # fmt: skip


def test_a_run_that_has_ended(tmp_path):
    folder = done(tmp_path, "a", 0.9, when=1234)
    (found,) = list_runs(tmp_path)
    assert found == ("a", folder, "completed", 10, "accuracy", 0.91, 0.9, 1.0, 1234.0, "")
    assert list_runs(folder) == [found]  # a run by itself is a list of one


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("name", ["a", "b", "c", "d"]),
        ("metric", ["b", "c", "a", "d"]),
        ("time", ["c", "a", "b", "d"]),
        ("step", ["a", "b", "c", "d"]),
        ("when", ["d", "c", "b", "a"]),
    ],
)
def test_the_order(tmp_path, sort, names):
    done(tmp_path, "a", 0.7, step=30, seconds=2.0, when=1)
    done(tmp_path, "b", 0.9, step=20, seconds=1.0, when=2)
    done(tmp_path, "c", 0.8, step=10, seconds=3.0, when=3)
    make(tmp_path, "d", when=4, records=[{"step": 1, "split": "train", "loss": 2.0}])
    assert [run.name for run in list_runs(tmp_path, sort)] == names


def test_a_loss_is_best_where_it_is_smallest(tmp_path):
    for name, loss in (("a", 0.5), ("b", 0.2)):
        make(tmp_path, name, config="task: {name: language}\n", status="completed", metrics={"loss": loss})
    assert [run.name for run in list_runs(tmp_path, "metric")] == ["b", "a"]


def test_what_is_kept_as_the_best_is_the_metric(tmp_path):
    config = CONFIG + "checkpoint: {best: loss}\n"
    make(tmp_path, "a", config=config, status="completed", metrics={"loss": 0.5, "accuracy": 0.9})
    assert (list_runs(tmp_path)[0].metric, list_runs(tmp_path)[0].last) == ("loss", 0.5)


@pytest.mark.parametrize(
    ("owner", "status"),
    [({"pid": os.getpid(), "host": socket.gethostname()}, "running"), (None, "unfinished")],
)
def test_a_run_that_goes_on_or_was_killed(tmp_path, owner, status):
    records = [evaluated(5, 0.4, 0.8), evaluated(10, 0.5, 0.9), {"step": 12, "split": "train", "loss": 0.3}]
    run = make(tmp_path, "a", records=records)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "spl')  # just being written
    if owner is not None:
        (run / ".lock").write_text(json.dumps(owner))
    (found,) = list_runs(tmp_path)
    assert (found.status, found.step, found.problem) == (status, 12, "")
    assert (found.best, found.last) == (0.8, 0.9)  # the best checkpoint is that of the lowest loss


def test_a_search_for_the_rate(tmp_path):
    for name, suggested in (("a", 0.02), ("b", None)):
        (make(tmp_path, name) / "lr_find.json").write_text(json.dumps({"suggested": suggested}))
    a, b = list_runs(tmp_path, "name")
    assert (a.status, a.metric, a.last, a.problem) == ("lr-find", "suggested lr", 0.02, "")
    assert math.isnan(b.last)


def broken(kind):
    def make_it(folder):
        if kind == "no config":
            make(folder, "x", config=None, status="completed", metrics={"loss": 0.5})
        elif kind == "a config that is no YAML":
            make(folder, "x", config="a: [", status="completed", metrics={"loss": 0.5})
        elif kind == "a torn summary":
            (make(folder, "x", records=[evaluated(5, 0.4, 0.8)]) / "summary.json").write_text('{"status"')
        elif kind == "a summary that is a list":
            (make(folder, "x", records=[evaluated(5, 0.4, 0.8)]) / "summary.json").write_text("[]")
        elif kind == "no records":
            make(folder, "x")
        elif kind == "a link":
            (make(folder, "x") / "metrics.jsonl").symlink_to("/etc/hostname")
        else:
            make(folder, "x", config=None)
            Path(folder, "x", "checkpoints").mkdir()

    return make_it


BROKEN = {
    "no config": "config.yaml is missing",
    "a config that is no YAML": "config.yaml cannot be read",
    "a torn summary": "summary.json is damaged",
    "a summary that is a list": "summary.json is damaged",
    "no records": "metrics.jsonl is missing",
    "a link": "metrics.jsonl cannot be read",
    "checkpoints alone": "config.yaml is missing; metrics.jsonl is missing",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_run_says_so_in_its_row(tmp_path, kind):
    done(tmp_path, "whole", 0.9)
    broken(kind)(tmp_path)
    whole, x = list_runs(tmp_path, "name")
    assert (whole.problem, x.problem) == ("", BROKEN[kind])


ODD = {
    "numbers": {"status": 3, "step": "many", "metrics": {"loss": "x", "accuracy": True}, "best": 7, "seconds": None},
    "enormous": {"status": "completed", "metrics": {"accuracy": 10**400}},
    "lists": {"status": "completed", "metrics": [1], "best": [2]},
}


@pytest.mark.parametrize("name", ODD)
def test_anything_may_stand_in_a_summary(tmp_path, name):
    make(tmp_path, "a", **ODD[name])
    (found,) = list_runs(tmp_path, "metric")
    assert (found.best, found.last, found.seconds) == (None, None, None)


def test_what_is_no_run_is_passed_over(tmp_path):
    done(tmp_path / "lessons" / "rates", "deep", 0.9)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    assert list_runs(tmp_path) == []
    assert [run.name for run in list_runs(tmp_path / "lessons" / "rates")] == ["deep"]


@pytest.mark.parametrize(("named", "sentence"), [("nowhere", "there is no such folder"), ("file", "is a file, not a")])
def test_no_folder(tmp_path, named, sentence):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=sentence):
        list_runs(tmp_path / named)


# -- sweeps -----------------------------------------------------------------------------------------


def test_a_sweep_is_one_line_with_its_best(tmp_path):
    runs = [({"lr": 1}, 0, 0.5), ({"lr": 1}, 1, 0.7), ({"lr": 2}, 0, 0.55), ({"lr": 3}, 0, "diverged")]
    make_sweep(tmp_path / "a-sweep", runs, left=2)
    (tmp_path / "a-sweep" / "lr=1,seed=0").mkdir()
    (tmp_path / "a-sweep" / "lr=1,seed=0" / "config.yaml").write_text("task: {name: classify}")
    make_sweep(tmp_path / "begun", runs)
    (tmp_path / "begun" / "results.json").unlink()
    make_sweep(tmp_path / "damaged", runs)
    (tmp_path / "damaged" / "results.json").write_text("{")
    one, begun, damaged = list_runs(tmp_path, "name")
    assert (one.name, one.status, one.metric, one.best, one.last) == (
        "a-sweep", "sweep", "accuracy", pytest.approx(0.6), None,
    )  # fmt: skip
    assert (one.step, one.seconds, one.problem) == (None, 1.0, "runs left: 2, runs lost: 1")
    assert (begun.status, begun.problem) == ("sweep", "has no results.json: none of its runs has ended")
    assert damaged.problem == "results.json is damaged"
    assert [run.name for run in list_runs(tmp_path / "a-sweep")] == ["lr=1,seed=0"]
    assert next(run.name for run in list_runs(tmp_path, "metric")) == "a-sweep"


def test_a_sweep_that_is_trained_is_running(tmp_path):
    folder = make_sweep(tmp_path / "s", [({"lr": 1}, 0, 0.5)])
    with hold(folder):
        assert list_runs(tmp_path)[0].status == "sweep running"
