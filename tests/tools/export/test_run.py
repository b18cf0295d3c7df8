"""Exporting a run: the files, the card, and sentences about what cannot be."""

import json

import pytest

from jaxprop.errors import RunFolderError, UsageError
from jaxprop.run.loaded import load
from jaxprop.tools.export import FORMATS, export_run
from tests.run.trained import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load(trained(tmp_path_factory.mktemp("home")))


def test_what_is_written(run, tmp_path):
    made = export_run(run, "safetensors", tmp_path / "out")
    assert set(made["files"]) == {"model.safetensors", "README.md", "prepared.json"}
    assert {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()} == made["files"]
    assert (made["step"], made["checkpoint"], made["format"]) == (run.step, "best", "safetensors")
    own = json.loads((run.folder / "prepared.json").read_text())
    assert json.loads((tmp_path / "out" / "prepared.json").read_text()) == own
    again = export_run(run, "safetensors")
    assert again["folder"] == str(run.folder / "exports" / "safetensors")


def test_the_card_says_what_it_is(run, tmp_path):
    export_run(run, "stablehlo", tmp_path)
    text = (tmp_path / "README.md").read_text()
    best = run.summary["best"]
    for part in (
        "# first",
        "trained with jaxprop on `arrays` data.",
        f"the best checkpoint, of step {run.step}. Its weights are the moving average",
        f"| loss | {best['loss']:.4g} |",
        "| `inputs` | float32 | [N, 5] |",
        "| `probabilities` | float32 | [N, 3] |",
        run.opened.prepared.fingerprint,
        "64 examples",
        "jax ",
    ):
        assert part in text, part


@pytest.mark.parametrize("name", FORMATS)
def test_the_way_to_load_it_is_short(run, tmp_path, name):
    if name == "onnx":
        pytest.importorskip("jax2onnx")  # which no extra installs, since it would take an older Orbax along
    export_run(run, name, tmp_path)
    code = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert 3 <= len([line for line in code.splitlines() if line.strip()]) <= 6


def test_what_cannot_be(run, tmp_path):
    with pytest.raises(UsageError, match="unknown format 'onxx'"):
        export_run(run, "onxx", tmp_path)
    with pytest.raises(UsageError, match="weights have no batch size"):
        export_run(run, "safetensors", tmp_path, batch_size=2)
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"file cannot be written .*; name another folder with --out DIR"):
        export_run(run, "safetensors", tmp_path / "file")
