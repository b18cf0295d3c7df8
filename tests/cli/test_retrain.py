"""The command: a table a person can read, JSON with `--json`, and exit codes."""

import json

import pytest

from jaxprop.cli import main
from jaxprop.tools.retrain import Retrained
from jaxprop.tools.retrain import retrain as real

RECORD = {
    "decision": "kept aside",
    "reason": "not shown to be better",
    "figures": {
        "new": {
            "metric": "accuracy", "champion": 0.9, "challenger": 0.91, "difference": 0.01, "interval": [-0.01, 0.03],
            "draws": 2000, "examples": 100,
        }
    },
    "examples": {
        "new": {"improved": [{"name": "a.npz[3]", "champion_loss": 2.0, "challenger_loss": 1.0}], "worsened": []},
    },
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the command asks for, answered by a record that nothing was trained for."""
    from jaxprop.run.served import Version
    from jaxprop.tools import retrain as tool

    seen = []

    def retrain(request, **options):
        seen.append((request, options))
        return Retrained(Version("model", 2, tmp_path, RECORD), RECORD, 0)

    monkeypatch.setattr(tool, "retrain", retrain)
    assert real is not retrain
    return seen


def test_what_is_decided_is_shown(asked, capsys):
    assert (
        main(["retrain", "champion:model", "--data", "week2", "--replay", "0.5", "run.steps=3", "--new-classes"]) == 0
    )
    request, options = asked[0]
    assert request.run == "champion:model"
    assert request.new == "week2"
    assert request.replay == 0.5
    assert request.overrides == ("run.steps=3",)
    assert request.new_classes
    assert not options["quiet"]
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.strip().startswith("new test "))
    assert row.split() == ["new", "test", "100", "accuracy", "0.9", "0.91", "+0.01", "-0.01", "to", "+0.03", "2000"]
    assert "new test, improved most:\n  a.npz[3]  loss 2 -> 1\n" in out
    assert "kept aside: not shown to be better\nversion 2 of the champion model: " in out


def test_json_is_the_record_alone(asked, capsys, tmp_path):
    assert main(["retrain", "model", "--data", "week2", "--json", "--tolerance", "0.02"]) == 0
    assert asked[0][0].tolerance == 0.02
    printed = json.loads(capsys.readouterr().out)
    assert printed["command"] == "retrain"
    assert printed["run"] == str(tmp_path)
    assert printed["decision"] == "kept aside"


def test_an_interruption_has_the_exit_code_of_the_training(monkeypatch, capsys):
    from jaxprop.tools import retrain as tool

    monkeypatch.setattr(tool, "retrain", lambda *_, **__: Retrained(None, {"decision": "interrupted"}, 75))
    assert main(["retrain", "model", "--data", "week2", "--json"]) == 75
    assert json.loads(capsys.readouterr().out)["decision"] == "interrupted"


def test_a_mistake_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["retrain", "model", "--data", "week2", "--replay", "2"]) == 2
    assert "error: --replay: expected a share of at least 0 and below 1, got 2" in capsys.readouterr().err
    assert main(["retrain", "model"]) == 2
