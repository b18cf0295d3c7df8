"""An allocator that keeps its pages, for runs on CPU: found where one is installed, never required. Loads no jax.

XLA allocates the temporaries of a step anew in each call. The allocator of the C library hands large blocks back to the
kernel, which has to fill each page with zeros when it is next touched. jemalloc, tcmalloc and mimalloc keep the pages.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

VARIABLE = "JAXPROP_ALLOCATOR"  # `off` leaves the allocator alone; a path names one
LIBRARIES = ("libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2", "libmimalloc.so")
NAMES = ("jemalloc", "tcmalloc", "mimalloc")
# What each reads at its start to keep pages for as long as the process lives.
SETTINGS = {
    "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1",
    "TCMALLOC_RELEASE_RATE": "0",
    "MIMALLOC_PURGE_DELAY": "-1",
}


def allocator_in_use() -> str:
    """Returns the name of the allocator that this process runs with, `system` for the C library's.

    Example:
      >>> allocator_in_use() in ("system", "jemalloc", "tcmalloc", "mimalloc")
      True
    """
    try:
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "system"
    return next((name for name in NAMES if f"lib{name}" in loaded), "system")


def find_allocator(environment: Mapping[str, str]) -> str | None:
    """Returns the path of an installed allocator, or None where there is none to be loaded.

    Args:
      environment: with `JAXPROP_ALLOCATOR`: `off`, or the path of a library.

    Example:
      >>> find_allocator({"JAXPROP_ALLOCATOR": "off"}) is None
      True
    """
    wish = environment.get(VARIABLE, "")
    if wish == "off" or not sys.platform.startswith("linux") or "LD_PRELOAD" in environment:
        return None
    if wish:
        return wish if Path(wish).is_file() else None
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    folders = [Path(sys.prefix) / "lib", Path(sysconfig.get_path("purelib")) / "cmeel.prefix" / "lib"]
    folders += [Path(root) / triplet for root in ("/usr/lib", "/lib")] + [Path("/usr/lib64"), Path("/usr/local/lib")]
    found = (folder / name for name in LIBRARIES for folder in folders)
    return next((str(path) for path in found if path.is_file()), None)


def restart_with_allocator(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Replaces this process by itself with an allocator loaded, where one is at hand; else returns.

    The process keeps its number, its terminal and its signals.

    Args:
      command: the arguments of the command line.
      environment: of the process.
    """
    library = find_allocator(environment)
    if library is None or not sys.executable:
        return
    settings = {name: environment.get(name, value) for name, value in SETTINGS.items()}
    changed = {**environment, **settings, "LD_PRELOAD": library}
    os.execve(sys.executable, [sys.executable, "-m", "jaxprop", *command], changed)
