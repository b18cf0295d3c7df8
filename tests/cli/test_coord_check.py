"""`jaxprop coord-check`: the tables, the verdicts, the files, and mistakes in the command."""

import json
from pathlib import Path

import pytest

from jaxprop.tools import coord_check as module
from jaxprop.tools.coord_layers import Checked, Layer

LAYER = Layer("head", (0.5, 0.25), -1.0, (1.0, 1.0))
FOUND = Checked("mup", (64, 128), 5, 2, (LAYER,), False, "mup does not hold")


@pytest.fixture
def asked(monkeypatch):
    """What the check is asked for."""
    seen = []
    monkeypatch.setattr(module, "coord_check", lambda config, widths, **more: seen.append((widths, more)) or [FOUND])
    return seen


def test_a_table_a_verdict_and_a_picture(jaxprop, asked):
    ran = jaxprop("coord-check", "digits", "--widths", "64, 128", "--steps", "5", "--seeds", "2")
    assert (ran.code, ran.err) == (0, "")
    assert asked == [([64, 128], {"steps": 5, "seeds": 2})]
    assert "head" in ran.out
    assert "mup does not hold" in ran.out
    assert Path("runs/digits-coord-check/coord_check.svg").is_file()


def test_json(jaxprop, asked):
    ran = jaxprop("coord-check", "digits", "--run", "here", "--json")
    assert asked == [(None, {"steps": module.STEPS, "seeds": module.SEEDS})]
    assert json.loads(ran.out)["checks"][0]["layers"][0]["power"] == -1.0


@pytest.mark.parametrize("text", ["", "64;128", "64,0", "-4,8", "wide"])
def test_widths_are_whole_numbers(jaxprop, asked, text):
    ran = jaxprop("coord-check", "digits", f"--widths={text}")
    assert ran.code == 2
    assert ran.err.startswith("error: --widths: expected whole numbers with commas between them")
    assert not asked
