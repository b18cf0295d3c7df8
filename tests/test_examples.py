"""The worked examples of the documentation run, learn, and stay short."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
FILES = sorted(FOLDER.glob("*.py"))


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_is_short_and_says_how_to_run_it(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert f"python docs/examples/{path.name}" in text.splitlines()[0]


@pytest.mark.parametrize("name", ["nnx_model", "linen_model", "equinox_model"])
def test_models_of_three_frameworks_learn_and_go_on(name, tmp_path):
    if name == "equinox_model":
        pytest.importorskip("equinox")
    run = example(name).main(str(tmp_path / "run"), steps=60)
    assert (run.status, run.summary["step"]) == ("completed", 60)
    assert run.metrics["accuracy"] > 0.85
    longer = example(name).main(str(tmp_path / "run"), steps=80)
    assert longer.summary["step"] == 80
    assert (tmp_path / "run" / "layers.jsonl").stat().st_size > 0


def test_plain_functions_learn_a_sine(tmp_path):
    run = example("plain_functions").main(str(tmp_path / "run"), steps=300)
    assert run.metrics["loss"] < 0.05


def test_the_own_loop_with_grain():
    pytest.importorskip("grain")
    assert example("grain_loop").main(60) < 0.4


def test_the_gan_comes_near_the_ring():
    assert abs(example("gan").main(300) - 1) < 0.35


def test_the_torch_loader(tmp_path):
    pytest.importorskip("torch")
    assert example("torch_loader").main(str(tmp_path / "run"), steps=100).metrics["accuracy"] > 0.8
