"""What a process may use of its machine: cores and memory. Loads no jax."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


def cores() -> int:
    """Returns how many cores this process may run on.

    Example:
      >>> cores() >= 1
      True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_bytes(root: Path = Path("/")) -> int | None:
    """Returns the memory that is free to be used, within the limits of a container too; None where nothing says.

        min(MemAvailable, limit - used + files that can be dropped), over the control groups that hold this process

    Args:
      root: under which `proc` and `sys` lie.

    Reference: Control Group v2, https://docs.kernel.org/admin-guide/cgroup-v2.html.
    """
    known = [_kilobytes(root / "proc/meminfo", "MemAvailable"), *map(_left, _groups(root))]
    return min((one for one in known if one is not None), default=None)


def resident_bytes() -> int | None:
    """Returns the memory that this process takes, or None where the kernel does not say."""
    return _kilobytes(Path("/proc/self/status"), "VmRSS")


class _Group(NamedTuple):
    """The names of a control group's files, by version."""

    folder: Path
    limit: str
    used: str
    files: str


def _groups(root: Path) -> Iterator[_Group]:
    """The control groups that limit this process's memory: its own, and those that hold it."""
    for line in _lines(root / "proc/self/cgroup"):
        _, kinds, path = line.split(":", 2)
        mount = root / "sys/fs/cgroup"
        if kinds == "":
            named = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            mount, named = mount / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = mount / path.strip("/")  # in a container, the path may be that of the host, which is not there
        for folder in (own, *own.parents):
            yield _Group(folder, *named)
            if folder == mount:
                break


def _left(group: _Group) -> int | None:
    try:
        limit, used = (int((group.folder / name).read_text()) for name in (group.limit, group.used))
    except (OSError, ValueError):  # no such group, or "max"
        return None
    files = [line.split()[1] for line in _lines(group.folder / "memory.stat") if line.split()[0] == group.files]
    return max(limit - used + int(files[0] if files else 0), 0)


def _kilobytes(path: Path, name: str) -> int | None:
    found = [line.split()[1] for line in _lines(path) if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
