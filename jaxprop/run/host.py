"""What a process may use of its machine: cores and memory. Loads no jax."""

from __future__ import annotations

import os
from pathlib import Path


def cores() -> int:
    """Returns how many cores this process may run on.

    Example:
      >>> cores() >= 1
      True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_bytes() -> int | None:
    """Returns the memory that is free to be used, or None where the kernel does not say."""
    return _kilobytes("/proc/meminfo", "MemAvailable")


def resident_bytes() -> int | None:
    """Returns the memory that this process takes, or None where the kernel does not say."""
    return _kilobytes("/proc/self/status", "VmRSS")


def _kilobytes(path: str, name: str) -> int | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else None
