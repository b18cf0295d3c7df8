"""Evaluating a run's checkpoint: the same figures as the run's own, and nothing written."""

import json
import shutil

import numpy as np
import pytest

from jaxprop import lock, runner
from jaxprop.checkpoint import Checkpoints
from jaxprop.config.build import build
from jaxprop.errors import CheckpointError, JaxpropError, UsageError
from jaxprop.evaluation import evaluate_run

ARRAYS = {
    "task": {"name": "classify"},
    "data": {"name": "arrays", "batch_size": 16},
    "model": {"name": "mlp", "hidden": [8], "batch_norm": True, "dropout": 0.2},
    "optimizer": {"name": "adam", "lr": 0.05, "schedule": {"name": "cosine"}},
    "sinks": {"console": False},
    "checkpoint": {"best": "loss"},
    "run": {"steps": 6, "eval_every": 2, "log_every": 2, "ema_decay": 0.5},
}


def config(folder, *, test=True, **run):
    data = ARRAYS["data"] | {"train": str(folder / "train.npz")} | ({"test": str(folder / "test.npz")} if test else {})
    return build({**ARRAYS, "data": data, "run": {**ARRAYS["run"], **run}})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with arrays and, in `run`, a run trained on them."""
    folder = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(0)
    for name, length in (("train", 64), ("test", 37)):
        labels = rng.integers(0, 3, length)
        inputs = rng.normal(size=(length, 5)).astype(np.float32) + labels[:, None]
        np.savez(folder / f"{name}.npz", inputs=inputs.astype(np.float32), labels=labels)
    runner.train(config(folder), folder / "run", quiet=True)
    return folder


def evaluations(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: {k: v for k, v in r.items() if k not in ("step", "split")} for r in records if r["split"] == "eval"}


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def test_the_same_bits_as_the_runs_own_last_evaluation_and_nothing_written(home):
    before = contents(home)
    with lock.hold(home / "run"):  # as if it were training; the lock's own file tells of it
        found = evaluate_run(home / "run")
    lock_file = home / "run" / ".lock"
    assert {p: s for p, s in contents(home).items() if p != lock_file} == {
        p: s for p, s in before.items() if p != lock_file
    }
    own = evaluations(home / "run")
    assert (found["step"], found["metrics"]) == (6, own[6])
    assert (found["examples"], found["parameters"]) == (37, 5 * 8 + 8 * 2 + 8 * 3 + 3)
    assert list(found["reference"]) == ["majority_accuracy"]


def test_the_best_checkpoint(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    own = evaluations(home / "run")
    # The best by another metric's rule: the largest loss of those kept.
    kept = {step: own[step]["loss"] for step in Checkpoints(tmp_path / "run" / "checkpoints").steps()}
    assert len(kept) > 1
    for mode, choose in (("min", min), ("max", max)):
        found = evaluate_run(tmp_path / "run", [f"checkpoint.mode={mode}"], best=True)
        step = choose(kept, key=kept.get)
        assert (found["step"], found["metrics"]) == (step, own[step])


@pytest.mark.parametrize(
    "override", ["data.eval_batch_size=5", "parallel.devices=1", "sinks.jsonl=false", "data.prefetch=0"]
)
def test_overrides_that_leave_the_figures_alone(home, override):
    own, found = evaluations(home / "run")[6], evaluate_run(home / "run", [override])["metrics"]
    assert found == pytest.approx(own, rel=1e-5)


def test_fewer_batches(home):
    own, found = evaluations(home / "run")[6], evaluate_run(home / "run", ["run.eval_batches=1"])["metrics"]
    assert found["loss"] != own["loss"]


def test_another_test_split(home, tmp_path):
    with np.load(home / "test.npz") as arrays:
        np.savez(tmp_path / "part.npz", inputs=arrays["inputs"][:16], labels=arrays["labels"][:16])
    found = evaluate_run(home / "run", [f"data.test={tmp_path / 'part.npz'}"])
    assert found["examples"] == 16
    assert found["metrics"] == evaluate_run(home / "run", ["run.eval_batches=1"])["metrics"]


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["model.hidden=[9]", "run.seed=1"], ["model.hidden: [8] -> [9]", "run.seed: 0 -> 1"]),
        (["optimizer.lr=0.1"], ["optimizer.lr: 0.05 -> 0.1"]),
        (["data.batch_size=8", "data.eval_batch_size=8"], ["data.batch_size: 16 -> 8"]),
        (["precision.policy=bfloat16"], ['precision.policy: "float32" -> "bfloat16"']),
        (["model.hiden=[8]"], ["override 'model.hiden=[8]': model.hiden: unknown key; did you mean 'hidden'?"]),
    ],
)
def test_overrides_that_alter_the_run(home, overrides, lines):
    with pytest.raises(JaxpropError) as caught:
        evaluate_run(home / "run", overrides)
    assert caught.value.exit_code == 2
    told = [line.strip() for line in str(caught.value).splitlines()]
    assert (told if len(told) == 1 else told[1:-1]) == lines


def test_no_such_run(home):
    with pytest.raises(UsageError, match=rf"nowhere: there is no such run folder \(runs in {home}: run\)"):
        evaluate_run(home / "nowhere")
    with pytest.raises(UsageError, match=r"no config\.yaml and no checkpoints \(runs in .*: run\)"):
        evaluate_run(home)


def test_no_checkpoint_yet(tmp_path):
    (tmp_path / "config.yaml").write_text("task: {name: classify}\n")
    with pytest.raises(CheckpointError, match="has no checkpoint yet; a run saves one at each evaluation"):
        evaluate_run(tmp_path)


def test_without_a_test_split_there_is_nothing_to_evaluate_on(home, tmp_path):
    runner.train(config(home, test=False, eval_every=None, steps=4), tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match=r"have no test split to evaluate on; add the override data\.test=FILE\.npz"):
        evaluate_run(tmp_path / "run")
    test = f"data.test={home / 'test.npz'}"
    assert evaluate_run(tmp_path / "run", [test])["examples"] == 37
    with pytest.raises(CheckpointError, match="finite loss of an evaluation, so none is the best; leave --best out"):
        evaluate_run(tmp_path / "run", [test], best=True)


def test_a_checkpoint_replaced_while_it_is_read_is_read_again(home, monkeypatch):
    restore, steps, calls = Checkpoints.restore, Checkpoints.steps, []

    def torn_once(self, *arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise CheckpointError("gone")
        return restore(self, *arguments)

    monkeypatch.setattr(Checkpoints, "restore", torn_once)
    with pytest.raises(CheckpointError, match="gone"):  # the same steps are there: it is truly damaged
        evaluate_run(home / "run")
    calls.clear()
    monkeypatch.setattr(Checkpoints, "steps", lambda self: steps(self) + [7] * len(calls))
    assert evaluate_run(home / "run")["step"] == 6
