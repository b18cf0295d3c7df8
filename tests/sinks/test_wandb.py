import importlib.util
import json
import os
import struct
import sys
import time

import pytest

from jaxprop.config.schema.run import Sinks
from jaxprop.config.schema.trackers import Wandb
from jaxprop.errors import UsageError
from jaxprop.sinks import open_sinks
from jaxprop.sinks.wandb import check_wandb
from tests.sinks import fakes

installed = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)

    def install(seen, **given):
        monkeypatch.setitem(sys.modules, "wandb", fakes.wandb(seen, **given)["wandb"])

    return install


def opened(folder, start_step=None, **section):
    sinks = Sinks(console=False, jsonl=False, wandb=section or True)
    return open_sinks(sinks, folder, total_steps=10, start_step=start_step, config={"run": {"steps": 10}})


def write(sink, status="completed"):
    sink.write({"step": 5, "split": "train", "loss": 0.5})
    sink.rewind(3)
    sink.write({"step": 4, "split": "eval", "accuracy": 0.25})
    sink.alert({"step": 5, "kind": "spike", "layer": "head", "severity": "act", "message": "the loss is high"})
    sink.summary({"status": status, "step": 5, "best": {"loss": 0.5}})
    sink.close()


def test_records_have_a_step_of_their_own(fake, tmp_path):
    seen = []
    fake(seen)
    write(opened(tmp_path, project="p", name="n", entity="team"))
    given = seen[0][1]
    assert {key: given[key] for key in ("project", "name", "entity", "mode", "dir", "id", "resume")} == {
        "project": "p", "name": "n", "entity": "team", "mode": "online", "dir": str(tmp_path), "id": None,
        "resume": "allow",
    }  # fmt: skip
    assert given["config"] == {"run": {"steps": 10}}
    assert given["settings"] == {"silent": True, "console": "off"}
    assert ("define", "train/*", {"step_metric": "step"}) in seen
    assert seen[-4:] == [
        ("log", {"step": 5, "train/loss": 0.5}),
        ("log", {"step": 4, "eval/accuracy": 0.25}),
        ("alert", "spike: head", "step 5: the loss is high", "ERROR"),
        ("finish", "completed", 0),
    ]


@pytest.mark.parametrize("status", ["diverged", "interrupted", "failed"])
def test_a_run_that_has_not_completed_has_failed(fake, tmp_path, status):
    seen = []
    fake(seen)
    write(opened(tmp_path), status)
    assert seen[-1] == ("finish", status, 1)


@pytest.mark.parametrize(("start", "known", "id"), [(5, "xyz", "xyz"), (None, "xyz", None), (5, "../x", None)])
def test_a_resumed_run_is_the_same_there(fake, tmp_path, start, known, id):
    (tmp_path / "tracker.json").write_text(json.dumps({"wandb": {"id": known}}))
    seen = []
    fake(seen)
    opened(tmp_path, start).close()
    assert seen[0][1]["id"] == id


@pytest.mark.parametrize(
    ("variable", "mode", "asks"),
    [(None, None, True), ("offline", None, False), ("offline", "online", True), (None, "offline", False)],
)
def test_only_an_online_run_needs_a_login(fake, monkeypatch, variable, mode, asks):
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    seen = []
    fake(seen, logged_in=False)
    if asks:
        with pytest.raises(UsageError, match=r"nobody is logged in.*'wandb login'.*sinks.wandb.mode=offline"):
            check_wandb(Wandb(mode=mode))
        assert seen == [("login", {"prompt": False, "verify": False})]  # nothing is asked on the terminal
    else:
        check_wandb(Wandb(mode=mode))
        assert seen == []


def test_a_server_that_does_not_answer_is_refused_with_the_way_out(fake, tmp_path, monkeypatch):
    fake([])

    def init(**given):
        raise TimeoutError("deadline exceeded")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    with pytest.raises(UsageError, match=r"deadline exceeded.*, write to the run's folder with sinks.wandb.mode=off"):
        opened(tmp_path)


def stored(folder):
    """What the offline runs in a folder hold: blocks of 32 KiB, of chunks with a checksum, a length and a type."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, place, record = path.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if 32768 - place % 32768 < 7:
                place += 32768 - place % 32768
                continue
            _, length, kind = struct.unpack("<IHB", data[place : place + 7])
            record += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # whole, or the last part
                yield Record.FromString(record)
                record = b""


@installed
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_library_writes_to_the_runs_folder(tmp_path, monkeypatch, capfd):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "run").mkdir()
    odd = "tést & run!"
    write(opened(tmp_path / "run", mode="offline", project=odd))
    time.sleep(1.1)  # it names a folder by the second
    write(opened(tmp_path / "run", 4, mode="offline", project=odd))
    assert capfd.readouterr() == ("", "")
    records, until = [], time.monotonic() + 60
    # Its own process writes, and is still at it when a run is finished.
    while sum(record.HasField("exit") for record in records) < 2 and time.monotonic() < until:
        records = list(stored(tmp_path / "run"))
    history = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [{key: row[key] for key in row if key[0] != "_"} for row in history] == [
        {"step": 5, "train/loss": 0.5}, {"step": 4, "eval/accuracy": 0.25},
    ] * 2  # fmt: skip
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert len({run.run_id for run in runs}) == 1
    assert {(run.project, run.display_name) for run in runs} == {(odd, "run")}
    assert {"run": '{"steps":10}'}.items() <= {
        item.key: item.value_json.replace(" ", "") for item in runs[0].config.update
    }.items()
    alerts = [record.alert for record in records if record.WhichOneof("record_type") == "alert"]
    assert [(alert.title, alert.level) for alert in alerts] == [("spike: head", "ERROR")] * 2
    assert [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"] == [0, 0]


@installed
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_library_without_a_login_is_refused(tmp_path, monkeypatch, capfd):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UsageError, match="nobody is logged in"):
        check_wandb(Wandb())
    assert capfd.readouterr() == ("", "")
