"""What counts as training, and what a call takes."""

import itertools
import time

import pytest

from jaxprop.config.build import build
from jaxprop.run.clock import Clock, seconds_a_call, timed
from jaxprop.run.train import train
from tests.benches import records
from tests.run.trained import sections, write_arrays


def test_the_clock_takes_off_what_is_not_training(monkeypatch):
    now = iter([0.0, 1.0, 5.0, 5.0, 7.0, 7.0, 10.0, 11.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock()  # 0
    clock.compiled(lambda x: x, 1)  # pauses at 1, has compiled at 5, goes on at 5
    clock.examples += 20
    assert clock.rate() == 20 / 3  # at 7: 1 + 2 seconds
    clock.pause()  # 7
    clock.resume()  # 10, after an evaluation
    clock.examples += 5
    assert clock.rate() == 5.0  # at 11
    assert (clock.compile_seconds, clock.seconds, clock.examples) == (4.0, 4.0, 25)


def test_a_timed_call_waits_for_its_end():
    out, seconds = timed(lambda x: time.sleep(0.02) or x, 3)
    assert out == 3
    assert seconds >= 0.02


def test_a_call_among_many_is_timed_without_the_first():
    calls = []

    def call():
        calls.append(time.sleep(0.2 if not calls else 0.001))

    assert 0.001 <= seconds_a_call(call) < 0.1


def test_waiting_for_batches_is_counted_but_for_the_first():
    def batches():
        for number, seconds in enumerate((0.05, 0.0, 0.02)):
            time.sleep(seconds)
            yield number

    clock = Clock()
    assert clock.wait_share() is None
    clock.resume()
    assert list(clock.waited(batches())) == [0, 1, 2]
    clock.pause()
    assert 0.02 <= clock.waiting < 0.05
    assert clock.wait_share() == clock.waiting / clock.seconds


# -- the wall clock -------------------------------------------------------------------------------

DECADE = 10 * 365.25 * 86400


@pytest.mark.timeout(600)
@pytest.mark.parametrize("jumps", [(0, DECADE), (0, -DECADE), (DECADE, -DECADE, 0)], ids=["on", "back", "to and fro"])
def test_a_wall_clock_that_jumps_by_ten_years_changes_nothing(tmp_path, monkeypatch, jumps):
    """Each time that anybody asks for it, also during a save, and across a stop and a resume."""
    write_arrays(tmp_path)
    config = build(sections(tmp_path, checkpoint={"every_steps": 2}, sinks={"tensorboard": True, "console": False}))
    whole = train(config, tmp_path / "whole", quiet=True)
    real, asked = (time.time, time.time_ns), itertools.cycle(jumps)
    monkeypatch.setattr(time, "time", lambda: real[0]() + next(asked))
    monkeypatch.setattr(time, "time_ns", lambda: real[1]() + int(next(asked) * 1e9))
    run = {**sections(tmp_path)["run"], "stop": {"minutes": 60}}
    short = build(sections(tmp_path, checkpoint={"every_steps": 2}, run={**run, "steps": 8}))
    assert train(short, tmp_path / "run", quiet=True).exit_code == 0
    ran = train(config.model_copy(update={"run": config.run}), tmp_path / "run", quiet=True)
    assert ran.exit_code == 0
    assert 0 < ran.summary["seconds"] < 1000
    assert ran.summary["best"] == whole.summary["best"]
    assert ran.summary["stopped"] is None
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    kept = [sorted(int(p.name) for p in (tmp_path / name / "checkpoints").iterdir()) for name in ("run", "whole")]
    assert kept[0] == kept[1]
