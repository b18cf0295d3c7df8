"""`jaxprop replay`: what is printed."""

import json
from pathlib import Path

from jaxprop.health.nonfinite.find import Finding, Hop
from jaxprop.tools import replay as tool
from jaxprop.tools.replay import Replayed

HOPS = (Hop("forward", "log", "head", "/home/me/model.py", 7, 3, 1200), Hop("backward", "mul", None, None, None, 1, 1))
FOUND = Finding(
    "forward", "log", "head", "/home/me/model.py", 7, (2, 5), 8, at=(2, 0), shape=(8, 3), bad=3, value="-inf",
    operands=("0",), affected=tuple(f"layers/{i}" for i in range(14)), path=HOPS,
)  # fmt: skip


def answering(monkeypatch, replayed):
    calls = []
    monkeypatch.setattr(tool, "replay_run", lambda run, step: calls.append((run, step)) or replayed)
    return calls


def test_the_sentence_the_way_and_the_parameters(jaxprop, monkeypatch):
    answering(monkeypatch, Replayed(12, FOUND, ("the step failed with jax 0.1, now 0.2",)))
    ran = jaxprop("replay", "runs/a")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(
        "step 12: forward pass: log at /home/me/model.py:7, layer head is the first to give -inf, in 3 of 24 entries, "
        "first at [2, 0]: log(0) = -inf; of the 8 examples of the batch, each of examples 2, 5 causes it by "
        "itself (counted from 0)\n"
        "the step failed with jax 0.1, now 0.2\n"
    )
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["log", "forward", "head", "model.py:7", "3", "of", "1,200"] in rows
    assert ["mul", "backward", "1", "of", "1"] in rows
    assert ["layers/11"] in rows
    assert ["and", "2", "more"] in rows


def test_json(jaxprop, monkeypatch):
    answering(monkeypatch, Replayed(12, FOUND, ()))
    where = Path("runs/a")
    answering(monkeypatch, Replayed(12, FOUND, (), where))
    found = json.loads(jaxprop("replay", "runs/a", "--json").out)
    assert (found["command"], found["run"]) == ("replay", str(where.absolute()))
    assert (found["step"], found["finding"]["primitive"], found["notes"]) == (12, "log", [])
    answering(monkeypatch, Replayed(12, None, ()))
    assert json.loads(jaxprop("replay", "runs/a", "--json").out)["finding"] is None


def test_a_step_that_is_finite_this_time(jaxprop, monkeypatch):
    calls = answering(monkeypatch, Replayed(12, None, ()))
    ran = jaxprop("replay", "runs/a")
    assert (ran.code, ran.out) == (0, "step 12: loss and gradients are finite this time\n")
    assert jaxprop("replay", "runs/a", "--step", "7").out == ran.out
    assert calls == [(Path("runs/a"), None), (Path("runs/a"), 7)]


def test_no_such_run(jaxprop):
    Path("runs/real").mkdir(parents=True)
    Path("runs/real/config.yaml").touch()
    ran = jaxprop("replay", "runs/reel")
    sentence = "error: runs/reel: there is no such run folder; did you mean 'real'? (runs in runs: real)\n"
    assert (ran.code, ran.err) == (2, sentence)
