"""`scripts/peers.py`: every library trains the same, and what does not run costs its own row alone."""

import importlib
import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(scope="module", autouse=True)
def on_path():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))
    for name in [name for name in sys.modules if name == "peers" or name.startswith("peers.")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def script(on_path):
    spec = importlib.util.spec_from_file_location("peers_script", SCRIPTS / "peers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny(kind):
    made = importlib.import_module("peers.workloads")
    return {
        "mlp": made._mlp(4, (8, 8))._replace(sizes={"inputs": 6, "hidden": (8, 8), "classes": 10}),
        "cnn": made._cnn(2, (4, 8), 2, side=8),
        "resnet": made._resnet(3, (1, 1), (4, 8), side=8),
        "gpt": made._gpt(2, 8, 2, 16, 2, 16),
        "lstm_ctc": made._lstm(2, 10, 2, 8),
    }[kind]


PAIRS = [
    (side, kind)
    for side, kinds in {
        "by hand": ("mlp", "cnn", "resnet", "gpt", "lstm_ctc"),
        "flax": ("mlp", "cnn", "resnet", "gpt", "lstm_ctc"),
        "equinox": ("mlp", "cnn", "gpt", "lstm_ctc"),
        "torch": ("mlp", "cnn", "resnet", "gpt", "lstm_ctc"),
        "keras": ("mlp", "cnn", "resnet", "gpt", "lstm_ctc"),
    }.items()
    for kind in kinds
]


def losses(side, workload, weights):
    name, function, package = importlib.import_module("peers.worker").SIDES[side]
    pytest.importorskip(package)
    trainer = getattr(importlib.import_module(f"peers.{name}"), function)(workload, weights, "float32")
    return [trainer.run(1) for _ in range(3)]


@pytest.mark.parametrize(("side", "kind"), PAIRS)
def test_each_library_trains_the_same(script, side, kind):
    workload = tiny(kind)
    with jax.numpy_dtype_promotion("standard"):
        weights = importlib.import_module("peers.built_in").weights_of(workload)
        expected = losses("jaxprop", workload, weights)
        found = losses(side, workload, weights)
    assert script._unequal(found, expected, "float32") is None
    assert len(set(expected)) == 3  # it does train


def test_other_losses_are_told(script):
    assert script._unequal([2.3, 2.2, 2.1], [2.3, 2.2, 2.1], "float32") is None
    assert "2.301" in script._unequal([2.301, 2.2, 2.1], [2.3, 2.2, 2.1], "float32")
    assert script._unequal([2.3, 2.2, float("nan")], [2.3, 2.2, 2.1], "float32") is not None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ModuleNotFoundError("No module named 'keras'", name="keras"), "keras is not installed; pip install keras"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), "the batch does not fit into the memory of the device"),
        (ValueError("what"), "torch failed with ValueError: what"),
    ],
)
def test_what_does_not_run_is_said_in_a_sentence(error, sentence):
    assert importlib.import_module("peers.worker").explain(error, "torch").startswith(sentence)


def test_a_library_that_fails_costs_its_own_row_alone(script, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(script, "CPU", (tiny("mlp"),))
    broken = script.SIDES | {"broken": ("no_such_module", "start", "none")}
    monkeypatch.setattr(script, "SIDES", broken)
    out = tmp_path / "found.json"
    command = ["peers.py", "--rounds", "1", "--seconds", "0.01", "--side", "by hand", "--side", "broken"]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(out)])
    script.main()
    rows = [line.split("|")[2:5] for line in capsys.readouterr().out.splitlines() if line.startswith("| MLP")]
    assert [row[0].strip() for row in rows] == ["jaxprop", "jaxprop again", "by hand", "broken"]
    assert all(float(row[1]) > 0 for row in rows[:3])
    assert "KeyError" in rows[3][1]
    assert np.isfinite(importlib.import_module("json").loads(out.read_text())["rows"][2]["ratio"]).all()


def test_a_workload_that_is_not_there_is_said(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["peers.py", "--only", "diffusion"])
    with pytest.raises(SystemExit) as left:
        script.main()
    assert left.value.code == 2
    assert "no workload has diffusion in its name; there are: MLP" in capsys.readouterr().err
