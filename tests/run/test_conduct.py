"""Runs that a tracker follows: what it is told, and that nothing it does reaches the run."""

import json
import sys

import pytest

from jaxprop.cli import main
from jaxprop.config.build import build
from jaxprop.config.dump import dump
from jaxprop.errors import UsageError
from jaxprop.run.train import train
from jaxprop.sinks import Sink
from tests.run.trained import sections, write_arrays
from tests.sinks import fakes


@pytest.fixture
def data(tmp_path):
    write_arrays(tmp_path)
    return tmp_path


@pytest.fixture
def fake(monkeypatch):
    def install(**given):
        seen = []
        monkeypatch.setitem(sys.modules, "trackio", fakes.trackio(seen, **given)["trackio"])
        return seen

    return install


def config(data, **changes):
    tracked = {"sinks": {"trackio": {"project": "p"}}, "run": {"steps": 12, "log_every": 4, "eval_every": 6}}
    return build(sections(data, **(tracked | changes)))


def test_a_tracker_has_the_whole_run(data, fake):
    seen = fake()
    outcome = train(config(data), data / "run", quiet=True)
    given = seen[0][1]
    assert (given["project"], given["name"]) == ("p", "run")
    assert given["config"]["optimizer"]["lr"] == 0.05
    records = [json.loads(line) for line in (data / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [call for call in seen if call[0] == "log"]
    assert [step for _, step, _ in logged] == [record["step"] for record in records] + [12]
    for (_, _, values), record in zip(logged, records, strict=False):
        assert values == {f"{record['split']}/{key}": record[key] for key in record if key not in ("step", "split")}
    best = {f"best/{key}": value for key, value in outcome.summary["best"].items() if key != "step"}
    assert logged[-1][2] == {"status": "completed", **best}
    assert seen[-1] == ("finish",)


def test_a_run_that_goes_on_is_the_same_run_there(data, fake):
    seen = fake()
    train(config(data, run={"steps": 6}), data / "run", quiet=True)
    train(config(data), data / "run", quiet=True)
    train(config(data), data / "run", quiet=True)  # nothing is left to do, and nothing is told
    assert [call[1]["resume"] for call in seen if call[0] == "init"] == ["never", "allow"]
    assert [call[1] for call in seen if call[0] == "log"][-2:] == [12, 12]


def test_a_run_that_fails_is_told_so(data, fake):
    seen = fake()

    def fail(step):
        raise RuntimeError("no more of it")

    with pytest.raises(RuntimeError):
        train(config(data), data / "run", quiet=True, sinks=[Sink(progress=fail)])
    assert seen[-2] == ("log", 0, {"status": "failed"})


def test_a_tracker_that_fails_changes_nothing(data, fake, capsys):
    fake(fail_at=3)
    followed = train(config(data), data / "run", quiet=True)
    assert "sinks.trackio: ConnectionError: the disk is gone; the run goes on without it" in capsys.readouterr().err
    alone = train(config(data, sinks={"trackio": False}), data / "alone", quiet=True)
    assert (followed.exit_code, followed.summary["metrics"]) == (0, alone.summary["metrics"])


def test_a_sink_of_ones_own_is_told_the_summary(data, fake):
    seen = fake()
    order = []
    mine = Sink(summary=order.append, close=lambda: order.append("closed"))
    train(config(data, sinks={"trackio": False}), data / "run", quiet=True, sinks=[mine])
    assert (order[0]["status"], order[0]["step"], order[1]) == ("completed", 12, "closed")
    assert seen == []


def test_fresh_begins_a_new_run_there_and_gives_the_old_one_back(data, fake):
    seen = fake()
    train(config(data), data / "run", quiet=True)
    known = (data / "run" / "tracker.json").read_text()

    def fail(step):
        raise RuntimeError("no more of it")

    with pytest.raises(RuntimeError):
        train(config(data), data / "run", fresh=True, quiet=True, sinks=[Sink(progress=fail)])
    assert [call[1]["resume"] for call in seen if call[0] == "init"] == ["never", "never"]
    assert (data / "run" / "tracker.json").read_text() == known


def test_one_that_is_not_installed_is_refused_before_anything_is_done(data, monkeypatch, capsys):
    (data / "config.yaml").write_text(dump(config(data, sinks={"wandb": True})))
    monkeypatch.setitem(sys.modules, "wandb", None)
    code = main(["train", str(data / "config.yaml"), "--run", str(data / "run")])
    said = "sinks.wandb needs the package 'wandb', which is not installed; install it with: pip install wandb"
    assert (code, capsys.readouterr().err) == (2, f"error: {said}\n")
    assert not (data / "run" / "config.yaml").exists()


def test_fresh_leaves_the_old_run_where_a_tracker_is_refused(data, fake, monkeypatch):
    fake()
    train(config(data), data / "run", quiet=True)
    before = {path.name for path in (data / "run").iterdir()}
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UsageError, match="pip install trackio"):
        train(config(data), data / "run", fresh=True, quiet=True)
    assert {path.name for path in (data / "run").iterdir()} == before
