"""`jaxprop export`: what is written where, and what is printed."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxprop.run import loaded
from jaxprop.tools import export as tool

MADE = {"run": "runs/a", "format": "safetensors", "folder": "x", "files": {"model.safetensors": 2048}, "step": 9,
        "checkpoint": "best"}  # fmt: skip

LOADED = SimpleNamespace(folder=Path("runs/a"))


@pytest.fixture
def calls(monkeypatch):
    kept = []
    monkeypatch.setattr(loaded, "load", lambda run, **options: kept.append((str(run), options)) or LOADED)
    monkeypatch.setattr(tool, "export_run", lambda *given, **options: kept.append((given, options)) or MADE)
    return kept


def test_what_is_printed(jaxprop, calls):
    ran = jaxprop("export", "a", "--format", "safetensors")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "the best checkpoint, step 9: model.safetensors (2.0 KiB)\nfolder: x\n"
    assert calls == [
        ("a", {"which": None, "ema": True, "code": (), "average": None}),
        ((LOADED, "safetensors", None), {"batch_size": None, "adapters": False}),
    ]
    assert json.loads(jaxprop("export", "a", "--format", "safetensors", "--json").out) == {
        "command": "export", **MADE, "run": str(LOADED.folder.absolute())
    }  # fmt: skip


def test_options(jaxprop, calls):
    jaxprop("export", "a", "--format", "stablehlo", "--out", "y", "--batch-size", "4", "--newest", "--raw")
    assert calls == [
        ("a", {"which": "newest", "ema": False, "code": (), "average": None}),
        ((LOADED, "stablehlo", Path("y")), {"batch_size": 4, "adapters": False}),
    ]


def test_mistakes(jaxprop):
    assert "there is no such run folder" in jaxprop("export", "nowhere", "--format", "safetensors").err
    ran = jaxprop("export", "nowhere")
    assert (ran.code, "--format" in ran.err) == (2, True)
