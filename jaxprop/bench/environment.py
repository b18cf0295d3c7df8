"""Where figures come from: devices, host, versions, flags and commit. Nothing that names a person or a computer."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import jax

from jaxprop.bench.document import Environment, Fact
from jaxprop.bench.telemetry import driver_version
from jaxprop.core.datasheet import sheet_of
from jaxprop.run.allocator import allocator_in_use
from jaxprop.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")  # and those of JAX
SETTINGS = ("jax_default_matmul_precision", "jax_enable_x64", "jax_disable_jit", "jax_debug_nans")


def environment(devices: list[jax.Device]) -> Environment:
    """Describes where this process measures.

    Args:
      devices: those that are measured.

    Example:
      >>> environment(jax.devices("cpu")[:1]).devices[0]["platform"]
      'cpu'
    """
    return Environment(
        devices=[_device(device) for device in devices],
        host=_host(),
        versions=_versions(devices[0]),
        flags=_flags(),
        commit=_commit(Path.cwd()),
    )


def _device(device: jax.Device) -> dict[str, Fact]:
    sheet = sheet_of(device)
    return {
        "kind": device.device_kind,
        "platform": device.platform,
        "counts_as": sheet.counts_as if sheet else "one device of JAX",
        "memory_bytes": memory_limit(device),
    }


def memory_limit(device: jax.Device) -> int | None:
    """Bytes that JAX may take of a device's memory, or None where the device does not say."""
    return (device.memory_stats() or {}).get("bytes_limit")


def cpu_name() -> str:
    """The processor's name as the kernel gives it."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def last_cache_bytes() -> int | None:
    """Size of the host's last cache, or None where the kernel does not say.

    Example:
      >>> (last_cache_bytes() or 1) > 0
      True
    """
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = "".join(_lines(path)).strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 0)
        if unit and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * unit)
    return max(sizes, default=None)


def _host() -> dict[str, Fact]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in os.sysconf_names else None
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "affinity": ",".join(map(str, cores)) or None,
        "memory_bytes": pages,
        "last_cache_bytes": last_cache_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "allocator": allocator_in_use(),
    }


def _versions(device: jax.Device) -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version(), "jaxprop": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    runtime = " ".join(str(getattr(device.client, "platform_version", "")).split())
    return found | {"driver": driver_version(device), "runtime": runtime[:200] or None}


def _flags() -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if name in VARIABLES or name.startswith("JAX_")}
    # Paths may name a person.
    variables = {name: value for name, value in variables.items() if os.sep not in value}
    # Set by the command line itself, and without effect on what is measured.
    variables = {name: value for name, value in variables.items() if not name.startswith("JAX_PERSISTENT_CACHE")}
    settings = {name: getattr(jax.config, name) for name in SETTINGS if getattr(jax.config, name, None)}
    return dict(sorted(variables.items())) | {name: str(value) for name, value in settings.items()}


def _commit(folder: Path) -> str | None:
    """The commit of the project in a folder, with `+` where files were changed."""
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
