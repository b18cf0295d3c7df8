"""A run with code of the user's own: what it stores, that it goes on, and that nobody else's code is run."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxprop.checkpoint import stored_config
from jaxprop.cli import main
from jaxprop.config.load import load
from jaxprop.run import compose
from jaxprop.run.own_code import NAME

MINE = """\
import os
os.environ["MINE"] = os.environ.get("MINE", "") + "x"
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx


class Net(nnx.Module):
    def __init__(self, width: int = 4, poison: bool = False, *, input_shape, classes, rngs):
        self.hidden = nnx.Linear(input_shape[0], width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)
        self.poison = poison

    def __call__(self, inputs):
        x = self.hidden(inputs)
        return self.head(jnp.log(x - 1e6) if self.poison else x)


def focal(outputs, batch, gamma: float = 2.0):
    p = jnp.exp(-optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"]))
    return -((1 - p) ** gamma) * jnp.log(p)


def second(outputs, batch, k: int = 2):
    found = (jax.lax.top_k(outputs, k)[1] == batch["labels"][:, None]).any(-1)
    return jnp.where(found, batch["weight"], 0).sum(), batch["weight"].sum()


def data(n: int = 32):
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    arrays = {"inputs": x, "labels": (x.sum(1) > 0).astype(np.int32) + (x[:, 0] > 1)}
    return {"train": arrays, "test": arrays}


def make(learning_rate, momentum: float = 0.9):
    return optax.sgd(learning_rate, momentum)


def images(n: int = 16):
    arrays = data(n)["train"]
    arrays = {"image": arrays["inputs"], "scale": np.ones(n), "labels": arrays["labels"]}
    return {"train": arrays, "validation": arrays}


class OfBatch(nnx.Module):
    def __init__(self, spec, classes, rngs):
        self.head = nnx.Linear(spec.batch["image"].shape[0], classes, rngs=rngs)

    def __call__(self, batch):
        return self.head(batch["image"] * batch["scale"][:, None])


def plain(classes):
    init = lambda key, batch: {"w": jax.random.normal(key, (3, classes))}

    def loss_fn(params, batch, key):
        losses = optax.softmax_cross_entropy_with_integer_labels(batch["inputs"] @ params["w"], batch["labels"])
        weight = batch["weight"]
        return (weight * losses).sum() / weight.sum(), {"size": weight.sum(), "weight": weight.sum()}

    return init, loss_fn
"""
YAML = """\
task:
  name: classify
  loss: {class: mine.py:focal, gamma: 1}
  metrics: {second: {class: mine.py:second}}
data: {class: mine.py:data, n: 40, batch_size: 8}
model: {class: mine.py:Net, width: 5}
optimizer: {class: mine.py:make, lr: 0.1, grad_clip: {norm: 1.0}, schedule: {name: linear, steps: 100}}
parallel: {devices: 1}
run: {steps: 6, eval_every: 3}
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """How often the file was run, in a process whose modules and path stay as they are."""
    monkeypatch.setenv("MINE", "")
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("jaxprop_code_"):
            del sys.modules[name]


def ran():
    import os

    return os.environ["MINE"]


def forget():
    """As a new process, which has not loaded the file."""
    import os

    os.environ["MINE"] = ""
    for name in [name for name in sys.modules if name.startswith("jaxprop_code_")]:
        del sys.modules[name]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the YAML and the code; the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(YAML)
    Path("mine.py").write_text(MINE)
    return tmp_path


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A project whose run a command has trained once; tests use copies, and its own path is the one that is stored."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MINE", "")
        Path("mine.yaml").write_text(YAML)
        Path("mine.py").write_text(MINE)
        assert main(["train", "mine.yaml"]) == 0
    forget()
    return folder


@pytest.fixture
def trained(original, tmp_path, monkeypatch):
    """The project and its run, moved to another folder."""
    shutil.copytree(original, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    return Path("runs/mine")


@pytest.fixture
def sent(original, tmp_path, monkeypatch):
    """The run as someone else has it: in another folder, which holds neither the YAML nor the code."""
    shutil.copytree(original / "runs" / "mine", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return Path("run")


def test_a_run_trains_stores_its_code_and_is_evaluated(trained, original, capsys):
    held = json.loads((trained / NAME).read_text())
    mine = held[str(original / "mine.py")]
    assert mine["text"] == MINE
    assert set(mine["used_for"]) == {"model", "data", "optimizer", "task.loss", "task.metrics.second"}
    stored = stored_config(trained / "checkpoints")
    assert stored["model"]["class_sha256"] == mine["sha256"]
    assert f"class_sha256: {mine['sha256']}" in (trained / "config.yaml").read_text()
    summary = json.loads((trained / "summary.json").read_text())
    assert {"loss", "accuracy", "second"} <= summary["metrics"].keys()
    assert main(["eval", "mine.yaml", "--json"]) == 0
    assert {"loss", "accuracy", "second"} <= json.loads(capsys.readouterr().out)["metrics"].keys()
    assert ran() == "x"


def test_the_parts_are_put_together(project):
    experiment = compose.compose(load("mine.yaml").config)
    assert experiment.sources["train"].info["classes"] == 3
    assert float(experiment.optimizer.schedule(50)) == pytest.approx(0.05)
    assert experiment.optimizer.clip == 1.0
    state = experiment.init(0)
    assert state.params["hidden"]["kernel"].shape == (3, 5)
    before = jax.tree.map(np.asarray, state.params)
    state, m = experiment.step(state, next(experiment.stream), "full")
    assert np.isfinite(float(m.loss))
    assert not np.allclose(before["head"]["kernel"], state.params["head"]["kernel"])


def test_it_goes_on_after_a_change_of_the_file_which_is_told(trained, capsys):
    Path("mine.py").write_text(MINE + "# more\n")
    assert main(["train", "mine.yaml", "run.steps=6", "optimizer.schedule.steps=100"]) == 0
    assert main(["train", "mine.yaml", "run.steps=8", "--run", "runs/other"]) == 0
    shutil.rmtree("runs/other/checkpoints/8")
    Path("runs/other/summary.json").unlink()
    Path("mine.py").write_text(MINE + "# still more\n")
    capsys.readouterr()
    assert main(["train", "mine.yaml", "run.steps=8", "--run", "runs/other"]) == 0
    err = capsys.readouterr().err
    assert err.count("mine.py (model.class) has changed since the run stored its digest") == 1
    assert "resumed from step 6" in err
    # Also where nothing is left to train.
    Path("mine.py").write_text(MINE + "# and more\n")
    assert main(["train", "mine.yaml", "run.steps=8", "--run", "runs/other", "-q"]) == 0
    err = capsys.readouterr().err
    assert err.count("mine.py (model.class) has changed since the run stored its digest") == 1
    assert "all 8 steps are done already" in err


def test_other_arguments_are_another_run(trained, capsys):
    assert main(["train", "mine.yaml", "model.width=6"]) == 2
    assert "model.width: 5 -> 6" in capsys.readouterr().err


COMMANDS = [
    ["eval", "run"],
    ["eval", "run/config.yaml"],
    ["train", "run/config.yaml"],
    ["train", "run/config.yaml", "--run", "new"],
    ["info", "run/config.yaml"],
    ["explain", "run/config.yaml"],
    ["lr-find", "run/config.yaml"],
    ["gradcheck", "run/config.yaml"],
    ["bench", "train", "run/config.yaml", "--seconds", "0.1"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("beside", [True, False], ids=["files there", "no files there"])
def test_nothing_of_a_run_that_someone_sends_is_run(sent, original, command, beside, capsys, request):
    if beside:  # in the folder of the run, in the working directory, and where the run names it
        for folder in (Path("run"), Path()):
            (folder / "mine.py").write_text(MINE)
    else:
        (original / "mine.py").rename(original / "away.py")
        request.addfinalizer(lambda: (original / "away.py").rename(original / "mine.py"))
    assert main(command) == 2
    assert ran() == ""
    told = capsys.readouterr().err.strip().splitlines()
    assert "repeat it: --code mine.py" in told[-1]
    assert not [name for name in sys.modules if name.startswith("jaxprop_code_")]


@pytest.mark.parametrize("command", [["report", "run", "--no-html"], ["validate", "run/config.yaml"]], ids=" ".join)
def test_what_needs_no_code_runs_none(sent, command, capsys):
    assert main(command) == 0, capsys.readouterr().err
    assert ran() == ""


def test_code_that_is_repeated_is_run_and_a_difference_is_told(sent, capsys):
    Path("mine.py").write_text(MINE + "# another one\n")
    assert main(["eval", "run", "--code", "mine.py", "--json"]) == 0
    out, err = capsys.readouterr()
    assert ran() == "x"
    assert "second" in json.loads(out)["metrics"]
    assert "has changed since the run stored its digest" in err
    assert main(["eval", "run", "--code", "other.py"]) == 2
    assert main(["train", "run/config.yaml", "--code", "other.py"]) == 2
    assert "--code other.py: run/config.yaml does not name it (it names mine.py)" in capsys.readouterr().err
    assert main(["train", "run/config.yaml", "--code", "mine.py", "--run", "again"]) == 0


def test_a_failing_step_is_replayed_with_the_code_that_is_repeated(project, capsys):
    assert main(["train", "mine.yaml", "model.poison=true", "health.max_skips=2", "run.steps=4"]) == 3
    forget()
    capsys.readouterr()
    assert main(["replay", "runs/mine"]) == 2
    assert "repeat it: --code mine.py" in capsys.readouterr().err
    assert ran() == ""
    assert main(["replay", "runs/mine", "--code", "mine.py"]) == 0
    assert "mine.py:18" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ["info", "mine.yaml"],
        ["explain", "mine.yaml"],
        ["gradcheck", "mine.yaml", "--entries", "1"],
        ["lr-find", "mine.yaml"],
        ["validate", "mine.yaml"],
        ["bench", "train", "mine.yaml", "--seconds", "0.2", "--no-roofline"],
    ],
    ids=" ".join,
)
def test_the_other_commands_work_on_it(project, command, capsys):
    assert main(command) == 0, capsys.readouterr().err
    assert ran() == "x"


@pytest.mark.parametrize("policy", ["float32", "bfloat16"])
def test_a_batch_with_keys_of_ones_own(project, policy, capsys):
    text = YAML.replace("Net, width: 5", "OfBatch").replace("data, n: 40", "images")
    Path("mine.yaml").write_text(text)
    assert main(["train", "mine.yaml", f"precision.policy={policy}"]) == 0, capsys.readouterr().err
    assert main(["eval", "mine.yaml"]) == 0
    assert main(["eval", "runs/mine", "--code", "mine.py"]) == 0


def test_a_model_that_is_its_own_loss(project, capsys):
    text = YAML.replace("model: {class: mine.py:Net, width: 5}", "model: {class: mine.py:plain}")
    Path("loss.yaml").write_text(text)
    assert main(["train", "loss.yaml"]) == 2
    assert "task.loss: the model is a loss function, which has no outputs" in capsys.readouterr().err
    Path("loss.yaml").write_text("task: {name: classify}\n" + text[text.index("data:") :])
    assert main(["train", "loss.yaml"]) == 0
    summary = json.loads(Path("runs/loss/summary.json").read_text())
    assert summary["metrics"].keys() == {"loss", "size"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model.class=mine.py:focal"], "model.width: unknown key"),
        (["model.widht=3"], "model.widht: unknown key; did you mean 'width'?"),
        (["model={class: nowhere.py:Net}"], "model.class: there is no file"),
        (
            ["optimizer={class: mine.py:data, lr: null, schedule: {name: constant}}"],
            "optimizer.class: expected mine.py:data to return an",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(project, words, sentence, capsys):
    assert main(["train", "mine.yaml", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("width: 5", "widht: 5", "model.widht: unknown key; did you mean 'width'?"),
        ("n: 40", "m: 40", "data.m: unknown key"),
        ("lr: 0.1,", "lr: 0.1, momentun: 0.5,", "optimizer.momentun: unknown key; did you mean 'momentum'?"),
        ("gamma: 1", "gama: 1", "task.loss.gama: unknown key; did you mean 'gamma'?"),
        ("mine.py:second", "mine.py:second, j: 2", "task.metrics.second.j: unknown key"),
    ],
)
def test_a_mistake_is_told_as_one_where_a_run_is_there_already(trained, old, new, sentence, capsys):
    text = Path("mine.yaml").read_text()
    assert old in text
    Path("mine.yaml").write_text(text.replace(old, new))
    assert main(["train", "mine.yaml"]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "another configuration" not in err


def test_the_traceback_is_shown_on_demand(project, capsys):
    Path("mine.py").write_text("1 / 0\n")
    assert main(["train", "mine.yaml"]) == 2
    assert "ZeroDivisionError on line 1 of mine.py: division by zero" in (err := capsys.readouterr().err)
    assert "Traceback" not in err
    assert main(["-v", "train", "mine.yaml"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_error_of_the_model_names_its_line(project, capsys):
    Path("mine.py").write_text(MINE.replace("x = self.hidden(inputs)", "x = self.hidden(inputs[:, :2])"))
    assert main(["train", "mine.yaml"]) == 1
    assert "on line 17 of mine.py: " in capsys.readouterr().err


def test_a_config_may_start_from_a_run_of_its_own_code(trained, capsys):
    Path("more.yaml").write_text(
        "base: mine.yaml\nrun: {steps: 3, init_from: {from: runs/mine, skip: ['head/.*'], freeze: ['hidden/.*']}}\n"
    )
    assert main(["train", "more.yaml", "--json"]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["step"] == 3


def test_starting_from_a_run_that_someone_sends_runs_nothing_of_it(sent, capsys):
    (Path("run") / "mine.py").write_text(MINE)
    Path("mine.py").write_text(MINE)
    Path("start.yaml").write_text(
        "task: {name: classify}\ndata: {name: digits}\nmodel: {name: mlp, hidden: [4]}\n"
        "optimizer: {name: sgd, lr: 0.1}\nparallel: {devices: 1}\nrun: {steps: 2, init_from: {from: run}}\n"
    )
    assert main(["train", "start.yaml"]) == 2
    assert ran() == ""
    assert "code that a run names may be anyone's" in capsys.readouterr().err
