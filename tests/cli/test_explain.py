"""`jaxprop explain`: stages in order, in a width that fits, JSON, and the exit code."""

import json

import pytest

from jaxprop.tools import explain as module

CHANGES = ("model.hidden=[6,5]", "data.batch_size=8", "optimizer.grad_clip.norm=0.1")


@pytest.fixture
def found(jaxprop):
    """What is printed, computed once a test."""
    return jaxprop("explain", "digits", *CHANGES)


def test_stages_in_order(found):
    assert (found.code, found.err) == (0, "")
    places = [
        found.out.index(f"\n{stage}")
        for stage in ("1. Forward", "2. Loss", "3. Backward", "4. Cl", "5. Up", "6. A", "Check")
    ]
    assert places == sorted(places)
    assert max(map(len, found.out.splitlines())) <= 120
    assert "figures agree with the train step: the largest relative difference is " in found.out
    assert "||g|| = " in found.out
    assert "not shown" not in found.out


def test_json(jaxprop):
    ran = jaxprop("explain", "digits", *CHANGES, "--json")
    found = json.loads(ran.out)
    assert (ran.code, found["ok"], found["batch_size"]) == (0, True, 8)
    assert [layer["name"] for layer in found["layers"]] == ["layers/0", "layers/1", "head"]
    assert found["checks"][0]["name"] == "loss"


def test_disagreement_is_an_exit_code(jaxprop, monkeypatch):
    take_apart = module.explain

    def crooked(config):
        found = take_apart(config)
        checks = (found.checks[0]._replace(step=9.0, difference=0.7, agrees=False), *found.checks[1:])
        return found._replace(ok=False, checks=checks)

    monkeypatch.setattr(module, "explain", crooked)
    ran = jaxprop("explain", "digits", *CHANGES, "--layer-limit", "1")
    assert ran.code == 1
    assert "differs" in ran.out
    assert "figures DISAGREE with the train step" in ran.out
    assert "(2 activations between them are not shown; --layer-limit" in ran.out


def test_a_mistake_is_told(jaxprop):
    ran = jaxprop("explain", "digit")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: digit: no such config; did you mean 'digits'?")
