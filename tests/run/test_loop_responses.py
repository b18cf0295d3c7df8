"""The loop and alerts: what is done about them, at which steps, and that stopping anywhere changes nothing of it."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from jaxprop.checkpoint import Checkpoints
from jaxprop.health.watch.alerts import Alert
from jaxprop.health.watch.watch import Watch
from jaxprop.sinks import Sink
from tests.benches import Bench, Poisoned, bits, with_config

LADDER = ("clip", "cut_lr", "rollback", "stop")
OVER = {
    "model": {"batch_norm": False, "dropout": 0.1},
    "optimizer": {"name": "sgd", "lr": 0.3, "schedule": {"name": "constant"}, "grad_clip": None},
    "checkpoint": {"every_steps": 5},
    "health": {"on_alert": list(LADDER), "every": 1},
    "run": {"steps": 48, "accumulate": 1, "ema_decay": None, "eval_every": 24},
}


class LossWatch:
    """Alerts where the loss is back where it began, as `jaxprop.health.Watch` would: once, until it is re-armed."""

    exploded = False

    def __init__(self, layer_names=(), limits=None, **_):
        self._lasting, self._seen = False, 0

    def update(self, step, m):
        self._seen += 1
        if self._lasting or not float(m.loss) > (20 if step <= 12 else 2.28):
            return []
        self._lasting = True
        return [
            Alert(step, "loss_jump", None, "act", float(m.loss), 2.28, step, {}, "bad_batch", "health.on_alert=clip")
        ]

    def rearm(self, step):
        self._lasting = False

    def state(self):
        return {"lasting": self._lasting, "seen": self._seen}

    def restore(self, state):
        self._lasting, self._seen = state["lasting"], state["seen"]


@pytest.fixture(scope="module")
def bench():
    return Bench(OVER)


@pytest.fixture(scope="module")
def by_four():
    return Bench(OVER | {"run": OVER["run"] | {"steps_per_call": 4, "log_every": 4}, "checkpoint": {"every_steps": 8}})


@pytest.fixture(autouse=True)
def watch(monkeypatch):
    monkeypatch.setattr("jaxprop.run.loop.Watch", LossWatch)
    monkeypatch.setattr("jaxprop.health.respond.fault.PATIENCE", 4)
    monkeypatch.setattr("jaxprop.health.respond.ladder.WAIT", 0)


def listed(bench, *actions, **health):
    return with_config(bench, health={"on_alert": actions, **health})


def actions(trained):
    return [(line["step"], line["action"]) for line in trained.alerts if line["kind"] == "action"]


# -- going back -----------------------------------------------------------------------------------


def train(bench, folder, bad, factor=300.0, **rest):
    folder.mkdir(exist_ok=True)
    return bench.train(folder, stream=Poisoned(bench, bad, factor), **rest)


def test_a_rollback_goes_on_past_the_offending_batches(bench, tmp_path):
    trained = train(bench, tmp_path, {22, 23, 24}, config=listed(bench, "rollback"))
    assert trained.status == "completed"
    # Step 23 is taken with batch 22; its record is read after step 24, and batch 24 is the next.
    assert actions(trained) == [(23, "rollback"), (21, "rollback")]
    assert [line["value"] for line in trained.alerts if line["kind"] == "action"] == [20, 20]
    steps = [record["step"] for record in trained.metrics if record["split"] == "train"]
    assert steps == list(range(1, 49))
    rows = [json.loads(line)["step"] for line in trained.layers.splitlines()]
    assert rows == sorted(rows)
    assert all(record["loss"] < 3 for record in trained.metrics)
    assert trained.loop.metrics["loss"] < 2
    # Four steps of the first pass after step 20, and two of the second.
    taken = trained.loop._stream_state
    assert taken["epoch"] * 6 + taken["position"] == 48 + 4 + 2


def test_without_a_response_the_same_batches_ruin_the_run(bench, tmp_path):
    trained = train(bench, tmp_path, {22, 23, 24}, config=listed(bench, "log"))
    assert actions(trained) == []
    assert [line["kind"] for line in trained.alerts] == ["loss_jump"]
    assert not trained.loop.metrics["loss"] < 2


def test_rollbacks_are_bounded_and_then_the_run_goes_on(bench, tmp_path):
    trained = train(bench, tmp_path, set(range(22, 999)), config=listed(bench, "rollback", tries=2))
    assert trained.status == "completed"
    assert [action for _, action in actions(trained)] == ["rollback", "rollback", "none"]
    assert "the run goes on" in trained.alerts[-1]["message"]


def test_rollbacks_are_bounded_and_then_the_run_stops(bench, tmp_path):
    config = listed(bench, "cut_lr", "rollback", "stop", tries=2)
    trained = train(bench, tmp_path, set(range(22, 999)), config=config)
    assert trained.status == "diverged"
    names = [action for _, action in actions(trained)]
    assert names == ["cut_lr", "cut_lr", "rollback", "cut_lr", "rollback", "stop"]
    assert trained.loop.diagnosis.startswith("stopped at step ")
    assert "likely bad_batch: try health.on_alert=clip" in trained.loop.diagnosis
    assert trained.loop.state.health.lr_scale.item() == 2.0**-3
    assert trained.loop.diagnosis.endswith(trained.alerts[-2]["message"])


def test_skips_in_a_row_go_back_too(bench, tmp_path):
    config = listed(bench, "rollback", max_skips=3)
    trained = train(bench, tmp_path, set(range(22, 26)), np.nan, config=config)
    assert trained.status == "completed"
    assert actions(trained) == [(25, "rollback")]
    assert math.isfinite(trained.loop.metrics["loss"])
    trained = train(bench, tmp_path / "all", set(range(22, 999)), np.nan, config=config)
    assert trained.status == "diverged"
    assert "not finite for 3 steps in a row" in trained.loop.diagnosis
    assert [action for _, action in actions(trained)] == ["rollback"] * 3


def test_an_alert_at_the_last_step_is_answered(bench, tmp_path):
    trained = train(bench, tmp_path, {47}, config=listed(bench, "rollback"))
    assert trained.status == "completed"
    assert actions(trained) == [(48, "rollback")]
    assert trained.loop.metrics["loss"] < 2
    assert trained.loop.step == 48


def test_before_the_first_checkpoint_there_is_the_start(bench, tmp_path):
    trained = train(bench, tmp_path, {2}, config=listed(bench, "rollback"))
    assert [line["value"] for line in trained.alerts if line["kind"] == "action"] == [0]
    assert trained.loop.metrics["loss"] < 2


# -- the same run ---------------------------------------------------------------------------------


def compare(bench, tmp_path, stops, config, bad):
    whole = train(bench, tmp_path / "whole", bad, config=config)
    for k in stops:
        folder = tmp_path / str(k)
        stopped = train(bench, folder, bad, config=config, stop_at=k)
        assert stopped.status == "interrupted", k
        resumed = train(bench, folder, bad, config=config)
        assert json.loads(json.dumps(resumed.alerts).replace(f"{folder}", f"{tmp_path / 'whole'}")) == whole.alerts, k
        assert resumed.metrics == whole.metrics, k
        assert resumed.layers == whole.layers, k
        assert bits(resumed.loop.state) == bits(whole.loop.state), k
        assert resumed.status == whole.status
    return whole


def test_a_run_stopped_anywhere_takes_the_same_actions(bench, tmp_path):
    config = listed(bench, *LADDER)
    whole = compare(bench, tmp_path, [1, *range(21, 26), 28, 29, 30, 34, 35, 36, 47], config, {21, 22, 23, 28, 29, 34})
    assert {"clip", "cut_lr", "rollback"} <= {action for _, action in actions(whole)}


def test_calls_of_several_steps_take_the_same_actions(by_four, tmp_path):
    config = listed(by_four, *LADDER)
    whole = compare(by_four, tmp_path, range(16, 48, 4), config, {21, 22, 23, 30, 31, 36})
    assert {"clip", "cut_lr", "rollback"} <= {action for _, action in actions(whole)}


def test_the_watch_itself_goes_on_where_it_was(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxprop.run.loop.Watch", Watch)
    whole = compare(bench, tmp_path, [22, 23, 24, 25, 40], listed(bench, "cut_lr", "rollback"), {21, 22, 23, 24})
    assert [action for _, action in actions(whole)]
    assert {line["kind"] for line in whole.alerts} > {"action"}


def test_a_run_that_lost_its_last_steps_takes_the_same_actions(bench, tmp_path):
    """As after kill -9, with what it had written still there."""
    config, bad = listed(bench, *LADDER), {21, 22, 23, 28, 29, 34}
    whole = train(bench, tmp_path / "whole", bad, config=config)
    for k in (24, 29, 31, 36, 44):
        folder = tmp_path / str(k)
        train(bench, folder, bad, config=config, stop_at=k)
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoints.clear(after=checkpoints.steps()[-2])
        resumed = train(bench, folder, bad, config=config)
        assert resumed.alerts == whole.alerts, k
        assert resumed.metrics == whole.metrics, k
        assert bits(resumed.loop.state) == bits(whole.loop.state), k


def test_nothing_is_compiled_for_a_response(bench, tmp_path, compilations):
    train(bench, tmp_path / "first", {22, 23}, config=listed(bench, "clip", "cut_lr", "rollback"))
    before = compilations()
    train(bench, tmp_path / "again", {22, 23}, config=listed(bench, "clip", "cut_lr", "rollback"))
    assert compilations() == before


# -- what is written --------------------------------------------------------------------------------


def test_without_a_watch_nothing_is_written(bench, tmp_path):
    trained = train(bench, tmp_path, {22}, config=listed(bench, "log", watch=False))
    assert trained.status == "completed"
    assert trained.alerts == []


def test_an_alert_is_shown_once(bench, tmp_path):
    seen = []
    train(bench, tmp_path, set(range(22, 999)), config=listed(bench, "log"), sink=Sink(alert=seen.append))
    assert len(seen) == 1


def test_the_pace_is_chosen_once_a_run(bench, tmp_path):
    notes, stops = [], SimpleNamespace(received=None)
    config = with_config(bench, health={"on_alert": "log", "every": "auto", "budget": 1.0})
    config = config.model_copy(update={"run": config.run.model_copy(update={"steps": 70})})
    sink = Sink(note=notes.append)
    train(bench, tmp_path, set(), config=config, total_steps=70, sink=sink, stop_at=60, stop=stops)
    chosen = [note for note in notes if note.startswith("health: ")]
    assert len(chosen) == 1
    assert "all signals every 10 steps" in chosen[0]
    stops.received, seen = None, []
    loop, checkpoints = bench.loop(tmp_path, stops, config=config, total_steps=70)
    with checkpoints:
        assert loop.resume() == 60
        assert not loop._pace.measuring
        assert loop.run(Sink(note=seen.append)) == "completed"
    assert not [note for note in seen if note.startswith("health: ")]


def test_the_layers_of_a_step_that_led_to_an_alert_are_written(bench, tmp_path):
    alerts, rows = [], []
    config = with_config(bench, health={"on_alert": "log", "every": 1, "rare_every": 20}, run={"log_every": 40})
    sink = Sink(alert=alerts.append, layers=rows.extend)
    train(bench, tmp_path, set(range(22, 999)), config=config, sink=sink)
    (alert,) = alerts
    steps = {row["step"] for row in rows}
    assert alert["step"] in steps
    assert alert["step"] + 1 not in steps
    assert {row["layer"] for row in rows if row["step"] == alert["step"]} == {
        row["layer"] for row in rows if "layer" in row
    }
