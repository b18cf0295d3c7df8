"""The choice of steps a call: by what it is made, and that a run keeps it."""

import json
import signal
from functools import partial
from types import SimpleNamespace

import pytest
import yaml

from jaxprop.config.build import build
from jaxprop.run import calls
from jaxprop.run import train as runner
from jaxprop.run.compose import compose
from jaxprop.run.train import train
from tests.benches import BASE, merged

SECTIONS = merged(BASE, {
    "model": {"hidden": [4], "dropout": 0.0, "batch_norm": False},
    "optimizer": {"schedule": {"name": "constant"}},
    "checkpoint": {"every_steps": 4},
    "health": {"every": 1, "rare_every": 100},
    "run": {"steps": 16, "log_every": 4, "eval_every": 8, "accumulate": 1, "ema_decay": None, "steps_per_call": "auto"},
})  # fmt: skip


def configured(**run):
    return build(merged(SECTIONS, {"run": run}))


def experiment(log_every=50, eval_every=None, every_steps=None, steps=None, epoch=23, validation=True, total=1000):
    """What `wanted` looks at."""
    run = SimpleNamespace(log_every=log_every, eval_every=eval_every, steps=steps)
    config = SimpleNamespace(run=run, checkpoint=SimpleNamespace(every_steps=every_steps))
    stream = SimpleNamespace(batches_per_epoch=epoch)
    return SimpleNamespace(config=config, stream=stream, validation=validation or None, total_steps=total)


@pytest.mark.parametrize(
    ("given", "seconds", "size"),
    [
        ({}, 1.0, 1),
        ({"eval_every": 100}, 1.5e-3, 2),  # 0.3 ms of 2 x 1.5 ms
        ({"eval_every": 100}, 1.4e-3, 5),  # the next divisor of 50
        ({"eval_every": 100}, 1e-5, 50),
        ({"eval_every": 35}, 1e-5, 5),
        ({"eval_every": 100, "every_steps": 7}, 1e-5, 1),
        ({"eval_every": 100, "steps": 1010}, 1e-5, 10),
        ({}, 1e-5, 25),  # an epoch of 23 steps would end after 50, which is too far off
        ({"epoch": 3}, 1e-5, 1),
        ({"eval_every": 100, "epoch": 3}, 1e-5, 50),
        ({"validation": False, "every_steps": 100}, 1e-5, 50),
        ({"eval_every": 100, "log_every": 1}, 1e-5, 1),
        ({"eval_every": 500, "log_every": 500}, 1e-6, 100),
        ({"eval_every": 100, "total": 5}, 1e-6, 5),
    ],
)
def test_the_smallest_number_that_fits_the_intervals_and_makes_calls_cheap(given, seconds, size):
    assert calls.wanted(experiment(**given), seconds, batch_bytes=100) == size


def test_the_batches_of_a_call_are_bounded():
    assert calls.wanted(experiment(eval_every=100), 1e-5, batch_bytes=calls.BATCH_BYTES // 12) == 10
    assert calls.wanted(experiment(eval_every=100), 1e-5, batch_bytes=calls.BATCH_BYTES * 2) == 1


@pytest.fixture
def measured(monkeypatch):
    """Stands for the clock: seconds of a step one by one, and in calls of several."""
    seconds = SimpleNamespace(one=1e-3, several=2e-4, asked=[])

    def of(experiment, batch):
        seconds.asked.append(experiment.config.run.per_call)
        return seconds.one if experiment.config.run.per_call == 1 else seconds.several

    monkeypatch.setattr(calls, "_seconds_a_step", of)
    return seconds


def stored(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())["run"]["steps_per_call"]


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "examples_per_second"} for line in lines]


def test_the_choice_is_stored_and_a_run_of_the_stored_configuration_has_the_same_bits(tmp_path, measured, capsys):
    train(configured(), tmp_path / "auto")
    assert stored(tmp_path / "auto") == 4
    assert measured.asked == [1, 4]
    said = "run.steps_per_call: auto has chosen 4 steps a call: 0.2 ms a step, 1.3 ms one by one; config.yaml stores it"
    assert said in capsys.readouterr().err
    again = build(yaml.safe_load((tmp_path / "auto" / "config.yaml").read_text()))
    train(again, tmp_path / "again", quiet=True)
    assert measured.asked == [1, 4]
    assert rows(tmp_path / "again") == rows(tmp_path / "auto")


def test_a_run_that_goes_on_keeps_its_choice_whatever_would_be_measured_now(tmp_path, measured, monkeypatch):
    train(configured(steps_per_call=4), tmp_path / "whole", quiet=True)
    real, stop_at = runner.Recorder.take, [8]

    def take(self, step, size, batch):
        if step == stop_at[0]:
            signal.raise_signal(signal.SIGINT)
        return real(self, step, size, batch)

    monkeypatch.setattr(runner.Recorder, "take", take)
    assert train(configured(), tmp_path / "parts", quiet=True).summary["step"] == 8
    stop_at[0], measured.one = 0, 1.0  # a busy machine: one step a call would be chosen
    assert train(configured(), tmp_path / "parts", quiet=True).summary["status"] == "completed"
    assert measured.asked == [1, 4]
    assert stored(tmp_path / "parts") == 4
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    # It is complete, and asked for once more there is nothing to measure.
    assert train(configured(), tmp_path / "parts", quiet=True).summary["status"] == "completed"
    assert measured.asked == [1, 4]


def test_a_start_over_measures_anew(tmp_path, measured):
    train(configured(), tmp_path / "run", quiet=True)
    measured.one = 1.0
    train(configured(), tmp_path / "run", quiet=True, fresh=True)
    assert stored(tmp_path / "run") == 1


def test_calls_of_several_that_are_not_faster_are_not_taken(tmp_path, measured):
    measured.several = 1.3e-3
    train(configured(), tmp_path / "run", quiet=True)
    assert measured.asked == [1, 4]
    assert stored(tmp_path / "run") == 1


def test_a_number_is_taken_as_it_is(measured):
    config = configured(steps_per_call=2)
    made = calls.composed(config, lambda config, sources: config)
    assert (made.experiment, made.notes, measured.asked) == (config, [], [])


def test_the_step_itself_is_timed(tmp_path):
    """Without a stand-in for the clock; what is chosen is the machine's affair."""
    config = configured(steps=4)
    made = calls.composed(config, partial(runner._composed, compose))
    size = made.experiment.config.run.steps_per_call
    assert size in (1, 2, 4)
    assert f"auto has chosen {'one step' if size == 1 else f'{size} steps'} a call" in made.notes[0]
    assert len(made.experiment.step.compilations) == 1  # and is the run's own program


def test_a_folder_without_a_run_has_chosen_nothing(tmp_path):
    assert calls.as_before(configured(), tmp_path / "none").run.steps_per_call == "auto"
    (tmp_path / "config.yaml").write_text("run: {steps_per_call: [1]}")
    assert calls.as_before(configured(), tmp_path).run.steps_per_call == "auto"
    (tmp_path / "config.yaml").write_text("run: {epochs: 1}")
    assert calls.as_before(configured(), tmp_path).run.steps_per_call == 1
    assert calls.as_before(configured(steps_per_call=2), tmp_path).run.steps_per_call == 2
