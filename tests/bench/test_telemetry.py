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
from jaxprop.bench.telemetry import waited
os.sched_setaffinity(0, {{{core}}})
before, end = waited(), time.monotonic() + 0.6
while time.monotonic() < end: pass
print(waited() - before)
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
    assert 0.05 < float(ran.stdout) < 1.2


def test_a_kernel_that_does_not_say_is_no_error(monkeypatch):
    monkeypatch.setattr(telemetry, "_text", lambda _: "")
    assert telemetry.waited() is None
    monkeypatch.setattr(telemetry, "_text", lambda _: "1 x 3")
    assert telemetry.waited() is None
    monkeypatch.setattr(telemetry, "_text", lambda _: "1 5000000000 3")
    assert telemetry.waited() is None or telemetry.waited() >= 5
