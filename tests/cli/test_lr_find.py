"""`jaxprop lr-find`: curve, suggestion, the line to use, the folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxprop.cli.lr_find import sparkline
from jaxprop.tools import lr_find as module

RATES = tuple(np.geomspace(1e-6, 10, 100).tolist())
LOSSES = tuple(np.linspace(2, 1, 100).tolist())
FOUND = module.Found(RATES, LOSSES, LOSSES, 0.0123, "it lies there", False, (0.01, 0.015))


@pytest.fixture
def found(monkeypatch):
    """What the sweep is to say."""

    def say(found):
        configs = []
        monkeypatch.setattr(module, "find_rate", lambda config: configs.append(config) or found)
        return configs

    return say


def test_a_suggestion(jaxprop, found):
    configs = found(FOUND)
    ran = jaxprop("lr-find", "digits", "model.hidden=[4]", "optimizer.lr=3")
    assert (ran.code, ran.err) == (0, "")
    assert [config.model.hidden for config in configs] == [(4,)]
    curve, mark, *rest = ran.out.splitlines()
    assert (curve[0], curve[-1]) == ("█", "▁")
    assert 0.4 < mark.index("^") / len(curve) < 0.7
    assert "suggested: 0.012, because it lies there" in rest
    assert "use it with: jaxprop train digits 'model.hidden=[4]' optimizer.lr=0.012" in rest
    assert json.loads(Path("runs/digits-lr-find/lr_find.json").read_text())["suggested"] == 0.0123
    assert Path("runs/digits-lr-find/config.yaml").is_file()


def test_none(jaxprop, found):
    found(FOUND._replace(suggested=None, flat=True, why="the loss is flat"))
    ran = jaxprop("lr-find", "digits", "--run", "here")
    assert ran.code == 0
    assert "no suggestion: the loss is flat" in ran.out
    assert "use it with" not in ran.out
    assert json.loads(Path("here/lr_find.json").read_text())["flat"] is True


def test_json(jaxprop, found):
    found(FOUND)
    ran = jaxprop("lr-find", "digits", "--json")
    told = json.loads(ran.out)
    assert told["suggested"] == 0.0123
    assert (told["command"], told["run"]) == ("lr-find", str(Path("runs/digits-lr-find").absolute()))


def test_a_real_sweep(jaxprop):
    ran = jaxprop("lr-find", "digits", "model.hidden=[4]", "parallel.devices=1")
    assert (ran.code, ran.err) == (0, "")
    assert "suggested: " in ran.out


def test_a_runs_folder_is_left_alone(jaxprop, found):
    found(FOUND)
    Path("taken/checkpoints").mkdir(parents=True)
    ran = jaxprop("lr-find", "digits", "--run", "taken")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: taken holds the checkpoints of a run")
    assert not Path("taken/lr_find.json").exists()


def test_a_curve_without_height_and_a_short_one():
    assert sparkline([1.0, 1.0], [0.1, 1.0], None) == ("▁▁", "")
    assert sparkline([1.0], [0.1], 0.1) == ("▁", "^")
