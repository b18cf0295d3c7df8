import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest

from jaxprop.config.schema.run import Sinks
from jaxprop.sinks import open_sinks
from tests.sinks import fakes

installed = pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")


def opened(folder, start_step=None, **section):
    sinks = Sinks(console=False, jsonl=False, trackio=section or True)
    return open_sinks(sinks, folder, total_steps=10, start_step=start_step, config={"run": {"steps": 10, "stop": None}})


def write(sink):
    sink.write({"step": 5, "split": "train", "loss": 0.5, "grad_norm": math.nan})
    sink.rewind(3)
    sink.write({"step": 4, "split": "eval", "accuracy": 0.25})
    sink.alert({"step": 5, "kind": "spike", "layer": "head", "severity": "act", "message": "the loss is high"})
    sink.summary({"status": "completed", "step": 5, "best": {"step": 4, "accuracy": 0.25}})
    sink.close()


def test_records_alerts_and_the_end(monkeypatch, tmp_path, capsys):
    seen = []
    monkeypatch.setitem(sys.modules, "trackio", fakes.trackio(seen)["trackio"])
    (tmp_path / "a").mkdir()
    write(opened(tmp_path / "a", project="p"))
    given = seen[0][1]
    assert (given["project"], given["name"], given["resume"]) == ("p", "a", "never")
    assert [call[:2] for call in seen[1:]] == [
        ("log", 5),
        ("log", 4),
        ("alert", "spike: head"),
        ("log", 5),
        ("finish",),
    ]
    assert seen[-2][2] == {"status": "completed", "best/accuracy": 0.25}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("start", "project", "resume"), [(5, "p", "allow"), (None, "p", "never"), (5, "q", "never")])
def test_a_resumed_run_is_the_same_there(monkeypatch, tmp_path, start, project, resume):
    (tmp_path / "tracker.json").write_text(json.dumps({"trackio": {"project": "p", "name": "n"}}))
    seen = []
    monkeypatch.setitem(sys.modules, "trackio", fakes.trackio(seen)["trackio"])
    opened(tmp_path, start, project=project).close()
    assert seen[0][1]["resume"] == resume
    assert (seen[0][1]["name"] == "n") == (resume == "allow")


def test_a_version_without_alerts_has_a_log_entry(monkeypatch, tmp_path):
    seen = []
    fake = fakes.trackio(seen)["trackio"]
    begin = fake.init

    def init(**given):
        run = begin(**given)
        del type(run).alert
        return run

    fake.init = init
    monkeypatch.setitem(sys.modules, "trackio", fake)
    write(opened(tmp_path))
    assert ("log", 5, {"alert": "spike: head: step 5: the loss is high"}) in seen


READ = """
import json
from trackio.sqlite_storage import SQLiteStorage as store
alerts = [[alert["title"], alert["level"]] for alert in store.get_alerts("tést!")]
logs = store.get_logs("tést!", "run")
print(json.dumps([store.get_runs("tést!"), logs, alerts, store.get_run_config("tést!", "run")], default=str))
"""
WRITE = (
    "import sys; from tests.sinks.test_trackio import *; write(opened(sys.argv[1], eval(sys.argv[2]), project='tést!'))"
)


@installed
def test_the_library_keeps_one_run(tmp_path):
    """In processes of its own, since it reads where its files are when it is imported."""
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    (tmp_path / "run").mkdir()
    for start in ("None", "4"):
        command = [sys.executable, "-W", "error::DeprecationWarning", "-c", WRITE, str(tmp_path / "run"), start]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    command = [sys.executable, "-c", READ]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    runs, rows, alerts, config = json.loads(ran.stdout)
    assert runs == ["run"]
    assert sorted(row["step"] for row in rows) == sorted([5, 4, 5] * 2)
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [0.5, 0.5]
    assert [row["status"] for row in rows if "status" in row] == ["completed", "completed"]
    assert alerts == [["spike: head", "error"]] * 2
    assert config["run"]["steps"] == 10
