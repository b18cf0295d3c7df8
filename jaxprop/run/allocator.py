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


def environment_with(library: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment in which a process starts with an allocator that keeps its pages.

    Args:
      library: path of the allocator.
      environment: whose own settings of allocators stay.

    Example:
      >>> environment_with("/lib/libjemalloc.so.2", {"HOME": "/h"})["LD_PRELOAD"]
      '/lib/libjemalloc.so.2'
    """
    return {**SETTINGS, **environment, "LD_PRELOAD": library}


def restart_with_allocator(command: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Starts this program anew with an allocator that keeps freed memory, where one is installed; else returns.

    Call it first in a program of your own: what ran before runs again. The process keeps its number, its terminal and
    its signals. In a notebook or another interactive session nothing happens.

    Args:
      command: arguments of the Python interpreter; default: those that this program was started with.
      environment: of the process; default: `os.environ`.

    Example:
      >>> restart_with_allocator(environment={"JAXPROP_ALLOCATOR": "off"})  # nothing happens
    """
    environment = os.environ if environment is None else environment
    library = find_allocator(environment)
    if library is None or not sys.executable:
        return
    if command is None:
        if hasattr(sys, "ps1") or "ipykernel" in sys.modules or not sys.argv[0]:
            return  # there is no program that could begin again
        command = sys.orig_argv[1:]
    os.execve(sys.executable, [sys.executable, *command], environment_with(library, environment))
