"""A run's folder from start to end: what it holds, what may be continued, and what a failure leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxprop import checkpoint
from jaxprop.config.build import build
from jaxprop.config.dump import dump
from jaxprop.config.load import load
from jaxprop.errors import CheckpointError, ConfigError, DataError, RunFolderError, ShapeError, UsageError
from jaxprop.run import conduct
from jaxprop.run import train as runner
from jaxprop.run.compose import compose
from jaxprop.run.lock import hold
from jaxprop.sinks import Sink, fan_out
from jaxprop.train import gradients
from jaxprop.version import VERSIONED

SUMMARY = {
    "status", "outcome", "stopped", "step", "metrics", "best", "test", "reference", "parameters", "seconds",
    "session_seconds", "compile_seconds", "examples_per_second", "data_wait_share", "versions", "allocator",
}  # fmt: skip


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """20 training and 9 test records of 3 classes, and the same with one value too large for float32's square."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, count in (("train", 20), ("test", 9)):
        inputs = rng.normal(size=(count, 5)).astype(np.float32)
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=np.arange(count) % 3)
    np.savez(folder / "huge.npz", inputs=np.full((20, 5), 3e38, np.float32), labels=np.arange(20) % 3)
    return folder


@pytest.fixture(scope="module")
def sections(arrays):
    """A configuration of 3 steps an epoch, as sections to change."""
    return {
        "task": {"name": "classify"},
        "data": {
            "name": "arrays",
            "train": str(arrays / "train.npz"),
            "test": str(arrays / "test.npz"),
            "batch_size": 8,
            "prefetch": 0,
        },
        "model": {"name": "mlp", "hidden": [4], "dropout": 0.1},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "parallel": {"devices": 1},
        "run": {"epochs": 2, "log_every": 2},
    }


def changed(sections, **changes):
    """The configuration with some keys of some sections set."""
    return build({**sections, **{name: {**sections.get(name, {}), **keys} for name, keys in changes.items()}})


def changed_data(sections, **changes):
    return {**sections, "data": {**sections["data"], **changes}}


@pytest.fixture(scope="module")
def finished(sections, tmp_path_factory):
    """The folder of a completed run, and its outcome."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    return folder, runner.train(build(sections), folder, quiet=True)


@pytest.fixture
def done(finished, tmp_path):
    """A copy of a completed run's folder."""
    return Path(shutil.copytree(finished[0], tmp_path / "done"))


def contents(folder):
    """Every file's bytes, but for the lock that says who was here last."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- what a run's folder holds --------------------------------------------------------------------


@pytest.mark.parametrize(("model", "told"), [({"name": "mlp", "hidden": [4]}, True), ({"name": "rnn"}, False)])
def test_integers_far_from_unit_scale_are_told_unless_they_are_tokens(model, told, sections, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 5), dtype=np.uint8)
    np.savez(tmp_path / "pixels.npz", inputs=pixels, labels=np.arange(20) % 3)
    config = build({**changed_data(sections, train=str(tmp_path / "pixels.npz"), test=None), "model": model})
    notes = conduct.data_notes(compose(config))
    assert [note.endswith("far from unit scale; set data.standardize: true") for note in notes] == [True] * told


def test_a_completed_run(finished, sections):
    folder, outcome = finished
    assert outcome.exit_code == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".lock", "alerts.jsonl", "checkpoints", "config.yaml", "layers.jsonl", "metrics.jsonl", "panels.json",
        "prepared.json", "summary.json",
    }  # fmt: skip
    assert load(folder / "config.yaml").config == build(sections)
    assert load(folder / "config.yaml").name == "done"
    assert checkpoint.Checkpoints(folder / "checkpoints").steps() == [3, 6]


def test_records(finished):
    folder, outcome = finished
    records = lines(folder / "metrics.jsonl")
    train = [record for record in records if record["split"] == "train"]
    evals = [record for record in records if record["split"] == "eval"]
    assert [record["step"] for record in train] == [1, 2, 3, 4, 5, 6]
    assert set(train[-1]) == {
        "step", "split", "loss", "accuracy", "grad_norm", "lr",
    }  # fmt: skip
    assert all(record["lr"] == pytest.approx(0.1) for record in train)
    assert [record["step"] for record in evals] == [3, 6]
    assert evals[-1] == {"step": 6, "split": "eval", **outcome.summary["metrics"]}
    rows = lines(folder / "layers.jsonl")
    assert {row["step"] for row in rows} == {1, 2, 4, 6}
    assert set(rows[-1]) == {"step", "layer", "grad_norm", "nonfinite", "grad_rms"}
    assert any("param_norm" in row for row in rows if row["step"] == 1), "the first record holds everything"
    # The norm of all is the norm of the layers' norms.
    last = [row["grad_norm"] for row in rows if row["step"] == 6]
    assert train[-1]["grad_norm"] == pytest.approx(np.linalg.norm(last), rel=1e-5)


def test_summary(finished):
    folder, outcome = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == outcome.summary
    assert set(summary) == SUMMARY
    assert (summary["status"], summary["step"], summary["parameters"]) == ("completed", 6, 5 * 4 + 4 + 4 * 3 + 3)
    assert set(summary["metrics"]) == {"loss", "accuracy"}
    assert summary["reference"] == {"majority_accuracy": pytest.approx(1 / 3)}
    assert {"python", "jaxprop", *VERSIONED} == set(summary["versions"])
    assert 0 < summary["compile_seconds"] < summary["seconds"]
    assert summary["session_seconds"] is None


def test_the_time_of_a_run_is_that_of_all_its_sessions(sections, tmp_path):
    def session(steps):
        return runner.train(changed(sections, run={"steps": steps, "epochs": None}), tmp_path, quiet=True).summary

    first = session(3)
    (tmp_path / "summary.json").write_text(json.dumps({**first, "seconds": 1000.0}))
    second = session(6)
    assert 0 < second["session_seconds"] < 1000
    assert second["seconds"] == pytest.approx(1000 + second["session_seconds"], abs=0.1)
    (tmp_path / "summary.json").unlink()  # as after a kill: the checkpoint knows what there was until it was saved
    third = session(9)
    assert third["seconds"] == pytest.approx(second["seconds"] + third["session_seconds"], abs=5)
    (tmp_path / "summary.json").write_text(json.dumps({**third, "seconds": "a day"}))
    assert session(12)["seconds"] > 1000


# -- what may be continued ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sinks": {"tensorboard": True}},
        {"checkpoint": {"keep": 5}},
        {"run": {"log_every": 1}},
        {"checkpoint": {"enabled": False}},
    ],
    ids=str,
)
def test_a_completed_run_repeated_does_nothing(done, sections, finished, changes, capsys):
    before = contents(done)
    outcome = runner.train(changed(sections, **changes), done)
    assert outcome == finished[1]
    assert contents(done) == before
    assert capsys.readouterr().err.startswith("all 6 steps are done already; raise run.steps or run.epochs for more")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": {"lr": 0.2}}, "optimizer.lr: 0.1 -> 0.2"),
        ({"run": {"seed": 1}}, "run.seed: 0 -> 1"),
        ({"data": {"batch_size": 4}}, "data.batch_size: 8 -> 4"),
        ({"model": {"hidden": [4, 4]}}, "model.hidden: [4] -> [4, 4]"),
        ({"run": {"ema_decay": 0.5}}, "run.ema_decay: (not set) -> 0.5"),
        ({"optimizer": {"lr": 0.2}, "run": {"accumulate": 2}}, "run.accumulate: 1 -> 2"),
    ],
    ids=str,
)
@pytest.mark.parametrize("saved", [True, False])
def test_changed_mathematics_is_refused_and_nothing_touched(done, sections, changes, said, saved):
    if not saved:
        shutil.rmtree(done / "checkpoints")
    before = contents(done)
    with pytest.raises(UsageError, match="holds a run with another configuration") as error:
        runner.train(changed(sections, **changes), done, quiet=True)
    assert f"\n  {said}" in str(error.value)
    assert str(error.value).endswith("use --run DIR for a new run, --fresh to start this one over, or the old values")
    assert error.value.exit_code == 2
    assert contents(done) == before


def test_a_completed_run_that_was_not_saved(done, sections, finished):
    shutil.rmtree(done / "checkpoints")
    before = contents(done)
    assert runner.train(build(sections), done, quiet=True) == finished[1]
    with pytest.raises(UsageError, match="completed run that was not saved, so it cannot be made longer"):
        runner.train(changed(sections, run={"epochs": 3}), done, quiet=True)
    assert contents(done) == before


def test_more_epochs_go_on_where_the_schedule_is_constant(done, sections, tmp_path, capsys):
    longer = changed(sections, run={"epochs": 3})
    outcome = runner.train(longer, done)
    assert "resumed from step 6\n" in capsys.readouterr().err
    assert (outcome.exit_code, outcome.summary["step"]) == (0, 9)
    whole = runner.train(longer, tmp_path / "whole", quiet=True)
    assert outcome.summary["metrics"] == whole.summary["metrics"]
    assert load(done / "config.yaml").config.run.epochs == 3
    # and not back to fewer
    with pytest.raises(CheckpointError, match="step 9, beyond the run's 6 steps"):
        runner.train(build(sections), done, quiet=True)


def test_a_stale_summary_is_not_taken_for_the_end(done, sections):
    """As after a kill between the last save and the summary of a run made longer."""
    stale = json.loads((done / "summary.json").read_text()) | {"step": 3}
    (done / "summary.json").write_text(json.dumps(stale))
    assert runner.train(build(sections), done, quiet=True).summary["step"] == 6


def test_changed_data_is_refused(done, sections, arrays, tmp_path):
    (done / "summary.json").unlink()
    path = arrays / "train.npz"
    original = path.read_bytes()
    with np.load(path) as old:
        np.savez(path, inputs=old["inputs"] + 1, labels=old["labels"])
    try:
        with pytest.raises(DataError, match="the data stream is not the saved one: fingerprint"):
            runner.train(build(sections), done, quiet=True)
    finally:
        path.write_bytes(original)


# -- starting over --------------------------------------------------------------------------------


def test_fresh_starts_over(done, sections, finished):
    (done / "metrics.jsonl").write_text('{"step": 99}\n')
    outcome = runner.train(build(sections), done, fresh=True, quiet=True)
    assert outcome.summary["metrics"] == finished[1].summary["metrics"]
    assert [r["step"] for r in lines(done / "metrics.jsonl")] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert checkpoint.Checkpoints(done / "checkpoints").steps() == [3, 6]


def unbuildable(monkeypatch, sections):
    return changed(sections, data={"train": "nowhere.npz"})


def too_large(monkeypatch, sections):
    return changed(sections, data={"batch_size": 64})


def untraceable(monkeypatch, sections):
    def refuse(*_):
        raise ShapeError("the step cannot be traced")

    monkeypatch.setattr(gradients, "value_and_grad", refuse)
    return changed(sections, optimizer={"lr": 0.2})


@pytest.mark.parametrize("breakage", [unbuildable, too_large, untraceable])
def test_fresh_that_fails_to_build_loses_nothing(done, sections, breakage, monkeypatch):
    config, before = breakage(monkeypatch, sections), contents(done)
    with pytest.raises((DataError, ConfigError, ShapeError)):
        runner.train(config, done, fresh=True, quiet=True)
    assert contents(done) == before


def test_fresh_that_cannot_write_records_keeps_the_checkpoints(done, sections):
    (done / "metrics.jsonl").unlink()
    (done / "metrics.jsonl").mkdir()
    with pytest.raises(RunFolderError, match=r"metrics.jsonl cannot be written"):
        runner.train(build(sections), done, fresh=True, quiet=True)
    assert checkpoint.Checkpoints(done / "checkpoints").steps() == [3, 6]
    assert (done / "summary.json").exists()


def test_an_old_run_comes_back_where_the_new_one_fails_before_its_first_checkpoint(done, sections, monkeypatch):
    before = contents(done)

    def fail(step):
        raise RuntimeError("no more of it")

    with_progress(monkeypatch, fail)
    with pytest.raises(RuntimeError) as error:
        runner.train(build(sections), done, fresh=True, quiet=True)
    assert error.value.__notes__ == ["the run from before --fresh is back in its place"]
    assert contents(done) == before
    assert not list(done.glob(".before*"))


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("at", ["before the first step", 1, 2])
def test_an_old_run_comes_back_where_the_new_one_is_interrupted_before_its_first_checkpoint(
    done, sections, monkeypatch, capsys, at
):
    before = contents(done)

    def interrupt(step):
        if at in (step, "before the first step"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    if at == "before the first step":
        monkeypatch.setattr(runner, "_trace", lambda *_: interrupt(0))
    else:
        with_progress(monkeypatch, interrupt)
    outcome = runner.train(build(sections), done, fresh=True, quiet=True)
    assert outcome.exit_code == 130
    assert outcome.summary["status"] == "interrupted"
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("SIGINT: stopping after this step")
    assert told[-1].endswith("before the first checkpoint; the run from before --fresh is back in its place")
    assert contents(done) == before


@pytest.mark.usefixtures("default_signals")
def test_an_old_run_is_gone_once_the_new_one_has_a_checkpoint(done, sections, monkeypatch):
    def interrupt(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    with_progress(monkeypatch, interrupt)
    config = changed(sections, optimizer={"lr": 0.2})
    outcome = runner.train(config, done, fresh=True, quiet=True)
    assert (outcome.exit_code, outcome.summary["step"]) == (130, 5)
    assert checkpoint.Checkpoints(done / "checkpoints").steps() == [3, 5]
    assert not list(done.glob(".before*"))
    monkeypatch.undo()
    assert runner.train(config, done, quiet=True).summary["step"] == 6


def test_an_old_run_waits_for_the_next_start_where_the_new_one_diverges(done, sections, arrays, capsys):
    before = contents(done)
    diverging = changed(
        sections, data={"train": str(arrays / "huge.npz"), "test": None}, health={"max_skips": 3}, run={"epochs": 4},
        checkpoint={"every_steps": 100},
    )  # fmt: skip
    assert runner.train(diverging, done, fresh=True, quiet=True).exit_code == 3
    assert "the run from before --fresh is back in its place when the next run starts here" in capsys.readouterr().err
    assert json.loads((done / "summary.json").read_text())["status"] == "diverged"
    assert list((done / "blackbox").iterdir())
    assert runner.train(build(sections), done, quiet=True).exit_code == 0
    assert contents(done) == before


def test_without_checkpoints_the_old_run_is_kept_until_the_end(done, sections):
    config = changed(sections, checkpoint={"enabled": False})
    assert runner.train(config, done, fresh=True, quiet=True).exit_code == 0
    assert not (done / "checkpoints").exists()
    assert not list(done.glob(".before*"))


def with_progress(monkeypatch, progress):
    opened = conduct.open_sinks
    monkeypatch.setattr(
        conduct, "open_sinks", lambda *args, **kwargs: fan_out([opened(*args, **kwargs), Sink(progress=progress)])
    )


# -- records of another run -----------------------------------------------------------------------


@pytest.fixture
def unsaved(sections, tmp_path):
    """A folder with records and no checkpoint."""
    config = changed(sections, checkpoint={"enabled": False})
    runner.train(config, tmp_path / "unsaved", quiet=True)
    (tmp_path / "unsaved" / "summary.json").unlink()  # as after a kill
    return tmp_path / "unsaved"


def test_records_of_another_run_are_not_emptied(unsaved, sections, arrays):
    other = changed(sections, optimizer={"lr": 0.2})
    before = contents(unsaved)
    with pytest.raises(UsageError, match="holds a run with another configuration"):
        runner.train(other, unsaved, quiet=True)
    with pytest.raises(UsageError, match=r"data.train: "):
        runner.train(changed(sections, data={"train": str(arrays / "test.npz")}), unsaved, quiet=True)
    assert contents(unsaved) == before
    (unsaved / "config.yaml").unlink()
    with pytest.raises(UsageError, match=r"holds records of another run, whose config.yaml is missing or cannot be"):
        runner.train(build(sections), unsaved, quiet=True)


def test_the_same_run_starts_over_and_says_so(unsaved, sections, capsys):
    (unsaved / "blackbox" / "7").mkdir(parents=True)
    assert runner.train(build(sections), unsaved).exit_code == 0
    assert "starting over from step 0: this run has records here, but no checkpoint" in capsys.readouterr().err
    assert not (unsaved / "blackbox").exists()


# -- data that moved ------------------------------------------------------------------------------


def test_the_fingerprint_decides_and_not_the_path(done, sections, arrays, tmp_path, monkeypatch):
    """Spelled otherwise, moved, and another file in its place."""
    shutil.copy(arrays / "train.npz", tmp_path / "moved.npz")
    monkeypatch.chdir(tmp_path)
    longer = changed(sections, data={"train": "moved.npz"}, run={"epochs": 3})
    assert runner.train(longer, done, quiet=True).summary["step"] == 9
    stored = load(done / "config.yaml").config
    assert stored.data.train == str(tmp_path / "moved.npz")
    assert checkpoint.stored_config(done / "checkpoints")["data"]["train"] == str(tmp_path / "moved.npz")
    with np.load(arrays / "train.npz") as old:
        np.savez("moved.npz", inputs=old["inputs"] + 1, labels=old["labels"])
    for epochs in (3, 4):  # complete, and to be made longer
        with pytest.raises(DataError, match="the data stream is not the saved one: fingerprint"):
            runner.train(changed(longer_sections(sections, "moved.npz"), run={"epochs": epochs}), done, quiet=True)


def longer_sections(sections, path):
    return {**sections, "data": {**sections["data"], "train": path}}


# -- folders of any name, and links ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["a[1]", "a\\b", "a?b", "a#b"])
def test_a_run_in_a_folder_of_any_name_can_be_resumed(sections, tmp_path, name):
    runner.train(build(sections), tmp_path / name, quiet=True)
    longer = runner.train(changed(sections, run={"epochs": 3}), tmp_path / name, quiet=True)
    assert longer.summary["step"] == 9
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.jsonl", "layers.jsonl", "alerts.jsonl", ".lock", "checkpoints", "tensorboard"]
)
def test_nothing_is_written_through_a_link_in_a_folder(sections, tmp_path, name):
    mine, folder = tmp_path / "mine", tmp_path / "run"
    folder.mkdir()
    mine.mkdir() if name in ("checkpoints", "tensorboard") else mine.write_text("mine")
    (folder / name).symlink_to(mine)
    with pytest.raises((RunFolderError, CheckpointError, UsageError), match=r"is a link, and|holds records of"):
        runner.train(changed(sections, sinks={"tensorboard": True}), folder, quiet=True)
    assert not list(mine.iterdir()) if mine.is_dir() else mine.read_text() == "mine"


def test_the_home_folder_is_expanded(sections, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    runner.train(build(sections), "~/a", quiet=True)
    assert (tmp_path / "a" / "summary.json").exists()


# -- the best evaluation --------------------------------------------------------------------------


def test_the_best_evaluation_is_in_the_summary(sections, tmp_path):
    outcome = runner.train(
        changed(sections, run={"epochs": 8}, checkpoint={"best": "accuracy", "mode": "max"}), tmp_path, quiet=True
    )
    evaluated = [record for record in lines(tmp_path / "metrics.jsonl") if record["split"] == "eval"]
    best = max(evaluated, key=lambda record: record["accuracy"])
    assert outcome.summary["best"] == {name: value for name, value in best.items() if name != "split"}
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints", best="accuracy", mode="max")
    assert checkpoints.best() == best["step"]
    assert checkpoints.latest() == outcome.summary["step"] == evaluated[-1]["step"]


# -- what goes wrong ------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused(done, sections):
    before = contents(done)
    with hold(done), pytest.raises(RunFolderError, match="in use by process"):
        runner.train(build(sections), done, fresh=True, quiet=True)
    assert contents(done) == before


def test_a_file_in_the_way(sections, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunFolderError, match=r"cannot be written to .*choose another with --run DIR"):
            runner.train(build(sections), folder, quiet=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_says_that_it_goes_on_from_an_older_checkpoint(done, sections, capsys):
    (done / "summary.json").unlink()
    (done / "checkpoints" / "6" / "manifest.json").write_text("")
    runner.train(build(sections | {"sinks": {"console": True}}), done)
    said = capsys.readouterr().err
    assert (
        "the checkpoint of step 6 is damaged: its manifest.json cannot be read; going on from step 3, 3 steps" in said
    )
    assert (done / "checkpoints" / "damaged" / "6" / "state").is_dir()
    assert checkpoint.Checkpoints(done / "checkpoints").steps() == [3, 6]


def damage(folder, step):
    for path in (folder / "checkpoints" / str(step) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"not what was saved")


def test_a_run_goes_on_from_the_newest_good_checkpoint_and_ends_as_if_nothing_had_been(done, sections, capsys):
    whole = json.loads((done / "summary.json").read_text())
    (done / "summary.json").unlink()
    damage(done, 6)
    again = runner.train(build(sections | {"sinks": {"console": True}}), done).summary
    assert "step 6 is damaged: its arrays cannot be read" in capsys.readouterr().err
    assert (again["step"], again["metrics"]) == (6, whole["metrics"])


def test_where_no_checkpoint_is_good_nothing_is_removed(done, sections):
    (done / "summary.json").unlink()
    for step in (3, 6):
        damage(done, step)
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}
    with pytest.raises(
        CheckpointError, match=r"can be used \(step 3: its arrays .*; step 6: its arrays .*\); use --run .*--fresh"
    ):
        runner.train(build(sections), done, quiet=True)
    after = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after.get(path)} <= {done / "config.yaml", done / ".lock"}


def test_checkpoints_that_cannot_be_read_are_not_started_over(done, sections):
    (done / "summary.json").unlink()
    for step in (3, 6):
        (done / "checkpoints" / str(step) / "manifest.json").write_text("{")
    metrics = (done / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"step 3: its manifest.json cannot be read; step 6: its .*--fresh"):
        runner.train(build(sections), done, quiet=True)
    assert (done / "metrics.jsonl").read_bytes() == metrics


def test_a_save_that_fails_is_an_error_and_a_failed_run(sections, tmp_path, monkeypatch):
    """As on a full disk, which Orbax finds out in the background: nobody else would tell of the last save."""
    steps = checkpoint.Checkpoints.steps
    monkeypatch.setattr(checkpoint.Checkpoints, "steps", lambda self: [s for s in steps(self) if s < 6])
    with pytest.raises(CheckpointError, match="the checkpoint of step 6 could not be written"):
        runner.train(build(sections), tmp_path, quiet=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == SUMMARY | {"error"}
    assert (summary["status"], summary["step"]) == ("failed", 6)
    assert summary["error"].startswith("CheckpointError: the checkpoint of step 6 could not be written")


# -- divergence -----------------------------------------------------------------------------------


def test_a_run_that_diverges(sections, arrays, tmp_path, capsys):
    config = changed(
        sections,
        data={"train": str(arrays / "huge.npz"), "test": None},
        health={"max_skips": 3},
        model={"dropout": 0.0},
    )
    outcome = runner.train(config, tmp_path)
    assert outcome.exit_code == 3
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("diverged: loss or gradients were not finite for 3 steps in a row, up to step ")
    assert f"set optimizer.lr to what 'jaxprop lr-find {tmp_path}' suggests and start over with --fresh" in told
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert summary["error"] == told.removeprefix("diverged: ")
    assert set(summary) == SUMMARY | {"error"}
    first = lines(tmp_path / "metrics.jsonl")[0]
    assert (first["step"], first["loss"], first["grad_norm"], first["skips"]) == (1, None, None, 1)


def test_an_alert_that_stops_the_run(sections, arrays, tmp_path, capsys):
    """A rate far too high, found by the watch itself."""
    config = changed(
        sections,
        model={"dropout": 0.0},
        optimizer={"lr": 40.0},
        health={"on_alert": "stop"},
        run={"epochs": 100},
    )
    outcome = runner.train(config, tmp_path)
    assert outcome.exit_code == 3
    told = capsys.readouterr().err.splitlines()
    alerts = lines(tmp_path / "alerts.jsonl")
    acts = [alert for alert in alerts if alert["kind"] != "action" and alert["severity"] == "act"]
    actions = [alert for alert in alerts if alert["kind"] == "action"]
    assert [action["action"] for action in actions][-1] == "stop"
    assert told[-1].startswith("diverged: stopped at step ")
    assert "; likely " in told[-1]
    assert "jaxprop lr-find" in told[-1]
    assert outcome.summary["status"] == "diverged"
    assert outcome.summary["error"] == told[-1].removeprefix("diverged: ")
    assert outcome.summary["step"] == actions[-1]["due"]
    # Each alert and each action is one line on the console.
    for alert in [*acts, *actions]:
        assert len([line for line in told if line.endswith(alert["message"])]) >= 1
    assert {"step", "kind", "layer", "severity", "value", "threshold", "message", "since", "cause"} <= set(acts[0])
    assert {"step", "kind", "layer", "severity", "value", "threshold", "message", "since", "cause"} <= set(actions[0])


def test_a_response_may_be_changed_on_the_way(done, sections):
    """The state has one structure whatever is done about alerts."""
    config = changed(sections, run={"epochs": 3}, health={"on_alert": ["clip", "cut_lr", "rollback", "stop"]})
    outcome = runner.train(config, done, quiet=True)
    assert (outcome.exit_code, outcome.summary["step"]) == (0, 9)


# -- signals, across real processes ---------------------------------------------------------------

# The command line, with the signals it is to get at one step.
DRIVER = """
import os, sys, time
from jaxprop import cli
from jaxprop.sinks import Sink, fan_out
from jaxprop.run import conduct

signals, at = [int(n) for n in sys.argv[1].split(",")], int(sys.argv[2])
opened = conduct.open_sinks

def progress(step):
    if step == at:
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

conduct.open_sinks = lambda *args, **kwargs: fan_out([opened(*args, **kwargs), Sink(progress=progress)])
sys.exit(cli.main(sys.argv[3:]))
"""
LEGS = [
    # signals, the step they come at, the exit code, the newest checkpoint then
    ("2", 5, 130, {5}),
    ("15", 11, 75, {11}),
    ("15,15", 13, 75, {13}),  # a scheduler repeats itself
    ("15,2", 15, 130, {13, 14}),  # at once: the step that was under way is lost, what was saved is not
    ("9", 21, -9, {20, 18}),  # the save of step 20 may have been under way
]


@pytest.mark.timeout(400)  # five processes that import jax and compile
@pytest.mark.usefixtures("default_signals")
def test_signals_stop_a_process_and_the_run_stays_the_same(sections, tmp_path):
    config = changed(
        sections,
        run={"epochs": 8, "log_every": 1, "accumulate": 2, "ema_decay": 0.9},
        checkpoint={"every_steps": 2},
        optimizer={"schedule": {"name": "linear", "end_scale": 0.1}},
    )
    file, folder = tmp_path / "config.yaml", tmp_path / "stopped"
    file.write_text(dump(config))
    environment = os.environ | {"PYTHONPATH": str(Path(runner.__file__).parents[2])}
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints", keep=2)
    for signals, at, code, newest in LEGS:
        command = [sys.executable, "-c", DRIVER, signals, str(at), "train", str(file), "--run", str(folder), "--json"]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert ran.returncode == code, ran.stderr
        assert checkpoints.latest() in newest
        assert "Traceback" not in ran.stderr
        if signals in ("2", "15", "15,15"):
            name = signal.Signals(int(signals.split(",")[0])).name
            assert (
                f"{name}: stopping after this step; {'once more' if name == 'SIGINT' else 'Ctrl-C'} leaves at once\n"
                in ran.stderr
            )
            assert ran.stderr.endswith(f"interrupted after step {at}; the same command goes on from there\n")
            assert json.loads(ran.stdout)["status"] == "interrupted"
        else:
            assert ran.stdout == ""
    resumed = runner.train(config, folder, quiet=True)
    whole = runner.train(config, tmp_path / "whole", quiet=True)
    assert (resumed.exit_code, whole.exit_code) == (0, 0)
    assert timeless(folder) == timeless(tmp_path / "whole")
    assert contents(folder)["layers.jsonl"] == contents(tmp_path / "whole")["layers.jsonl"]
    saved = [restored(config, path) for path in (folder, tmp_path / "whole")]
    assert saved[0] == saved[1]


def timeless(folder):
    return [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines(folder / "metrics.jsonl")]


def restored(config, folder):
    """The bytes of a folder's newest parameters and their average."""
    state = compose(config).init(config.run.seed)
    state = checkpoint.Checkpoints(folder / "checkpoints").restore(state).state
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state))]


# -- several devices ------------------------------------------------------------------------------


def test_eight_devices_take_the_steps_of_one_and_resume(sections, tmp_path, finished):
    eight = changed(sections, parallel={"devices": 8})
    whole = runner.train(eight, tmp_path / "whole", quiet=True)
    for ours, theirs in zip(timeless(tmp_path / "whole"), timeless(finished[0]), strict=True):
        assert ours.pop("split") == theirs.pop("split")
        assert ours == pytest.approx(theirs, rel=1e-5)
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / "6")
    (tmp_path / "whole" / "summary.json").unlink()
    again = runner.train(eight, tmp_path / "whole", quiet=True)
    assert again.summary["metrics"] == whole.summary["metrics"]


def test_sinks_are_closed_when_a_run_fails(sections, tmp_path, monkeypatch):
    closed = []

    def fail(step):
        raise RuntimeError("no more of it")

    opened = conduct.open_sinks
    monkeypatch.setattr(
        conduct,
        "open_sinks",
        lambda *args, **kwargs: fan_out([opened(*args, **kwargs), Sink(progress=fail, close=lambda: closed.append(1))]),
    )
    with pytest.raises(RuntimeError):
        runner.train(build(sections), tmp_path, quiet=True)
    assert closed == [1]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("failed", "RuntimeError: no more of it")
