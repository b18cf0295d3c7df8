"""`bench/telemetry.py`: clock, temperature and power, where they can be read."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import pytest

from jaxprop.bench import telemetry
from jaxprop.bench.telemetry import Reading

CPU = jax.devices()[0]


class Nvml:
    """Stands for NVIDIA's library with one card."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    def __init__(self):
        self.joules = 0

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlSystemGetDriverVersion(self):
        return b"580.1"

    def nvmlDeviceGetUtilizationRates(self, _):
        return SimpleNamespace(gpu=60)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _):
        return 0x4 | 0x40

    def nvmlDeviceGetClockInfo(self, *_):
        return 1980

    def nvmlDeviceGetTemperature(self, *_):
        raise RuntimeError("not supported on this card")

    def nvmlDeviceGetPowerUsage(self, _):
        return 700_000

    def nvmlDeviceGetTotalEnergyConsumption(self, _):
        self.joules += 350_000
        return self.joules


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    telemetry._nvml.cache_clear()
    yield SimpleCard("NVIDIA H100 80GB HBM3")
    telemetry._nvml.cache_clear()


class SimpleCard:
    def __init__(self, kind):
        self.device_kind, self.local_hardware_id = kind, 0


def test_a_card_is_read_as_far_as_it_can_be(card):
    assert telemetry.read(card) == Reading(1980.0, None, 700.0, 350.0, "power limit, thermal limit of the hardware")
    assert telemetry.driver_version(card) == "580.1"
    assert telemetry.busy(card) == "another process uses 60 % of the card"
    assert telemetry.missing(card).startswith("temperature cannot be read")


def test_without_the_library_nothing_is_read_and_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    telemetry._nvml.cache_clear()
    card = SimpleCard("NVIDIA H100 80GB HBM3")
    assert telemetry.read(card) == Reading()
    assert "pip install nvidia-ml-py" in telemetry.missing(card)
    assert telemetry.driver_version(card) is None
    telemetry._nvml.cache_clear()


def test_while_a_block_runs_means_are_written(card, monkeypatch):
    monkeypatch.setattr(telemetry, "INTERVAL", 0.01)
    facts = {}
    with telemetry.watch(card, facts):
        time.sleep(0.05)
    assert facts["clock_mhz"] == 1980.0
    assert facts["joules"] >= 350.0
    assert "temperature_c" not in facts
    assert facts["throttled"] == "power limit, thermal limit of the hardware"


def test_a_device_of_which_nothing_can_be_read_is_no_error():
    facts = {}
    with telemetry.watch(SimpleCard("Some Future Chip"), facts):
        pass
    assert facts == {}
    assert telemetry.missing(SimpleCard("Some Future Chip")) == "clock and temperature and power cannot be read"
    assert telemetry.busy(SimpleCard("Some Future Chip")) == ""


def test_the_host(monkeypatch):
    texts = {"/proc/cpuinfo": "cpu MHz\t\t: 2000.0\ncpu MHz\t\t: 3000.0\n"}
    monkeypatch.setattr(telemetry, "_text", lambda path: texts.get(str(path), ""))
    assert telemetry.read(CPU).clock == 2500.0


def test_others_on_the_host_are_noticed(monkeypatch):
    ticks = iter([(100, 200), (180, 300)])
    monkeypatch.setattr(telemetry, "_ticks", lambda: next(ticks))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert telemetry.busy(CPU) == "other processes use 80% of the processor"


# -- what runs beside --------------------------------------------------------------------------------

BUSY = """
import os, time
os.sched_setaffinity(0, {{{core}}})
end = time.monotonic() + 60
while time.monotonic() < end: pass
"""
MEASURED = """
import os, time
import jax
from jaxprop.bench.telemetry import beside
os.sched_setaffinity(0, {{{core}}})
facts = {{}}
for _ in range(2):
    with beside(jax.devices()[0], facts):
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
        with telemetry.beside(CPU, facts):
            pass
        assert telemetry.waited() is None
        assert facts == {"clock_mhz": 1.0}


def test_threads_that_wait_for_each_other_do_not_count(monkeypatch):
    waits, used = iter([0.0, 5.0]), iter([10.0, 10.0])
    monkeypatch.setattr(telemetry, "waited", lambda: next(waits))
    monkeypatch.setattr(telemetry, "_used", lambda: next(used))
    facts = {"waited_seconds": 1.0}
    with telemetry.beside(CPU, facts):
        pass
    assert facts == {"waited_seconds": 1.0, "others_seconds": 0.0}


def test_of_an_accelerator_only_the_waiting_counts(monkeypatch):
    waits, used = iter([0.0, 5.0]), iter([10.0, 30.0])
    monkeypatch.setattr(telemetry, "waited", lambda: next(waits))
    monkeypatch.setattr(telemetry, "_used", lambda: next(used))
    facts = {}
    with telemetry.beside(SimpleNamespace(device_kind="TPU v4"), facts):
        pass
    assert facts == {"waited_seconds": 5.0}
