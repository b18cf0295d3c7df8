"""`jaxprop eval`: which folder is meant, and what is printed."""

import json
from pathlib import Path

import pytest

from jaxprop.cli.eval import run_folder
from jaxprop.errors import ConfigError, UsageError
from jaxprop.tools import eval as evaluation

FIGURES = {
    "step": 9,
    "metrics": {"accuracy": 0.5, "loss": 1.25},
    "reference": {"majority_accuracy": 0.1},
    "split": "test",
}


@pytest.mark.parametrize(
    ("named", "run", "folder"),
    [
        ("runs/a", None, "runs/a"),
        ("digits", None, "runs/digits"),
        ("mine.yaml", None, "runs/mine"),
        ("digits", "elsewhere", "elsewhere"),
        ("runs/a/config.yaml", None, "runs/a"),
        ("moved/config.yaml", None, "runs/moved"),
        ("runs/nowhere", None, "runs/nowhere"),
        ("a", None, "runs/a"),
    ],
)
def test_the_folder_that_is_meant(package, named, run, folder):
    for path in ("runs/a/checkpoints", "moved"):
        Path(path).mkdir(parents=True)
    for path in ("mine.yaml", "runs/a/config.yaml", "moved/config.yaml"):
        Path(path).write_text((package / "digits.yaml").read_text())
    assert run_folder(named, run and Path(run)) == Path(folder)


def test_a_run_goes_before_a_folder_of_its_name(package):
    for path in ("runs/a", "a"):  # such as the data that it was trained on
        Path(path).mkdir(parents=True)
    Path("runs/a/config.yaml").touch()
    assert run_folder("a", None) == Path("runs/a")


def test_a_folder_that_cannot_be_meant(package):
    with pytest.raises(ConfigError, match="digit: no such config; did you mean 'digits'"):
        run_folder("digit", None)
    with pytest.raises(ConfigError, match="digit: no such config; did you mean 'digits'"):
        run_folder("digit", Path("x"))
    with pytest.raises(UsageError, match="and --run x are two folders; give one of them"):
        run_folder(".", Path("x"))


def test_the_figures_as_json_and_as_a_table(jaxprop, monkeypatch):
    calls = []

    def evaluate_run(*arguments, **options):
        calls.append((arguments, options))
        return FIGURES

    monkeypatch.setattr(evaluation, "evaluate_run", evaluate_run)
    ran = jaxprop("eval", "digits", "--json")
    where = str(Path("runs/digits").absolute())
    assert (ran.code, json.loads(ran.out), ran.err) == (0, {"command": "eval", "run": where, **FIGURES}, "")
    assert jaxprop("eval", "digits", "-q").out == "step 9  loss 1.25  accuracy 0.5  runs/digits\n"
    ran = jaxprop("eval", "run.eval_batches=1", "digits", "--best", "--run", "x")
    assert [line.split() for line in ran.out.splitlines() if "─" not in line] == [
        ["result", "reference"],
        ["step", "9"],
        ["split", "test"],
        ["loss", "1.25"],
        ["accuracy", "0.5", "majority", "accuracy", "0.1"],
        ["run", "folder:", "x"],
    ]
    assert calls == [
        *[((Path("runs/digits"), ()), {"which": None})] * 2,
        ((Path("x"), ("run.eval_batches=1",)), {"which": "best"}),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["digits"], 2, "error: runs/digits: there is no such run folder; 'jaxprop train CONFIG' makes one\n"),
        (["runs/x"], 2, "error: runs/x: there is no such run folder; 'jaxprop train CONFIG' makes one\n"),
        (
            ["."],
            2,
            "error: . is not a run's folder: it has no config.yaml, metrics.jsonl or lr_find.json (",
        ),
        (["new"], 1, "error: new has no checkpoint yet; "),
    ],
)
def test_no_figures(jaxprop, arguments, code, sentence):
    Path("new").mkdir()
    Path("new/config.yaml").touch()
    ran = jaxprop("eval", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith(sentence)


def test_figures_that_are_not_finite_are_null_in_json(jaxprop, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate_run", lambda *a, **k: {"step": 1, "metrics": {"loss": float("nan")}})
    Path("run").mkdir()
    assert json.loads(jaxprop("eval", "run", "--json").out)["metrics"] == {"loss": None}
