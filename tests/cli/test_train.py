"""`jaxprop train`: what it prints where, its exit codes, and what each bad input is told."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from jaxprop.errors import MissingExtraError
from jaxprop.run import train as runner
from jaxprop.run.lock import hold
from tests.report.runs import make_run
from tests.run.sweeps import make_sweep

CONFIG = """\
task: {name: classify}
data: {name: arrays, train: train.npz, test: test.npz, batch_size: 4}
model: {name: mlp, hidden: [4]}
optimizer: {name: sgd, lr: 0.1}
parallel: {devices: 1}
run: {epochs: 2, log_every: 1}
"""


def save(path, inputs=None, labels=None):
    inputs = np.arange(24, dtype=np.float32).reshape(8, 3) if inputs is None else inputs
    np.savez(path, inputs=inputs, labels=np.arange(8) % 2 if labels is None else labels)


@pytest.fixture
def small(package, tmp_path):
    """A config and its data in the working directory."""
    for split in ("train", "test"):
        save(tmp_path / "work" / f"{split}.npz")
    (tmp_path / "work" / "small.yaml").write_text(CONFIG)
    return tmp_path / "work"


def contents(folder):
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}


# -- what it prints -------------------------------------------------------------------------------

DIGITS = """\
task: {name: classify}
data: {name: digits, batch_size: 64}
model: {name: mlp, hidden: [32, 32], activation: relu}
optimizer: {name: sgd, lr: 0.1}
parallel: {devices: 1}
run: {steps: 60, eval_every: 60, log_every: 30}
"""


@pytest.mark.parametrize("quietly", [False, True], ids=["table", "json"])
def test_a_dead_network_is_the_first_thing_to_be_told(jaxprop, small, quietly):
    (small / "digits.yaml").write_text(DIGITS)
    ran = jaxprop("train", "digits.yaml", "optimizer.lr=20", *(["--json"] if quietly else []))
    summary = json.loads((small / "runs" / "digits" / "summary.json").read_text())
    assert (ran.code, summary["status"]) == (0, "completed")
    assert re.fullmatch(r"dead since step \d+: the gradient of \d of 3 layers is exactly zero", summary["outcome"])
    headline = f"D{summary['outcome'][1:]}; the run completed all the same."
    assert ran.err.splitlines()[-1] == headline  # nothing else is written at the end but the results, on stdout
    assert jaxprop("report", "runs/digits", "--no-html").out.splitlines()[0] == f"digits: {headline}"
    assert headline in jaxprop("train", "digits.yaml", "optimizer.lr=20").err  # of a run that has ended already, too


def test_of_a_network_that_has_learned_nothing_is_said(jaxprop, small):
    (small / "digits.yaml").write_text(DIGITS)
    ran = jaxprop("train", "digits.yaml")
    assert json.loads((small / "runs" / "digits" / "summary.json").read_text())["outcome"] is None
    assert "the run completed" not in ran.err + ran.out
    assert re.match(r"step 60/60  eval ", ran.err.splitlines()[-1])
    assert not re.search("dead|no better", jaxprop("report", "runs/digits", "--no-html").out, re.I)


def test_a_run_no_better_than_always_the_same_answer_is_told(jaxprop, small):
    (small / "digits.yaml").write_text(DIGITS)
    ran = jaxprop("train", "digits.yaml", "optimizer.lr=1e-9", "health.watch=false")
    assert ran.err.splitlines()[-1].startswith("No better than the majority predictor: accuracy 0.")
    assert jaxprop("report", "runs/digits", "--no-html").out.startswith("digits: No better than the majority predictor")


def test_a_run_its_repetition_and_its_own_config(jaxprop, small, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    ran = jaxprop("train", "run.seed=3", "small.yaml")
    folder = small / "runs" / "small"
    assert ran.code == 0
    assert re.search(r"accuracy +[\d.]+", ran.out)
    assert ran.out.endswith("run folder: runs/small\n")
    # plain lines, no bar and no colour, since this is no terminal
    assert re.search(r"^compiled in \d+\.\d s$", ran.err, re.M)
    assert re.search(r"^step 4/4  train  loss [\d.]+  accuracy [\d.]+  grad [\d.]+  lr 0\.1", ran.err, re.M)
    assert re.search(r"^step 4/4  eval  loss [\d.]+  accuracy [\d.]+$", ran.err, re.M)
    assert "\x1b" not in ran.out + ran.err
    assert "run:" in (folder / "config.yaml").read_text()
    before = contents(folder)

    again = jaxprop("train", "runs/small/config.yaml", "--json")
    assert again.code == 0
    named = {"command": "train", "run": str(folder.absolute())}
    assert json.loads(again.out) == named | json.loads((folder / "summary.json").read_text())
    assert "all 4 steps are done already" in again.err
    assert contents(folder) == before

    moved = jaxprop("train", "runs/small/config.yaml", "--run", "elsewhere", "--json")
    assert moved.code == 0
    assert json.loads(moved.out)["metrics"] == json.loads(again.out)["metrics"]
    assert (small / "elsewhere" / "config.yaml").read_text() == (folder / "config.yaml").read_text()


def test_diverged_exits_3(jaxprop, small):
    save(small / "train.npz", inputs=np.full((8, 3), 3e38, np.float32))
    ran = jaxprop("train", "small.yaml", "health.max_skips=2", "--json")
    assert ran.code == 3
    assert json.loads(ran.out)["status"] == "diverged"
    assert ran.err.splitlines()[-1].startswith("diverged: loss or gradients were not finite for 2 steps in a row")


@pytest.mark.parametrize(
    ("words", "lr", "folder", "fresh"),
    [
        ("small.yaml", 0.1, "runs/small", False),
        ("small.yaml optimizer.lr=2 --run x --fresh", 2.0, "x", True),
        ("--fresh optimizer.lr=2 small.yaml", 2.0, "runs/small", True),
    ],
)
def test_options(jaxprop, small, monkeypatch, words, lr, folder, fresh):
    calls = []

    def train(config, folder, *, fresh, brief):
        calls.append((config.optimizer.lr, folder, fresh, brief))
        return runner.Outcome({"status": "completed"}, 75)

    monkeypatch.setattr(runner, "train", train)
    assert jaxprop("train", *words.split()).code == 75
    assert calls == [(lr, Path(folder), fresh, False)]


# -- bad input ------------------------------------------------------------------------------------


def write(name, text):
    def make(folder):
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return make


def arrays(split, **values):
    return lambda folder: save(folder / f"{split}.npz", **values)


NAN = np.full((8, 3), np.nan, np.float32)
# what is bad: how it is made so, the words after `train`, the exit code, what is said
BAD = {
    "unknown key": (None, ["small.yaml", "optimizer.learning_rate=1"], 2, "learning_rate"),
    "unknown key in the file": (
        write("bad.yaml", CONFIG + "optimiser: {name: sgd}\n"),
        ["bad.yaml"], 2, "bad.yaml:7: optimiser: .*did you mean 'optimizer'",
    ),
    "wrong type": (None, ["small.yaml", "run.epochs=many"], 2, r"run\.epochs.*many"),
    "missing file": (None, ["smal.yaml"], 2, "smal.yaml.*did you mean 'small.yaml'"),
    "empty file": (write("empty.yaml", ""), ["empty.yaml"], 2, "empty.yaml.*empty"),
    "a YAML tag": (write("tag.yaml", CONFIG + "x: !!python/name:os.system\n"), ["tag.yaml"], 2, "tag.yaml:7.*tag"),
    "a directory": (lambda folder: (folder / "dir").mkdir(), ["./dir"], 2, "dir.*directory"),
    "non-UTF-8": (write("latin.yaml", b"task: {name: \xe9}\n"), ["latin.yaml"], 2, "latin.yaml.*UTF-8"),
    "a cyclic base": (write("c.yaml", "base: c.yaml\n" + CONFIG), ["c.yaml"], 2, "c.yaml:1: base: .*circle"),
    "zero size": (None, ["small.yaml", "data.batch_size=0"], 2, r"data\.batch_size.*0"),
    "negative size": (None, ["small.yaml", "model.hidden=[-4]"], 2, r"model\.hidden.*-4"),
    "batch larger than the data": (
        None, ["small.yaml", "data.batch_size=9", "--fresh"], 2, "9 is more than the 8 .*; use at most 8",
    ),
    "more devices than there are": (
        arrays("train", inputs=np.ones((99, 3), np.float32), labels=np.arange(99) % 2),
        ["small.yaml", "parallel.devices=99", "data.batch_size=99", "--fresh"], 2, "between 1 and 8",
    ),
    "labels outside the classes": (
        arrays("test", labels=np.full(8, 7)), ["small.yaml"], 1, r"test\.npz:labels\[0\] is 7.*data\.classes: 8",
    ),
    "NaN in the data": (arrays("train", inputs=NAN), ["small.yaml"], 1, r"train\.npz:inputs\[0, 0\] is nan.*repair"),
    "lengths that disagree": (
        arrays("train", labels=np.arange(5) % 2), ["small.yaml"], 1, "8 examples but .* has 5; the first axes",
    ),
    "shapes that disagree": (
        arrays("test", inputs=np.zeros((8, 2), np.float32)), ["small.yaml"], 1, "train and test must agree",
    ),
    "shapes the model has no use for": (None, ["small.yaml", "model={name: cnn}", "--fresh"], 1, "expected"),
    "missing data": (lambda folder: (folder / "train.npz").unlink(), ["small.yaml"], 1, "train.npz: no such file"),
    "an unwritable run folder": (write("file", "mine"), ["small.yaml", "--run", "file"], 1, "another with --run"),
    "changed mathematics": (
        None, ["small.yaml", "optimizer.lr=0.2", "--run", "held"], 2, r"optimizer\.lr: 0\.1 -> 0\.2.*--fresh",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a completed run, made once."""
    from jaxprop.config.load import load

    folder = tmp_path_factory.mktemp("trained")
    for split in ("train", "test"):
        save(folder / f"{split}.npz")
    (folder / "small.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        runner.train(load("small.yaml").config, folder / "held", quiet=True)
    return folder / "held"


@pytest.fixture
def held(small, trained):
    """A run beside the config, which no bad input may touch."""
    import shutil

    shutil.copytree(trained, small / "held")
    return small


@pytest.mark.parametrize("verbose", [False, True], ids=["", "-v"])
@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_one_sentence_with_the_fix(jaxprop, held, bad, verbose):
    make, words, code, said = BAD[bad]
    if make is not None:
        make(held)
    before = contents(held)
    if "--run" not in words:
        words = [*words, "--run", "held"]
    ran = jaxprop("train", *words, *(["-v"] if verbose else []))
    assert ran.code == code, ran.err
    assert ran.out == ""
    error = ran.err[ran.err.index("error: ") :]
    assert re.search(said, error, re.S), error
    assert ("Traceback" in ran.err) == verbose
    assert verbose or ran.err == error
    assert "run again with -v" not in ran.err  # every one of these is foreseen
    assert contents(held) == before


def test_a_held_run_folder(jaxprop, held):
    before = contents(held)
    with hold(held / "held"):
        ran = jaxprop("train", "small.yaml", "--run", "held", "--fresh")
    assert ran.code == 1
    assert re.fullmatch(r"error: the run folder held is in use by process \d+ on .*\n", ran.err)
    assert contents(held) == before


def test_a_missing_extra(jaxprop, held, monkeypatch):
    def compose(config, sources):
        raise MissingExtraError("equinox", "from_equinox")

    monkeypatch.setattr(runner, "compose", compose)
    ran = jaxprop("train", "small.yaml")
    assert ran.code == 1
    assert ran.err == (
        "error: from_equinox needs the package 'equinox', which is not installed; "
        "install it with: pip install equinox\n"
    )


def test_what_else_is_known_of_an_error_is_told(jaxprop, held, monkeypatch):
    """A save that fails while another error is on its way out is a note of that one."""

    def compose(config, sources):
        error = RuntimeError("first")
        error.add_note("the checkpoint of step 3 could not be written")
        raise error

    monkeypatch.setattr(runner, "compose", compose)
    ran = jaxprop("train", "small.yaml")
    assert ran.code == 1
    assert ran.err == (
        "error: RuntimeError: first (run again with -v for the traceback)\n"
        "  the checkpoint of step 3 could not be written\n"
    )


def test_a_full_disk_is_told(jaxprop, small, monkeypatch, caplog):
    from jaxprop.checkpoint import Checkpoints, failures

    def full(self, *args, **kwargs):
        with failures.reporting(2, self.folder):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "save", full)
    with caplog.at_level(logging.ERROR):
        ran = jaxprop("train", "small.yaml")
    assert ran.code == 1
    assert "error: the checkpoint of step 2 could not be written" in ran.err
    assert "No space left on device" in ran.err
    assert json.loads((small / "runs" / "small" / "summary.json").read_text())["status"] == "failed"


# -- quiet, and runs by name ----------------------------------------------------------------------


def test_quiet_leaves_one_line_of_results(jaxprop, small):
    ran = jaxprop("train", "small.yaml", "-q")
    assert ran.code == 0
    assert not re.search(r"compiled|step|advice", ran.err)  # that it has learned nothing may be told
    assert re.fullmatch(r"completed: step 4  loss \S+  accuracy \S+  [\d.]+ \w+  runs/small\n", ran.out)
    ran = jaxprop("train", "small.yaml", "--quiet", "--json")
    assert json.loads(ran.out)["command"] == "train"


def test_quiet_still_tells_what_to_act_on(jaxprop, small):
    (small / "digits.yaml").write_text(DIGITS)
    ran = jaxprop("train", "digits.yaml", "optimizer.lr=20", "-q")
    assert re.search(r"^step \d+  act: ", ran.err, re.MULTILINE)
    assert "the run completed all the same." in ran.err.splitlines()[-1]
    assert not re.search(r"compiled in|  train  |  eval  |advice: ", ran.err)
    assert ran.out.count("\n") == 1


def test_a_run_is_trained_on_by_its_name_or_its_folder(jaxprop, small):
    assert jaxprop("train", "small.yaml", "--run", "elsewhere/wine").code == 0
    (small / "elsewhere").rename(small / "runs")
    for named in ("wine", "runs/wine"):
        ran = jaxprop("train", named, "--json")
        assert (ran.code, json.loads(ran.out)["run"]) == (0, str(small / "runs" / "wine"))
        assert ran.err.startswith("all 4 steps are done already; raise run.steps or run.epochs for more, or start")
    assert jaxprop("train", "wine", "run.epochs=3").code == 0
    assert json.loads((small / "runs" / "wine" / "summary.json").read_text())["step"] == 6
    assert sorted(path.name for path in (small / "runs").iterdir()) == ["wine"]


def test_a_name_of_both_a_run_and_a_file_is_asked_about(jaxprop, small):
    assert jaxprop("train", "small.yaml", "-q").code == 0
    ran = jaxprop("train", "small")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "error: small is both the run in runs/small and the file small.yaml; write the one that is meant: "
        "jaxprop train runs/small, or jaxprop train small.yaml\n"
    )


# -- the best setting of a sweep --------------------------------------------------------------------


def swept(jaxprop, *words):
    ran = jaxprop("sweep", "small.yaml", "optimizer.lr=[1e-6, 0.05]", *words)
    assert ran.code == 0, ran.err
    return json.loads(Path("runs/small-sweep/results.json").read_text())


def test_the_best_setting_of_a_sweep_is_trained_as_its_configuration(jaxprop, small):
    found = swept(jaxprop, "--seeds", "2", "--lanes", "2", "model.activation=tanh", "--metric", "loss")
    best = found["settings"][0]["setting"]["optimizer.lr"]
    assert "every: 1," in next(small.glob("runs/small-sweep/*,seed=0/config.yaml")).read_text()  # lanes need it
    (small / "small.yaml").unlink()  # what was ranked is what is trained, whatever has become of the file
    ran = jaxprop("train", "--from", "small-sweep", "run.epochs=3", "--quiet")
    assert (ran.code, ran.out.count("runs/small")) == (0, 1), ran.err
    stored = (small / "runs" / "small" / "config.yaml").read_text()
    for part in (f"lr: {best}", "activation: tanh", "epochs: 3", "seed: 0", "every: auto, rare_every: auto"):
        assert part in stored
    (small / "small.yaml").write_text(CONFIG)
    words = (f"optimizer.lr={best}", "model.activation=tanh", "run.epochs=3")
    assert jaxprop("train", "small.yaml", *words, "--run", "same").code == 0
    assert (small / "same" / "config.yaml").read_text() == stored
    other = jaxprop("train", "run.seed=7", "--from", "runs/small-sweep", "optimizer.lr=0.3", "--run", "other")
    assert other.code == 0
    assert "seed: 7" in (small / "other" / "config.yaml").read_text()
    assert "lr: 0.3" in (small / "other" / "config.yaml").read_text()


def test_sweeps_that_have_no_best_setting(jaxprop, small):
    make_run("runs/wine")
    lost = make_sweep("runs/lost", [({"optimizer.lr": 1}, 0, "the loss was not finite")])
    make_sweep("runs/moved", [({"optimizer.lr": 1}, 0, 0.5)])
    make_sweep("runs/evil", [({"optimizer.lr": 1}, 0, 0.5)], name="../../evil")
    make_sweep("runs/begun", [({"optimizer.lr": 1}, 0, 0.5)])
    (small / "runs" / "begun" / "results.json").unlink()
    for words, code, sentence in [
        (("--from", "nowhere"), 2, "nowhere: there is no such folder of a sweep"),
        (("--from", "runs"), 2, "runs: is not a sweep's folder: it has no sweep.json"),
        (("--from", "runs/wine"), 2, "runs/wine: is a run, not a sweep"),
        (("--from", "lost"), 1, "runs/lost: no run of the sweep has ended well: the loss was not finite"),
        (("--from", "begun"), 1, "runs/begun has no results.json: none of its runs has ended"),
        (("--from", "moved"), 1, "runs/moved/lr=1,seed=0 has no config.yaml; the same 'jaxprop sweep' command trains"),
        (("--from", "evil"), 1, "runs/evil does not say what its best run is"),
        (("small.yaml", "--from", "lost"), 2, "--from takes its own config, and 'small.yaml' names another"),
        (("--from", "lost", "run.steps=1", "small.yaml"), 2, "'small.yaml' names another; leave one of the two out"),
        (("run.steps=1",), 2, "no config is named, only overrides"),
    ]:
        ran = jaxprop("train", *words)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (code, "", 1), words
        assert sentence in ran.err
    assert lost.is_dir()


def test_code_that_a_sweep_has_stored_needs_permission_as_that_of_a_run(jaxprop, small):
    sweep = make_sweep("runs/s", [({"optimizer.lr": 1}, 0, 0.5)])
    run = sweep / "lr=1,seed=0"
    run.mkdir()
    (small / "net.py").write_text("raise SystemExit('it has run')\n")
    (run / "config.yaml").write_text(CONFIG.replace("{name: mlp, hidden: [4]}", "{class: 'net.py:Net'}"))
    ran = jaxprop("train", "--from", "s")
    assert ran.code == 2
    assert "--code" in ran.err
    assert "it has run" not in ran.err
