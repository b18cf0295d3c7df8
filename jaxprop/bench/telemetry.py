"""Clock, temperature, power and throttling of a device, where they can be read. Everything is optional.

NVIDIA's library is asked through `nvidia-ml-py`; a CPU through files of the kernel. What cannot be read is left out.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxprop.bench.document import Fact

INTERVAL = 0.25  # seconds between two readings while something runs
THROTTLES = {  # bits that NVIDIA's library reports, of those that slow a busy card down
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x20: "thermal limit of the software",
    0x40: "thermal limit of the hardware",
    0x80: "power brake",
}


class Reading(NamedTuple):
    """One look at a device; None is what cannot be read.

    Args:
      clock: MHz.
      temperature: degrees Celsius.
      power: W.
      energy: J since some start; its difference is what was used.
      throttled: why the clock is held down, or an empty text.
    """

    clock: float | None = None
    temperature: float | None = None
    power: float | None = None
    energy: float | None = None
    throttled: str = ""


def read(device: jax.Device) -> Reading:
    """Reads what there is of a device.

    Args:
      device: an NVIDIA card or the host's CPU; of others nothing can be read.

    Example:
      >>> isinstance(read(jax.devices("cpu")[0]), Reading)
      True
    """
    handle = _nvml(device)
    if handle is not None:
        return _read_nvml(*handle)
    return _read_host() if is_host(device) else Reading()


def is_host(device: jax.Device) -> bool:
    """Whether a device is the host's own processor."""
    return device.device_kind.lower() == "cpu"


def missing(device: jax.Device) -> str:
    """What cannot be read of a device and how to change that, or an empty text."""
    found = read(device)
    names = {"clock": found.clock, "temperature": found.temperature, "power": found.power or found.energy}
    unread = [name for name, value in names.items() if value is None]
    if not unread:
        return ""
    fix = ""
    if "NVIDIA" in device.device_kind.upper():
        fix = "; `pip install nvidia-ml-py` reads them"
    elif is_host(device) and "power" in unread and Path("/sys/class/powercap/intel-rapl:0").exists():
        fix = "; power can be read as root"
    return f"{' and '.join(unread)} cannot be read{fix}"


def driver_version(device: jax.Device) -> str | None:
    """The version of the device's driver, or None."""
    handle = _nvml(device)
    if handle is None:
        return None
    with contextlib.suppress(Exception):
        found = handle[0].nvmlSystemGetDriverVersion()
        return found.decode() if isinstance(found, bytes) else str(found)
    return None


def busy(device: jax.Device) -> str:
    """Says who else uses a device, or an empty text; to be asked before anything is measured.

    Args:
      device: that is about to be measured.
    """
    handle = _nvml(device)
    if handle is not None:
        share = _tried(lambda: handle[0].nvmlDeviceGetUtilizationRates(handle[1]).gpu)
        return f"another process uses {share} % of the card" if share and share > 10 else ""
    if not is_host(device):
        return ""
    share = _host_load()
    return f"other processes use {share:.0%} of the processor" if share > 0.15 else ""


@contextlib.contextmanager
def watch(device: jax.Device, into: dict[str, Fact]) -> Iterator[None]:
    """Reads a device every quarter of a second while the block runs, and writes means and joules into a dict.

    Args:
      device: that the block keeps busy.
      into: gets `clock_mhz`, `temperature_c`, `power_w`, `joules` and `throttled`, as far as they can be read.
    """
    first = read(device)
    if first == Reading():
        yield
        return
    readings, over = [first], threading.Event()

    def keep_reading() -> None:
        while not over.wait(INTERVAL):
            readings.append(read(device))

    thread = threading.Thread(target=keep_reading, daemon=True)
    start = time.monotonic()
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        readings.append(read(device))
        into.update(summary(readings, time.monotonic() - start))


def summary(readings: list[Reading], seconds: float) -> dict[str, Fact]:
    """Means of what was read, the joules between the first and the last reading, and each reason for throttling.

    Args:
      readings: in the order of time.
      seconds: between the first and the last.

    Example:
      >>> found = summary([Reading(energy=1.0, power=5.0), Reading(energy=21.0, power=7.0)], 4.0)
      >>> found["joules"], found["power_w"]
      (20.0, 5.0)
    """
    found: dict[str, Fact] = {}
    for name, field in (("clock_mhz", "clock"), ("temperature_c", "temperature"), ("power_w", "power")):
        values = [value for one in readings if (value := getattr(one, field)) is not None]
        if values:
            found[name] = round(sum(values) / len(values), 1)
    energies = [one.energy for one in readings if one.energy is not None]
    if len(energies) > 1 and energies[-1] > energies[0]:  # a counter that wraps says nothing
        found["joules"] = round(energies[-1] - energies[0], 3)
        found["power_w"] = round((energies[-1] - energies[0]) / seconds, 1)
    reasons = sorted({one.throttled for one in readings if one.throttled})
    return found | ({"throttled": ", ".join(reasons)} if reasons else {})


@contextlib.contextmanager
def beside(device: jax.Device, into: dict[str, Fact]) -> Iterator[None]:
    """Adds up how far other processes use the processor while the block runs, as far as the kernel tells it.

    Args:
      device: that the block keeps busy.
      into: `waited_seconds` grows by the time for which threads of this process waited for a core that another process
        had, and, if the device is the host's CPU, `others_seconds` by the processor time of other processes.
    """
    waits, used, own = waited(), _used(), time.process_time()
    yield
    waits_after, used_after = waited(), _used()
    if used is None or used_after is None:
        return
    others = max(used_after - used - (time.process_time() - own), 0.0)
    found = {"others_seconds": others} if is_host(device) else {}
    if waits is not None and waits_after is not None:
        # Threads also wait for each other, and for a quota; what waits for others is no more than they have used.
        found["waited_seconds"] = min(max(waits_after - waits, 0.0), others)
    for name, seconds in found.items():
        into[name] = round(float(into.get(name) or 0.0) + seconds, 6)


def waited() -> float | None:
    """Seconds that the threads of this process have waited for a core, or None where the kernel does not say.

    Example:
      >>> (waited() or 0.0) >= 0
      True
    """
    found = [_text(path).split() for path in Path("/proc/self/task").glob("*/schedstat")]
    waits = [int(fields[1]) for fields in found if len(fields) == 3 and fields[1].isdigit()]
    return sum(waits) / 1e9 if waits else None


def _used() -> float | None:
    """Seconds that all cores together have been used since the start, by anyone."""
    ticks = _ticks()
    return ticks[0] / os.sysconf("SC_CLK_TCK") if ticks else None


# -- NVIDIA ---------------------------------------------------------------------------------------


@cache
def _nvml(device: jax.Device) -> tuple[Any, Any] | None:
    """The library and the card's handle, matched by the address on the bus where both tell it, else by number."""
    if "NVIDIA" not in device.device_kind.upper():
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(getattr(device, "local_hardware_id", None) or 0)
    except Exception:  # not installed, no such library, or no such card
        return None


def _read_nvml(nvml: Any, handle: Any) -> Reading:
    reasons = _tried(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0
    return Reading(
        clock=_tried(lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
        temperature=_tried(lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
        power=_tried(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
        energy=_tried(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3),
        throttled=", ".join(text for bit, text in THROTTLES.items() if reasons & bit),
    )


def _tried(ask: Any) -> Any:
    try:
        return ask()
    except Exception:  # the library raises classes of its own where a card does not have the figure
        return None


# -- the host -------------------------------------------------------------------------------------


def _read_host() -> Reading:
    clocks = [float(line.split(":")[1]) for line in _text("/proc/cpuinfo").splitlines() if line.startswith("cpu MHz")]
    zones = [_number(path / "temp") for path in Path("/sys/class/thermal").glob("thermal_zone*")]
    packages = [_number(path / "energy_uj") for path in Path("/sys/class/powercap").glob("intel-rapl:?")]
    temperatures = [value / 1e3 for value in zones if value]
    energies = [value / 1e6 for value in packages if value]
    return Reading(
        clock=sum(clocks) / len(clocks) if clocks else None,
        temperature=max(temperatures, default=None),
        energy=sum(energies) if energies else None,
    )


def _host_load(seconds: float = 0.5) -> float:
    """Share of the processor's time that is used while this process sleeps."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if before is None or after is None or after[1] <= before[1]:
        return 0.0
    return (after[0] - before[0]) / (after[1] - before[1])


def _ticks() -> tuple[int, int] | None:
    """Ticks used and ticks in all since the start, over all cores."""
    fields = _text("/proc/stat").partition("\n")[0].split()[1:9]
    if len(fields) < 5:
        return None
    ticks = [int(field) for field in fields]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # less idle and waiting for disks


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    text = _text(path).strip()
    return float(text) if text.lstrip("-").isdigit() else None
