"""A whole retraining on arrays: promoted, kept aside, refused, killed and gone on with; the champion is never lost."""

import json
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.errors import CheckpointError, DataError, JaxpropError, RunFolderError, UsageError
from jaxprop.run import champions
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from jaxprop.tools.retrain import Request, retrain
from tests.processes import started
from tests.tools.retrain.weeks import first_week, sections, write_week

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the run that becomes a champion, and the week that it was trained on."""
    place = tmp_path_factory.mktemp("retrain")
    first_week(place)
    return place


def request(home, root, week, **changes):
    return Request(**{"run": str(home / "runs" / "model"), "new": str(week), "root": root, **changes})


def test_a_drift_is_learned_and_the_challenger_promoted(home, tmp_path):
    write_week(tmp_path / "week2", shift=2.5)
    said = []
    done = retrain(request(home, tmp_path / "champions", tmp_path / "week2"), quiet=True, tell=said.append)
    assert done.exit_code == 0
    assert done.record["decision"] == "promoted"
    assert done.version == champions.current(tmp_path / "champions", "model")._replace(problem=done.version.problem)
    figures = done.record["figures"]
    assert figures["new"]["champion"] < 0.95 < figures["new"]["challenger"]
    assert figures["new"]["interval"][0] > 0
    assert figures["old"]["interval"][0] > -0.01
    assert figures["new"]["draws"] == 2000
    served = load(done.version.folder)
    assert served.opened.step == done.record["challenger"]["step"]
    assert served.summary["metrics"]["accuracy"] > 0.95
    improved = done.record["examples"]["new"]["improved"]
    assert improved[0]["name"].startswith(str(tmp_path / "week2" / "test.npz["))
    assert improved[0]["champion_loss"] > improved[0]["challenger_loss"]
    sources = served.config.data.sources
    assert [one.train for one in sources] == [str(home / "week1" / "train.npz"), str(tmp_path / "week2" / "train.npz")]
    assert served.config.data.weights == (0.3, 0.7)
    assert "version 1 of the champion model" in said[0]

    # The next week: the old data are those of both weeks, side by side.
    write_week(tmp_path / "week3", seed=3, shift=2.5)
    again = retrain(request(home, tmp_path / "champions", tmp_path / "week3", replay=0.5), quiet=True)
    assert again.record["decision"] == "kept aside"  # there is nothing left to gain
    assert again.record["reason"].startswith("not shown to be better on the new data, accuracy 1 -> 1")
    assert again.record["figures"]["old"]["examples"] == 240
    with pytest.raises(UsageError, match=r"is a version of a champion; write champion:model"):
        retrain(request(home, tmp_path / "champions", tmp_path / "week3", run=str(again.version.folder)), quiet=True)
    config = load(again.version.folder).config
    assert len(config.data.sources) == 3
    assert config.data.weights == (0.25, 0.25, 0.5)
    assert champions.current(tmp_path / "champions", "model").number == 2


def test_a_week_of_wrong_labels_is_kept_aside_and_they_are_named(home, tmp_path):
    wrong = write_week(tmp_path / "week2", wrong=0.3)
    done = retrain(request(home, tmp_path / "champions", tmp_path / "week2"), quiet=True)
    assert done.record["decision"] == "kept aside"
    assert champions.current(tmp_path / "champions", "model").number == 1
    suspects = done.record["suspects"]
    assert abs(suspects["share"] - 0.3) < 0.03
    assert suspects["usual"] < 0.03
    lines = [json.loads(line) for line in (done.version.folder / "suspects.jsonl").read_text().splitlines()]
    planted = int(wrong.sum())
    assert all(wrong[line["index"]] for line in lines[:planted])
    assert lines[0]["name"] == f"{tmp_path / 'week2' / 'train.npz'}[{lines[0]['index']}]"
    assert lines[0]["champion"]["label"] == (lines[0]["given"] - 1) % 3
    ranks = [(line["suspect"], line["loss"]) for line in lines]
    assert ranks == sorted(ranks, reverse=True)


def test_test_examples_among_the_training_examples_are_left_out(home, tmp_path):
    write_week(tmp_path / "week2", shift=1.5)
    held = dict(np.load(tmp_path / "week2" / "train.npz"))
    with np.load(tmp_path / "week2" / "test.npz") as test:
        np.savez(
            tmp_path / "week2" / "train.npz",
            inputs=np.concatenate([held["inputs"], test["inputs"][:50]]),
            labels=np.concatenate([held["labels"], test["labels"][:50]]),
        )
    told = []
    done = retrain(request(home, tmp_path / "champions", tmp_path / "week2"), quiet=True, tell=told.append)
    assert done.record["shared"] == {"new": 50, "old": 0}
    assert done.record["figures"]["new"]["examples"] == 70
    assert any("50 of 120 new test examples are among the new training examples" in line for line in told)


def test_classes_that_the_champion_does_not_know(home, tmp_path):
    write_week(tmp_path / "week2", classes=5)
    asked = request(home, tmp_path / "champions", tmp_path / "week2")
    with pytest.raises(DataError, match=r"the new data have '3', '4', which the champion does not know \(it knows '0'"):
        retrain(asked)
    assert not (tmp_path / "champions").exists()
    done = retrain(asked._replace(new_classes=True), quiet=True)
    assert done.record["decision"] == "promoted"
    assert done.record["new_classes"] == ["3", "4"]
    assert done.record["figures"]["new"]["champion"] == pytest.approx(0.6, abs=0.02)  # it never answers a new class
    assert load(done.version.folder).info["classes"] == 5


def test_a_challenger_of_more_classes_begins_with_the_logits_of_the_champion(home, tmp_path, monkeypatch):
    """Before the first step, what the old classes get is bitwise what they got."""
    from jaxprop.run.compose import compose
    from jaxprop.run.initial import begin
    from jaxprop.tools.retrain import retrain as module

    write_week(tmp_path / "week2", classes=4)
    kept = {}

    def stop(config, _folder, **_):
        kept["config"] = config
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["jaxprop.tools.retrain.retrain"], "train", stop)
    asked = request(home, tmp_path / "champions", tmp_path / "week2", new_classes=True)
    with pytest.raises(KeyboardInterrupt):
        module(asked, quiet=True)
    experiment = compose(kept["config"])
    state, notes = begin(experiment)
    champion = load(champions.current(tmp_path / "champions", "model").folder)
    batch = experiment.sources["test"].take(np.arange(64))
    apply = experiment.task.model.apply
    found = jax.jit(lambda p, e, b: apply(p, e, b, key=None, train=False)[0])(state.params, state.extras, batch)
    model = champion.model
    wanted = jax.jit(lambda p, e, b: model.apply(p, e, b, key=None, train=False)[0])(
        champion.params, champion.extras, batch
    )
    assert found.shape == (64, 4)
    assert np.array_equal(found[:, :3], wanted)
    assert "extended, and the rest drawn: head" in notes


@pytest.mark.timeout(600)
def test_killed_and_gone_on_with_while_a_second_one_is_refused(home, tmp_path):
    """The killed process leaves the champion; meanwhile no other may retrain it; the same command goes on."""
    root = tmp_path / "champions"
    write_week(tmp_path / "week2", shift=2.5)
    steps = ("run.steps=200", "checkpoint.every_steps=20")
    run = str(home / "runs" / "model")
    command = [sys.executable, "-m", "jaxprop", "retrain", run, "--data", str(tmp_path / "week2"), "--root", str(root)]
    saved = root / "model" / "making" / "run" / "checkpoints"
    asked = request(home, root, tmp_path / "week2", overrides=steps)
    with started([*command, *steps, "--quiet"], stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 200
        while not ((root / "model" / "champion.json").exists() and steps_in(saved)):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(RunFolderError, match=f"is in use by process {child.pid}"):
            retrain(asked, quiet=True)
        with pytest.raises(RunFolderError, match=f"is in use by process {child.pid}"):  # before anything is read
            retrain(asked._replace(new=str(tmp_path / "no data")), quiet=True)
    assert child.returncode == -signal.SIGKILL
    assert champions.current(root, "model").number == 1
    assert max(steps_in(saved)) < 200
    said = []
    done = retrain(asked, quiet=True, tell=said.append)
    assert any(line.startswith("going on with the challenger") for line in said)
    assert done.record["decision"] == "promoted"
    assert champions.current(root, "model").number == 2
    assert load(done.version.folder).step == 200


def steps_in(checkpoints):
    return [int(path.parent.name) for path in checkpoints.glob("*/manifest.json") if path.parent.name.isdigit()]


def _without_test(week):
    (week / "test.npz").unlink()


def _of_another_size(week):
    with np.load(week / "train.npz") as held:
        np.savez(week / "train.npz", inputs=held["inputs"][:, :4], labels=held["labels"])


def _empty(week):
    np.savez(week / "train.npz", inputs=np.zeros((0, 6), np.float32), labels=np.zeros(0, np.int64))


def _another_format(week):
    (week / "train.npz").write_text("a,b\n1,2\n")


BAD_WEEKS = {
    "no test examples": (_without_test, "the new data have no test examples, by which .* could be compared; give"),
    "another size": (_of_another_size, r"holds examples of shape \(4,\), but .* of shape \(6,\)"),
    "empty": (_empty, "train.npz:inputs: is empty"),
    "another format": (_another_format, "is a CSV file"),
}


@pytest.mark.parametrize("kind", BAD_WEEKS)
def test_new_data_that_cannot_be_used(home, tmp_path, kind):
    spoil, sentence = BAD_WEEKS[kind]
    write_week(tmp_path / "week2")
    spoil(tmp_path / "week2")
    with pytest.raises(JaxpropError, match=sentence):
        retrain(request(home, tmp_path / "champions", tmp_path / "week2"), quiet=True)
    assert not (tmp_path / "champions").exists()


def test_a_champion_without_test_examples_is_what_is_told_of(home, tmp_path):
    """Even where the new data have none either: only after that could they be of use."""
    section = {"train": str(home / "week1" / "train.npz"), "test": None, "validation": 0.2}
    made = train(build(sections(home / "week1", data=section)), tmp_path / "alone", quiet=True)
    assert made.exit_code == 0
    write_week(tmp_path / "week2")
    (tmp_path / "week2" / "test.npz").unlink()
    asked = request(home, tmp_path / "champions", tmp_path / "week2" / "train.npz", run=str(tmp_path / "alone"))
    with pytest.raises(DataError, match=r"the data of .*alone have no test examples, .* train it with examples that"):
        retrain(asked, quiet=True)
    assert not (tmp_path / "champions").exists()


def test_a_run_that_was_trained_again_is_not_taken_for_the_champion_that_it_was(home, tmp_path):
    """Fault: the champion of its name was challenged, without a word."""
    run = shutil.copytree(home / "runs" / "model", tmp_path / "model")
    champions.adopt(tmp_path / "champions", "model", run)
    write_week(tmp_path / "week2", shift=2.5)
    asked = request(home, tmp_path / "champions", tmp_path / "week2", run=str(run))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "seconds": 7}))
    with pytest.raises(
        UsageError, match=r"trained again since it became version 1 .* retrain that one as champion:model"
    ):
        retrain(asked, quiet=True)
    assert champions.current(tmp_path / "champions", "model").number == 1


def test_own_data_that_have_changed_are_told_and_those_that_are_gone_are_named_as_such(home, tmp_path):
    shutil.copytree(home / "week1", tmp_path / "week1")
    made = build(sections(tmp_path / "week1", run={"steps": 4, "eval_every": 4}))
    assert train(made, tmp_path / "model", quiet=True).exit_code == 0
    asked = request(home, tmp_path / "champions", "", run=str(tmp_path / "model"))
    asked = asked._replace(overrides=("run.steps=4", "run.eval_every=4"))
    told = []
    for number in (2, 3, 4):
        write_week(tmp_path / f"week{number}", seed=number, shift=2.5)
    for number in (2, 3):
        done = retrain(asked._replace(new=str(tmp_path / f"week{number}")), quiet=True, tell=told.append)
    assert champions.current(tmp_path / "champions", "model").number > 1  # whose data are a mixture
    assert not [line for line in told if "have changed" in line]
    asked = asked._replace(new=str(tmp_path / "week4"))
    with np.load(tmp_path / "week1" / "test.npz") as held:
        np.savez(tmp_path / "week1" / "test.npz", inputs=held["inputs"][:100], labels=held["labels"][:100])
    done = retrain(asked, quiet=True, tell=told.append)
    assert done.record["figures"]["old"]["examples"] < 360
    assert [line for line in told if line.startswith("the champion's own test examples have changed since")]
    (tmp_path / "week1" / "train.npz").unlink()
    with pytest.raises(DataError, match=r"the champion's own data, which .* cannot be opened: .*week1/train\.npz"):
        retrain(asked, quiet=True)


def test_a_full_disk_leaves_the_champion_and_says_so(home, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["jaxprop.tools.retrain.retrain"], "train", full)
    write_week(tmp_path / "week2")
    with pytest.raises(
        RunFolderError, match=r"the challenger in .*model cannot be written \(No space left on device\), and"
    ):
        retrain(request(home, tmp_path / "champions", tmp_path / "week2"), quiet=True)
    assert champions.current(tmp_path / "champions", "model").number == 1


BAD_REQUESTS = {
    "replay of all": ({"replay": 1.0}, UsageError, "--replay: expected a share of at least 0 and below 1, got 1"),
    "negative replay": ({"replay": -0.1}, UsageError, "--replay: expected a share"),
    "not a number": ({"tolerance": float("nan")}, UsageError, "--tolerance: expected a number of at least 0, got nan"),
    "no such data": ({"new": "nowhere"}, UsageError, "--data nowhere: there is no such file or folder"),
    "no such run": ({"run": "nowhere"}, UsageError, "nowhere: there is no such run folder"),
    "no such champion": ({"run": "champion:nobody"}, UsageError, "nobody"),
    "its own data": ({"new": "week1"}, DataError, "the new data are the champion's own .*week1/train.npz.*the same"),
    "an override of the data": ({"overrides": ("data.train=a.npz",)}, UsageError, "data.train is what retraining sets"),
}


@pytest.mark.parametrize("kind", BAD_REQUESTS)
def test_requests_that_cannot_be_met(home, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(home)
    changes, error, sentence = BAD_REQUESTS[kind]
    write_week(tmp_path / "week2")
    with pytest.raises(error, match=sentence):
        retrain(request(home, tmp_path / "champions", tmp_path / "week2", **changes), quiet=True)
    assert champions.names(tmp_path / "champions") in ([], ["model"])


def test_a_damaged_champion_is_told_and_left_as_it_is(home, tmp_path):
    root = tmp_path / "champions"
    version = champions.adopt(root, "model", home / "runs" / "model")
    (version.folder / "config.yaml").write_text("changed")
    write_week(tmp_path / "week2")
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        retrain(request(home, root, tmp_path / "week2", run="champion:model"), quiet=True)
    assert not (root / "model" / "making").exists()


def test_a_run_that_has_not_ended_is_no_champion(home, tmp_path):
    run = shutil.copytree(home / "runs" / "model", tmp_path / "model")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "status": "diverged"}))
    write_week(tmp_path / "week2")
    with pytest.raises(UsageError, match="is not a completed run"):
        retrain(request(home, tmp_path / "champions", tmp_path / "week2", run=str(run)), quiet=True)
