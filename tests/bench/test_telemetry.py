"""`bench/telemetry.py`: clock, temperature and power, where they can be read."""

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
