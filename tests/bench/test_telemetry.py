"""What can be read of a device and of the process."""

import os
import subprocess
import sys

import pytest

from jaxprop.bench import telemetry

BUSY = """
import os, time
os.sched_setaffinity(0, {{{core}}})
end = time.monotonic() + 60
while time.monotonic() < end: pass
"""
MEASURED = """
import os, time
from jaxprop.bench.telemetry import beside
os.sched_setaffinity(0, {{{core}}})
facts = {{}}
for _ in range(2):
    with beside(facts):
        end = time.monotonic() + 0.4
        while time.monotonic() < end: pass
print(facts["waited_seconds"], facts["others_seconds"])
"""


@pytest.mark.skipif(telemetry.waited() is None, reason="the kernel does not say how long threads have waited")
def test_waiting_for_a_core_is_counted():
    """Two processes on one core: one of them waits while the other runs."""
    core = max(os.sched_getaffinity(0))
    other = subprocess.Popen([sys.executable, "-c", BUSY.format(core=core)])
    try:
        ran = subprocess.run(
            [sys.executable, "-c", MEASURED.format(core=core)], capture_output=True, text=True, check=True
        )
    finally:
        other.kill()
        other.wait()
    waited, others = map(float, ran.stdout.split())
    assert 0.05 < waited < 0.8 + 0.1
    assert waited <= others


def test_a_kernel_that_does_not_say_is_no_error(monkeypatch):
    for text in ("", "1 x 3"):
        monkeypatch.setattr(telemetry, "_text", lambda _, text=text: text)
        facts = {"clock_mhz": 1.0}
        with telemetry.beside(facts):
            pass
        assert telemetry.waited() is None
        assert facts == {"clock_mhz": 1.0}


def test_threads_that_wait_for_each_other_do_not_count(monkeypatch):
    waits, used = iter([0.0, 5.0]), iter([10.0, 10.0])
    monkeypatch.setattr(telemetry, "waited", lambda: next(waits))
    monkeypatch.setattr(telemetry, "_used", lambda: next(used))
    facts = {"waited_seconds": 1.0}
    with telemetry.beside(facts):
        pass
    assert facts == {"waited_seconds": 1.0, "others_seconds": 0.0}
