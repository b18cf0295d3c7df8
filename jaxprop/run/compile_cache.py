"""The folder of compiled programs that commands keep between runs: the user's own, bounded, never a reason to fail.

It is jax's persistent compilation cache, set by environment variables before jax loads. What is read from it is run, so
the folder has to be one that nobody else can write to. Loads no jax.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import platform
import re
import stat
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.run.host import cores

VARIABLE = "JAXPROP_COMPILE_CACHE"  # `off` keeps nothing; a path names another folder
FOLDER = "JAX_COMPILATION_CACHE_DIR"  # jax's own, which goes first
SWITCH = "JAX_ENABLE_COMPILATION_CACHE"
SETTINGS = {  # every program is kept, however quickly it was compiled
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
PREFIX = "compiled-"
MOST_BYTES = 512 << 20  # beyond, the programs that were not used for longest are removed when a command starts
ROOM = 0.8  # share of it that is left then, so that not every start has to remove some
CPU_LINES = ("vendor_id", "cpu family", "model", "model name", "flags", "CPU implementer", "CPU part", "Features")
FAILED = re.compile(r"Error (reading|writing) persistent compilation cache entry for '([^'/]+)': (.*)", re.DOTALL)


class CompileCache(NamedTuple):
    """Where compiled programs are kept.

    Args:
      folder: of this machine's programs, or None where none are kept.
      ours: whether jaxprop makes, checks and bounds the folder.
      why: the reason where it is not ours.
    """

    folder: Path | None
    ours: bool
    why: str


def find_cache(environment: Mapping[str, str]) -> CompileCache:
    """Returns where compiled programs are to be kept; makes nothing.

    Args:
      environment: of the process.

    Example:
      >>> find_cache({"JAXPROP_COMPILE_CACHE": "off"})
      CompileCache(folder=None, ours=False, why='JAXPROP_COMPILE_CACHE=off')
    """
    if environment.get(SWITCH, "").lower() in ("0", "false", "off", "no", "n", "f"):
        return CompileCache(None, False, f"{SWITCH}={environment[SWITCH]}")
    if environment.get(FOLDER):
        return CompileCache(Path(environment[FOLDER]), False, f"as {FOLDER} says")
    wish, base = environment.get(VARIABLE, ""), environment.get("XDG_CACHE_HOME", "")
    if wish.lower() == "off":
        return CompileCache(None, False, f"{VARIABLE}={wish}")
    try:
        # A base folder that is not absolute is to be ignored, by the specification of these folders.
        root = Path(base) / "jaxprop" if os.path.isabs(base) else Path.home() / ".cache" / "jaxprop"
        root = Path(os.path.abspath(Path(wish).expanduser())) if wish else root
    except RuntimeError:
        return CompileCache(None, False, "there is no home folder")
    return CompileCache(root / (PREFIX + machine(environment)), True, "")


def machine(environment: Mapping[str, str]) -> str:
    """Returns a short name of what programs for this CPU depend on beyond what jax's own key holds.

    A program for another CPU may use instructions that this one lacks, and one that was compiled for a single core
    stays on it and computes other bits. Neither is part of the key.
    """
    parts = [platform.system(), platform.machine(), str(cores()), environment.get("NPROC", "")]
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if not name.strip():
                    break  # the first core stands for all
                if name.strip() in CPU_LINES:
                    parts.append(" ".join(sorted(value.split())))
    except OSError:
        parts.append(platform.processor())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def open_cache(environment: MutableMapping[str, str], tell: Callable[[str], None]) -> None:
    """Has jax keep compiled programs, where a folder can be had that is the user's alone; else says why not.

    Args:
      environment: of this process; changed. jax reads it when it loads.
      tell: takes a line for a person.
    """
    cache = find_cache(environment)
    if not cache.ours or cache.folder is None:
        return
    problem = make_private(cache.folder.parent) or make_private(cache.folder)
    if problem:
        tell(
            f"compiled programs are not kept: {problem}; {VARIABLE}=DIR names another folder, {VARIABLE}=off keeps none"
        )
        return
    bound(cache.folder.parent, MOST_BYTES)
    environment[FOLDER] = str(cache.folder)
    for name, value in SETTINGS.items():
        environment.setdefault(name, value)
    _mend(cache.folder, tell)


def move_cache(environment: MutableMapping[str, str], tell: Callable[[str], None]) -> None:
    """Has jax keep what is compiled in another folder than the process that started this one, on other cores, did.

    Args:
      environment: of this process, as its parent has left it; changed. jax reads it when it loads.
      tell: takes a line for a person.
    """
    folder = environment.get(FOLDER)
    if not folder:
        return
    if Path(folder).name.startswith(PREFIX):
        del environment[FOLDER]
        open_cache(environment, tell)
    else:  # one that the user has named; jax makes the folder in it
        environment[FOLDER] = os.path.join(folder, f"{cores()}-cores")


def make_private(folder: Path) -> str:
    """Makes a folder that only the user can read, if there is none; returns why it cannot be trusted, or nothing.

    Args:
      folder: made with what is missing above it.
    """
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        return _distrust(folder)
    except OSError as error:
        return f"{folder} cannot be made ({error.strerror})"


def refusal(cache: CompileCache) -> str:
    """Returns why a folder of ours that is there already cannot be trusted, or nothing; makes none."""
    folders = (cache.folder.parent, cache.folder) if cache.ours and cache.folder is not None else ()
    for folder in folders:
        try:
            problem = _distrust(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            problem = f"{folder} cannot be read ({error.strerror})"
        if problem:
            return problem
    return ""


def _distrust(folder: Path) -> str:
    itself, target = folder.lstat(), folder.stat()  # who makes a link decides where it leads
    if not stat.S_ISDIR(target.st_mode):
        return f"{folder} is not a folder"
    user = getattr(os, "geteuid", lambda: target.st_uid)()
    if {itself.st_uid, target.st_uid} != {user}:
        return f"{folder} belongs to another user"
    if target.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to {folder}"
    return "" if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else f"{folder} is not writable"


class Entry(NamedTuple):
    """One file of the cache: its size, and when it was last used, as far as the file system notes it."""

    path: str
    size: int
    used: float


def entries(root: Path) -> Iterator[Entry]:
    """Yields the files of all machines' folders below a cache's own."""
    for folder in root.glob(PREFIX + "*"):
        for path, _, names in os.walk(folder):  # follows no links
            for name in names:
                with contextlib.suppress(OSError):
                    found = os.lstat(os.path.join(path, name))
                    if stat.S_ISREG(found.st_mode):
                        used = max(found.st_atime, found.st_mtime)
                        yield Entry(os.path.join(path, name), found.st_size, used)


def bound(root: Path, most: int) -> None:
    """Removes the files that were not used for longest where all take more than `most` bytes, and those left empty."""
    with contextlib.suppress(OSError):
        kept = sorted(entries(root), key=lambda entry: entry.used)
        total = sum(entry.size for entry in kept)
        goal = most * ROOM if total > most else total
        for entry in kept:
            if total > goal or not entry.size:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
                    total -= entry.size


def usage(cache: CompileCache) -> tuple[int, int]:
    """Returns how many files a cache has, and their bytes."""
    assert cache.folder is not None
    found = list(entries(cache.folder.parent)) if cache.ours else []
    return len(found), sum(entry.size for entry in found)


def _mend(folder: Path, tell: Callable[[str], None]) -> None:
    """Removes entries that turn out to be broken, which jax would find broken at every start, and says so once.

    jax writes in place, so that a full disk or a kill leaves half an entry. It warns, compiles anew, and keeps what is
    there. Where warnings are errors, this one stays a warning.
    """
    usual, told = warnings.showwarning, []

    def show(message: Warning | str, *rest: Any, **options: Any) -> None:
        found = FAILED.match(str(message))
        if found is None:
            usual(message, *rest, **options)
            return
        named = list(folder.glob(f"{glob.escape(found[2])}-*-cache"))
        broken = [path for path in named if not _is_whole(path)]
        for path in broken or named * (found[1] == "reading"):
            with contextlib.suppress(OSError):
                path.unlink()
        if found[1] not in told:
            told.append(found[1])
            verb = "read" if found[1] == "reading" else "kept"
            tell(f"a compiled program could not be {verb} in {folder} ({' '.join(found[3].split())}); the run goes on")

    warnings.filterwarnings("always", message="Error (reading|writing) persistent compilation cache entry")
    warnings.showwarning = show


def _is_whole(path: Path) -> bool:
    try:
        return bool(zlib.decompress(path.read_bytes()))
    except (OSError, zlib.error):
        return False
