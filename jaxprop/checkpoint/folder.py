"""The folder of checkpoints: what in it is one, what is not, and how files and names in it reach the disk."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import time
from pathlib import Path

from jaxprop.untrusted.writes import sync

TRASH, DAMAGED = "todelete", "damaged"
_STAGING, _ORBAX = ".saving-", ".orbax-checkpoint-tmp"
_STEP = re.compile("(?:0|[1-9][0-9]{0,17})", re.ASCII)  # `str.isdecimal` takes digits of every script
_PARTS = ("manifest.json", "state", "run")  # one of which a checkpoint has


def steps_in(folder: Path) -> list[int]:
    """Returns the steps, ascending, whose folder is a checkpoint or what is left of one.

    Args:
      folder: the folder of checkpoints; it need not exist.
    """
    return sorted(int(path.name) for path in _entries(folder) if _is_checkpoint(path))


def strays_in(folder: Path) -> list[str]:
    """Returns the names of what lies among the checkpoints and is none: notes, copies, empty or oddly named folders.

    Args:
      folder: the folder of checkpoints; it need not exist.
    """
    ours = {TRASH, DAMAGED}
    names = [path.name for path in _entries(folder) if not _is_checkpoint(path)]
    return sorted(name for name in names if name not in ours and not name.startswith("."))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_checkpoint(path: Path) -> bool:
    if not _STEP.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    return any(os.path.lexists(path / part) for part in _PARTS)


def leftovers_in(folder: Path) -> list[Path]:
    """Returns the folders of saves that were not finished."""
    return [path for path in _entries(folder) if path.name.startswith(_STAGING) or _ORBAX in path.name]


def staging_name(token: str) -> str:
    """Returns the name of a folder in which a save is prepared.

    Args:
      token: what tells it from that of any other process.
    """
    return _STAGING + token


def unused(path: Path) -> Path:
    """Returns a path, or the first of `PATH-2`, `PATH-3` and so on at which nothing lies.

    Example:
      >>> unused(Path("nowhere", "900")).name
      '900'
    """
    others = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
    return next(other for other in itertools.chain([path], others) if not os.path.lexists(other))


def remove(path: Path) -> None:
    """Removes a folder with what is in it, or a link and not what it points at."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def remove_while_written(path: Path, seconds: float = 5.0) -> None:
    """Removes a folder into which threads of a save that has failed may still be writing, as long as they do.

    Args:
      path: the folder; it need not exist.
      seconds: after which it is left; the next run removes it.
    """
    end = time.monotonic() + seconds
    while os.path.lexists(path):
        remove(path)
        if time.monotonic() > end:
            return
        time.sleep(0.01)


def holds_link(path: Path) -> str | None:
    """Returns the name of the first link in a folder, or None: nothing is read from outside a checkpoint."""
    for place, folders, files in os.walk(path):
        for name in folders + files:
            if Path(place, name).is_symlink():
                return str(Path(place, name).relative_to(path))
    return None


def sync_all(folder: Path) -> None:
    """Waits until all files and names in a folder are on the disk.

    Raises:
      OSError: the disk has failed.
    """
    for place, _, files in os.walk(folder):
        for name in files:
            sync(Path(place, name))
        sync(Path(place))
