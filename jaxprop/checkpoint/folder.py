"""The folder of checkpoints: what in it is one, what is not, and how files and names in it reach the disk."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import secrets
import shutil
from pathlib import Path

TRASH, DAMAGED = "todelete", "damaged"
_STAGING, _ORBAX = ".saving-", ".orbax-checkpoint-tmp"
_STEP = re.compile("(?:0|[1-9][0-9]{0,17})", re.ASCII)  # `str.isdecimal` takes digits of every script
_PARTS = ("manifest.json", "state", "run")  # one of which a checkpoint has
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


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


def holds_link(path: Path) -> str | None:
    """Returns the name of the first link in a folder, or None: nothing is read from outside a checkpoint."""
    for place, folders, files in os.walk(path):
        for name in folders + files:
            if Path(place, name).is_symlink():
                return str(Path(place, name).relative_to(path))
    return None


def write_durably(path: Path, text: str) -> None:
    """Writes a file whole or not at all; once it returns, the file stays even if the machine loses power.

    Raises:
      OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def sync_all(folder: Path) -> None:
    """Waits until all files and names in a folder are on the disk.

    Raises:
      OSError: the disk has failed.
    """
    for place, _, files in os.walk(folder):
        for name in files:
            sync(Path(place, name))
        sync(Path(place))


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk; nothing where that is not offered.

    Raises:
      OSError: the disk has failed.
    """
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that have no such call
            raise
    finally:
        os.close(descriptor)
