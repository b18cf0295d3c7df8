"""Evaluating a run's checkpoint: the same figures as the run's own, and nothing written."""

import json
import shutil

import numpy as np
import pytest

from jaxprop.checkpoint import Checkpoints, manifest
from jaxprop.config.build import build
from jaxprop.errors import CheckpointError, DataError, JaxpropError, UsageError
from jaxprop.run import lock, opened
from jaxprop.run.train import train
from jaxprop.tools.eval import evaluate_run

ARRAYS = {
    "task": {"name": "classify"},
    "data": {"name": "arrays", "batch_size": 16},
    "model": {"name": "mlp", "hidden": [8], "batch_norm": True},
    "optimizer": {"name": "sgd", "lr": 0.05, "schedule": {"name": "cosine"}},
    "parallel": {"devices": 1},
    "health": {"layers": False},
    "sinks": {"console": False},
    "run": {"steps": 6, "eval_every": 2, "log_every": 2, "ema_decay": 0.5},
}


def config(folder):
    splits = {split: str(folder / f"{split}.npz") for split in ("train", "test")}
    return build({**ARRAYS, "data": ARRAYS["data"] | splits})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with arrays and, in `run`, a run trained on them."""
    folder = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(0)
    for name, length in (("train", 64), ("test", 37)):
        labels = rng.integers(0, 3, length)
        inputs = rng.normal(size=(length, 5)).astype(np.float32) + labels[:, None]
        np.savez(folder / f"{name}.npz", inputs=inputs.astype(np.float32), labels=labels)
    train(config(folder), folder / "run", quiet=True)
    return folder


def evaluations(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        r["step"]: {k: v for k, v in r.items() if k not in ("step", "split")} for r in records if r["split"] == "eval"
    }


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def test_the_same_bits_as_the_runs_own_last_evaluation_and_nothing_written(home):
    before = contents(home)
    with lock.hold(home / "run"):  # as if it were training; the lock's own file tells of it
        found = evaluate_run(home / "run", which="newest")
    lock_file = home / "run" / ".lock"
    assert {p: s for p, s in contents(home).items() if p != lock_file} == {
        p: s for p, s in before.items() if p != lock_file
    }
    own = evaluations(home / "run")
    assert (found["step"], found["metrics"]) == (6, own[6])
    assert (found["checkpoint"], found["split"]) == ("newest", "test")
    assert (found["examples"], found["parameters"]) == (37, 5 * 8 + 8 * 2 + 8 * 3 + 3)
    assert list(found["reference"]) == ["majority_accuracy"]


@pytest.mark.parametrize(("metric", "mode", "choose"), [("loss", "min", min), ("accuracy", "max", max)])
def test_the_best_checkpoint(home, metric, mode, choose):
    own = evaluations(home / "run")
    kept = {step: own[step][metric] for step in Checkpoints(home / "run" / "checkpoints").steps()}
    assert len(kept) > 1
    found = evaluate_run(home / "run", [f"checkpoint.best={metric}", f"checkpoint.mode={mode}"], which="best")
    step = choose(kept, key=kept.__getitem__)
    assert (found["step"], found["metrics"]) == (step, own[step])


def test_another_batch_size_and_other_devices_give_the_same_figures(home):
    overrides = ["data.eval_batch_size=5", "parallel.devices=2", "data.prefetch=0"]
    found = evaluate_run(home / "run", overrides, which="newest")["metrics"]
    assert found == pytest.approx(evaluations(home / "run")[6], rel=1e-5)


def test_another_test_split(home, tmp_path):
    with np.load(home / "test.npz") as arrays:
        np.savez(tmp_path / "part.npz", inputs=arrays["inputs"][:16], labels=arrays["labels"][:16])
    found = evaluate_run(home / "run", [f"data.test={tmp_path / 'part.npz'}"], which="newest")
    assert found["examples"] == 16
    assert found["metrics"] == evaluate_run(home / "run", ["run.eval_batches=1"], which="newest")["metrics"]
    assert found["metrics"] != evaluations(home / "run")[6]


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["model.hidden=[9]", "run.seed=1"], ["model.hidden.0: 8 -> 9", "run.seed: 0 -> 1"]),
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
    assert sorted(told if len(told) == 1 else told[1:-1]) == lines


def test_no_such_run(home):
    with pytest.raises(UsageError, match=rf"nowhere: there is no such run folder \(runs in {home}: run\)"):
        evaluate_run(home / "nowhere")
    with pytest.raises(UsageError, match=r"lr_find\.json \(runs in .*: run\)"):
        evaluate_run(home)


def test_no_checkpoint_yet(tmp_path):
    (tmp_path / "config.yaml").write_text("task: {name: classify}\n")
    with pytest.raises(CheckpointError, match="has no checkpoint yet; a run saves one at each evaluation"):
        evaluate_run(tmp_path)


def test_without_a_test_split_there_is_nothing_to_evaluate_on(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    for step in tmp_path.glob("run/checkpoints/*"):  # as if trained without one
        saved = manifest.read(step)
        del saved["config"]["data"]["test"], saved["config"]["run"]["eval_every"]
        manifest.write(step / "manifest.json", saved)
    with pytest.raises(UsageError, match=r"have no test split to evaluate on; add the override data\.test=FILE\.npz"):
        evaluate_run(tmp_path / "run")
    found = evaluate_run(tmp_path / "run", [f"data.test={home / 'test.npz'}"], which="newest")
    assert found["metrics"] == evaluations(home / "run")[6]


def test_no_checkpoint_is_the_best_without_an_evaluation(home, tmp_path):
    state = {"w": np.ones(2, np.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, state, stream={}, config={})
    with pytest.raises(CheckpointError, match="finite loss from an evaluation, so there is no best one; use --newest"):
        opened._restore(tmp_path, config(home), state, "best")


def test_a_checkpoint_replaced_while_it_is_read_is_read_again(home, tmp_path, monkeypatch):
    state = {"w": np.ones(2, np.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, state, stream={}, config={})
    restore, calls = Checkpoints.restore, []

    def torn_once(self, *arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise CheckpointError("gone")
        return restore(self, *arguments)

    monkeypatch.setattr(Checkpoints, "restore", torn_once)
    with pytest.raises(CheckpointError, match="gone"):  # the same steps are there, so it is truly damaged
        opened._restore(tmp_path, config(home), state, None)
    calls.clear()
    steps = Checkpoints.steps
    monkeypatch.setattr(Checkpoints, "steps", lambda self: [3] * len(calls) + steps(self))
    assert opened._restore(tmp_path, config(home), state, None)[0].step == 4


@pytest.mark.parametrize("task", ["classify", "language"])
def test_a_run_on_text_needs_neither_its_training_text_nor_its_tokenizer(tmp_path, task):
    """BPE is trained on the training text, and stored with the run with the names of the classes."""
    rows = [
        {"text": f"the cat {'sat' if i % 3 else 'ran'} on mat {i}", "label": "sat" if i % 3 else "ran"}
        for i in range(60)
    ]
    for name, part in (("train", rows[:48]), ("test", rows[48:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    model = {"name": "transformer", "layers": 1, "width": 8, "heads": 2}
    data = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    data |= {"tokenizer": {"train": "bpe", "vocabulary": 280}, "batch_size": 8, "sequence_length": 8, "label": "label"}
    sections = ARRAYS | {"task": {"name": task}, "model": model, "data": {"name": "text", **data}}
    made = train(build(sections | {"run": {"steps": 4, "eval_every": 4}}), tmp_path / "run").summary
    (tmp_path / "train.jsonl").unlink()
    found = evaluate_run(tmp_path / "run")
    assert found["metrics"] == pytest.approx({name: made["metrics"][name] for name in found["metrics"]}, rel=1e-5)
    assert found["examples"] == (12 if task == "classify" else found["examples"])
    assert set(found["reference"]) == ({"majority_accuracy"} if task == "classify" else {"unigram_loss"})


@pytest.fixture
def moved(home, tmp_path):
    """A copy of the run, and the arrays of its test split, which are put back."""
    shutil.copytree(home / "run", tmp_path / "run")
    with np.load(home / "test.npz") as arrays:
        held = dict(arrays)
    yield tmp_path / "run", held
    np.savez(home / "test.npz", **held)


def test_a_split_that_has_changed_is_refused_unless_it_is_named(home, moved):
    run, held = moved
    np.savez(home / "test.npz", **{name: values[1:] for name, values in held.items()})
    with pytest.raises(DataError, match=r"^the test split \(of .*test\.npz\) has changed since .*data\.test=FILE$"):
        evaluate_run(run)
    assert evaluate_run(run, [f"data.test={home / 'test.npz'}"])["examples"] == 36


def test_a_run_that_has_kept_no_fingerprints_is_evaluated(home, moved):
    run, held = moved
    np.savez(home / "test.npz", **{name: values[1:] for name, values in held.items()})
    kept = json.loads((run / "prepared.json").read_text())
    del kept["splits"]
    (run / "prepared.json").write_text(json.dumps(kept))
    assert evaluate_run(run)["examples"] == 36


def emptied(home, tmp_path, which):
    """A copy of the run whose best or newest checkpoint has lost its manifest."""
    shutil.copytree(home / "run", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    steps = Checkpoints(tmp_path / "run" / "checkpoints").steps()
    step = summary["best"]["step"] if which == "best" else max(steps)
    (tmp_path / "run" / "checkpoints" / str(step) / "manifest.json").write_text("")
    return tmp_path / "run", step


def test_another_checkpoint_never_takes_the_place_of_a_damaged_one(home, tmp_path):
    run, step = emptied(home, tmp_path, "newest")
    with pytest.raises(CheckpointError, match=rf"checkpoints/{step} is damaged: .*, and it is the newest one; restore"):
        evaluate_run(run, which="newest")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"best": {**summary["best"], "step": 4}}))
    assert evaluate_run(run, which="best")["step"] < step
    (run / "summary.json").unlink()
    with pytest.raises(CheckpointError, match="and it may be the best one; restore that file, or remove"):
        evaluate_run(run)


def test_a_damaged_best_checkpoint_names_the_newest(home, tmp_path):
    run, step = emptied(home, tmp_path, "newest")
    other = next(s for s in Checkpoints(run / "checkpoints").steps() if s != step)
    shutil.copy(home / "run" / "checkpoints" / str(step) / "manifest.json", run / "checkpoints" / str(step))
    (run / "checkpoints" / str(other) / "manifest.json").write_text("")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"best": {**summary["best"], "step": other}}))
    with pytest.raises(
        CheckpointError, match=rf"/{other} is damaged: .* is the best one; --newest .*, of step {step}$"
    ):
        evaluate_run(run)
    assert evaluate_run(run, which="newest")["step"] == step


def test_no_checkpoint_that_can_be_read(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/manifest.json"):
        path.write_text("")
    with pytest.raises(CheckpointError, match=r"is damaged: .*, and there is no other; restore that file"):
        evaluate_run(tmp_path / "run")


def test_a_checkpoint_whose_arrays_are_gone_names_the_other(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    with Checkpoints(tmp_path / "run" / "checkpoints", best="loss") as checkpoints:
        best, latest = checkpoints.best(), checkpoints.latest()
    which, step = ("newest", latest) if best != latest else ("best", best)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step) / "state")
    (tmp_path / "run" / "checkpoints" / str(step) / "state").mkdir()
    told = rf"/{step} is damaged: .*" + (rf"; leave out --newest .* step {best}$" if best != latest else "")
    with pytest.raises(CheckpointError, match=told):
        evaluate_run(tmp_path / "run", which=which)
