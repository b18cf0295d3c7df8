"""Writing into folders that may be anyone's: whole files, regular files only, and never through a link.

A run's folder may come from somebody else, and a link in it may point at any file of the person who opens it. So
nothing that jaxprop writes follows one, and temporary files have names that nobody can lay a link at beforehand.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO, TextIO

from jaxprop.untrusted.files import FLAGS, MODE, open_descriptor, refuse


def write_whole(path: str | Path, content: str | bytes, *, durable: bool = False) -> None:
    """Writes a file whole or not at all.

    Args:
      path: the file; it need not exist.
      content: text, written as UTF-8, or bytes.
      durable: wait until it is on the disk, so that the new content stays even if the machine loses power.

    Raises:
      OSError: it cannot be written, or is a link or another thing than a regular file.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_whole(Path(folder, "a.txt"), "one")
      ...     print(Path(folder, "a.txt").read_text(), len(os.listdir(folder)))
      one 1
    """
    path = Path(path)
    refuse(path, stat.S_ISREG)
    partial, file = create_beside(path)
    try:
        with file:
            file.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)  # so that a reader, or a crash, never meets half a file
        if durable:
            sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk; nothing where that is not offered.

    Raises:
      OSError: the disk has failed.
    """
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY | FLAGS)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that have no such call
            raise
    finally:
        os.close(descriptor)


def create_beside(path: Path) -> tuple[Path, BinaryIO]:
    """Creates a new file beside another, to be renamed to it; returns its path and the file, open for writing.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     made, file = create_beside(Path(folder, "a.txt"))
      ...     file.close()
      ...     made.name.startswith(".a.txt."), made.suffix
      (True, '.partial')
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    return partial, os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, MODE), "wb")


def open_to_append(path: str | Path) -> TextIO:
    """Opens a text file for appending, and makes it if need be.

    Raises:
      OSError: it cannot be written, or is a link or another thing than a regular file.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder, open_to_append(Path(folder, "a.txt")) as file:
      ...     file.write("one")
      3
    """
    descriptor = open_descriptor(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return os.fdopen(descriptor, "a", encoding="utf-8", newline="\n")


def open_to_lock(path: str | Path) -> int:
    """Opens a file for reading and writing, and makes it if need be; returns its descriptor.

    Raises:
      OSError: it cannot be opened, or is a link or another thing than a regular file.
    """
    return open_descriptor(path, os.O_RDWR | os.O_CREAT)


def make_folder(path: str | Path) -> None:
    """Makes a folder that is the user's alone, with its parents, unless there is one.

    Raises:
      OSError: it cannot be made, or is a link or a file.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     os.symlink("/", Path(folder, "link"))
      ...     make_folder(Path(folder, "link"))
      Traceback (most recent call last):
      OSError: [Errno ...] it is a link, and jaxprop writes through none; remove it: ...
    """
    path = Path(path)
    refuse(path, stat.S_ISDIR)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse(path, stat.S_ISDIR)
