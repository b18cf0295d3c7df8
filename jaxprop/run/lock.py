"""One process at a time in a run's folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxprop.errors import RunFolderError
from jaxprop.untrusted.files import read_json
from jaxprop.untrusted.writes import open_to_lock

_FILE = ".lock"
# What a lock that is held says, here and on Windows. Anything else is said by a file system that has no locks, or
# whose locks do not work, as of some networks and clusters.
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


class Words(NamedTuple):
    """What a refusal says.

    Args:
      what: the folder is.
      instead: of waiting, a person can do.
      unwritable: what a person can do where the folder cannot be written to.
    """

    what: str = "the run folder"
    instead: str = "choose another with --run DIR"
    unwritable: str = "choose another with --run DIR"


RUN = Words()


@contextlib.contextmanager
def hold(folder: str | Path, words: Words = RUN) -> Iterator[None]:
    """Holds a run's folder, made if need be, for the length of a `with` block.

    The operating system lets go of the lock when the process ends, however it ends, so a lock is never stale.

    Args:
      folder: the run's folder, or another that one process at a time may work in.
      words: for the errors.

    Raises:
      RunFolderError: another process holds the folder, or it cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder, hold(folder):
      ...     with hold(folder):
      ...         pass
      Traceback (most recent call last):
      jaxprop.errors.RunFolderError: ... is in use by process ...
    """
    path = Path(folder) / _FILE
    made = not path.parent.exists()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds data, and may hold code
        descriptor = open_to_lock(path)
    except OSError as error:
        raise _unwritable(path.parent, error, words) from error
    try:
        with _locked(descriptor, path, words):
            try:
                yield
            finally:
                if made:
                    _remove_if_unused(path)
    finally:
        os.close(descriptor)


def _remove_if_unused(path: Path) -> None:
    """Removes a folder that was made for a run which has not begun, while its lock is held."""
    with contextlib.suppress(OSError):
        if [entry.name for entry in path.parent.iterdir()] == [path.name]:
            path.unlink()
            path.parent.rmdir()


@contextlib.contextmanager
def _locked(descriptor: int, path: Path, words: Words) -> Iterator[None]:
    try:
        _lock(descriptor)
    except OSError as error:
        if error.errno in _HELD:
            raise _in_use(path, words) from error
        with _claimed(path.with_suffix(".claim"), words):
            yield
        return
    if not _is_there(descriptor, path):
        raise _in_use(path, words)  # it was removed with the folder of a run that never began, a moment ago
    with contextlib.suppress(OSError):  # who holds the lock is only told; a full disk is found out by what needs it
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _owner())
    yield
    # The file stays: removing it would let a process waiting on the old one and a newcomer both hold the folder.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)


def _is_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # far behind the text: a locked byte cannot be read by others
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def _claimed(path: Path, words: Words) -> Iterator[None]:
    """The lock where the file system has none: a file only one process can create."""
    if path.exists() and _is_dead(path):
        path.unlink(missing_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError as error:
        raise _in_use(path, words, f" (if that process is gone, remove {path})") from error
    except OSError as error:
        raise _unwritable(path.parent, error, words) from error
    try:
        with contextlib.suppress(OSError):
            os.write(descriptor, _owner())
        os.close(descriptor)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _is_dead(path: Path) -> bool:
    """Whether the owner was a process of this host that is gone; of another host nobody can tell."""
    pid, host = _read_owner(path)
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # alive, and someone else's
    return False


def _owner() -> bytes:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()


def _read_owner(path: Path) -> tuple[str, str]:
    try:
        owner = read_json(path, 2**16)
        return str(owner["pid"]), owner["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown", "an unknown host"  # taken a moment ago and not yet written


def _unwritable(folder: Path, error: OSError, words: Words) -> RunFolderError:
    return RunFolderError(
        f"{words.what} {folder} cannot be written to ({error.strerror}: {error.filename}); {words.unwritable}"
    )


def _in_use(path: Path, words: Words, hint: str = "") -> RunFolderError:
    pid, host = _read_owner(path)
    return RunFolderError(
        f"{words.what} {path.parent} is in use by process {pid} on {host}; wait for it to end, or {words.instead}{hint}"
    )
