import sys
import threading
import time
import warnings

import pytest

from jaxprop.errors import UsageError
from jaxprop.sinks import tracker
from jaxprop.sinks.tracker import Tracker, flat, guarded, level, quiet, sentence, starting, title

RECORD = {"step": 5, "split": "train", "loss": 0.5, "best": None, "split_name": "x"}


def told(seen, **changes):
    calls = {
        "log": lambda step, values: seen.append((step, values)),
        "alert": lambda record: seen.append(record["message"]),
        "finish": lambda status, summary: seen.append((status, summary)),
    }
    return Tracker({}, "here", **(calls | changes))


def test_calls_come_in_order_and_the_summary_last():
    seen, warned = [], []
    sink = guarded("sinks.mine", told(seen), layers=True, warn=warned.append)
    sink.write(RECORD)
    sink.layers([{"step": 5, "layer": "a/b", "grad_norm": 1.0}, {"step": 5, "tap": "a", "rms": 2.0}])
    sink.layers([])
    sink.alert({"step": 5, "message": "spike"})
    sink.rewind(2)
    sink.write(RECORD | {"step": 3, "split": "eval"})
    sink.summary({"status": "completed", "step": 5})
    sink.close()
    sink.close()
    sink.write(RECORD)
    assert seen == [
        (5, {"train/loss": 0.5}),
        (5, {"layers/a/b/grad_norm": 1.0, "taps/a/rms": 2.0}),
        "spike",
        (3, {"eval/loss": 0.5}),
        ("completed", {"status": "completed", "step": 5}),
    ]
    assert warned == []


def test_rows_are_sent_only_where_asked_for():
    seen = []
    sink = guarded("sinks.mine", told(seen), layers=False, warn=pytest.fail)
    sink.layers([{"step": 5, "layer": "a", "grad_norm": 1.0}])
    sink.close()
    assert seen == [("failed", {"status": "failed"})]  # as a run ends that does not come to its summary


@pytest.mark.parametrize("error", [OSError("no route\n to host"), SystemExit(3), KeyboardInterrupt()])
def test_a_tracker_that_fails_is_one_warning(error):
    warned, calls = [], []

    def log(step, values):
        calls.append(step)
        raise error

    sink = guarded("sinks.mine", told([], log=log), layers=False, warn=warned.append)
    for step in range(5):
        sink.write(RECORD | {"step": step})
    sink.close()
    assert calls == [0]
    assert warned == [f"warning: sinks.mine: {sentence(error)}; the run goes on without it"]
    assert "\n" not in warned[0]


def test_a_tracker_that_hangs_is_left_behind():
    warned, held = [], threading.Event()
    sink = guarded("sinks.mine", told([], log=lambda *_: held.wait()), layers=False, warn=warned.append, seconds=0.1)
    sink.write(RECORD)
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 30
    held.set()
    assert warned == ["warning: sinks.mine: it has not finished in 0.1 s; the run goes on without it"]


def test_a_tracker_that_falls_behind_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(tracker, "MOST_WAITING", 10)
    warned, held = [], threading.Event()
    sink = guarded("sinks.mine", told([], log=lambda *_: held.wait()), layers=False, warn=warned.append)
    for _ in range(20):
        sink.write(RECORD)
    held.set()
    sink.close()
    assert warned == ["warning: sinks.mine: it is 10 records behind; the run goes on without it"]


def test_a_write_does_not_wait():
    sink = guarded("sinks.mine", told([], log=lambda *_: time.sleep(0.02)), layers=False, warn=pytest.fail)
    began = time.monotonic()
    for _ in range(50):
        sink.write(RECORD)
    assert time.monotonic() - began < 0.5  # 1 s of sleep
    sink.close()


def test_what_a_tracker_prints_stays_off_the_terminal(capsys):
    with quiet():
        print("hello")
        print("hello", file=sys.stderr)
        assert not sys.stdout.isatty()
    assert capsys.readouterr() == ("", "")


def test_the_warnings_of_a_tracker_end_nothing():
    with starting("sinks.mine", "mine"):
        warnings.warn("old", DeprecationWarning, stacklevel=1)


def test_an_error_at_the_start_is_one_sentence():
    with (
        pytest.raises(
            UsageError, match=r"^sinks.mine: mine has not begun a run \(OSError: no route\); see to that"
        ) as e,
        starting("sinks.mine", "mine"),
    ):
        raise OSError("no route.\nmore")
    assert e.value.exit_code == 2


def test_names():
    assert flat({"a": {"b": {"c": 1}}, "d": None}, "/") == {"a/b/c": 1}
    assert title({"action": "rollback", "kind": "spike", "message": ""}) == "rollback"
    assert len(title({"kind": "spike", "layer": "l" * 100})) < 64  # W&B takes no longer one
    assert [level(one) for one in ({"action": "clip"}, {"severity": "act"}, {})] == ["INFO", "ERROR", "WARN"]
    assert len(sentence(OSError("x" * 9000))) < 400
