"""What counts as training, and what a call takes."""

import itertools
import time
from types import SimpleNamespace

import pytest

from jaxprop.config.build import build
from jaxprop.run import clock
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


@pytest.fixture
def wait(monkeypatch):
    """A function that waits by setting the clock on, so that a busy machine changes nothing."""
    now = [0.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_call_among_many_is_timed_without_the_first(wait):
    durations = itertools.chain([64.0], itertools.repeat(0.25))
    assert seconds_a_call(lambda: wait(next(durations))) == 0.25


def test_waiting_for_batches_is_counted_but_for_the_first(wait):
    def batches():
        for number, seconds in enumerate((4.0, 0.0, 2.0)):
            wait(seconds)
            yield number

    kept = Clock()
    assert kept.wait_share() is None
    kept.resume()
    for _ in kept.waited(batches()):
        wait(1.0)
    kept.pause()
    assert kept.waiting == 2.0
    assert kept.wait_share() == 2.0 / kept.seconds


# -- the wall clock -------------------------------------------------------------------------------

DECADE = 10 * 365.25 * 86400


@pytest.mark.parametrize("jumps", [(0, DECADE), (DECADE, -DECADE, 0)], ids=["on", "to and fro"])
def test_a_wall_clock_that_jumps_by_ten_years_changes_no_duration_and_no_record(tmp_path, monkeypatch, jumps):
    """Each time that anybody asks for it. How a save takes it is a matter of the checkpoints."""
    write_arrays(tmp_path)
    run = {**sections(tmp_path)["run"], "stop": {"minutes": 60}}
    config = build(
        sections(tmp_path, checkpoint={"enabled": False}, sinks={"tensorboard": True, "console": False}, run=run)
    )
    whole = train(config, tmp_path / "whole", quiet=True)
    real, asked = (time.time, time.time_ns), itertools.cycle(jumps)
    monkeypatch.setattr(time, "time", lambda: real[0]() + next(asked))
    monkeypatch.setattr(time, "time_ns", lambda: real[1]() + int(next(asked) * 1e9))
    ran = train(config, tmp_path / "run", quiet=True)
    assert ran.exit_code == 0
    assert 0 < ran.summary["seconds"] < 1000
    assert (ran.summary["stopped"], ran.summary["best"]) == (None, whole.summary["best"])
    assert records(tmp_path / "run") == records(tmp_path / "whole")
