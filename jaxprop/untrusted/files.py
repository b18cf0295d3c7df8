"""Reading files that may be anyone's: regular files only, never through a link, and no more than was expected.

A run's folder is passed around, so what lies in it is input. A link in it may point at any file of the person who opens
it, a pipe would be waited for without end, and a file of a few lines may be gigabytes.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

# Absent on Windows, where `refuse` is all there is. O_NONBLOCK, because opening a pipe would otherwise wait for ever.
FLAGS = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
MODE = 0o666  # less the umask, as `open` has it
MOST_JSON, MOST_VALUES = 2**26, 2_000_000  # bytes of a JSON text, and values in it, which take more memory than text
MOST_LINE = 2**24  # bytes of one line of JSON
MOST_HEADER = 2**24  # bytes of the header of a safetensors file, which names its arrays


def open_descriptor(path: str | Path, how: int) -> int:
    """Opens a regular file that is no link; returns its descriptor.

    Args:
      path: the file.
      how: flags as `os.open` takes them.

    Raises:
      OSError: it cannot be opened, or is a link or another thing than a regular file.
    """
    path = Path(path)
    refuse(path, stat.S_ISREG)  # for its sentence; O_NOFOLLOW holds also where a link is laid in between
    descriptor = os.open(path, how | FLAGS, MODE)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refusal(path, "it is not a regular file")
    return descriptor


def open_to_read(path: str | Path) -> BufferedReader:
    """Opens a file for reading.

    Raises:
      OSError: it cannot be read, or is a link or another thing than a regular file.
    """
    return os.fdopen(open_descriptor(path, os.O_RDONLY), "rb")


def read_bytes(path: str | Path, most: int = MOST_JSON) -> bytes:
    """Returns the content of a file.

    Args:
      path: the file.
      most: bytes that it may have.

    Raises:
      OSError: it cannot be read, is larger, or is a link or another thing than a regular file.
    """
    with open_to_read(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most / 2**20:,.0f} MiB", str(path))
    return content


def read_json(path: str | Path, most: int = MOST_JSON) -> Any:
    """Returns the value in a JSON file.

    Args:
      path: the file.
      most: bytes that it may have.

    Raises:
      OSError: as `read_bytes`.
      ValueError: it is not JSON, or is nested too deeply.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = Path(folder, "a.json").write_text('{"step": 1}')
      ...     read_json(Path(folder, "a.json"))
      {'step': 1}
    """
    return parse_json(read_bytes(path, most))


def parse_json(text: str | bytes) -> Any:
    """Returns the value of a JSON text; raises ValueError where it is none, is too deep or has too many values.

    Example:
      >>> parse_json("[" * 100_000)
      Traceback (most recent call last):
      ValueError: nested too deeply
    """
    held = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if len(held) > MOST_VALUES and sum(map(held.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    try:
        return json.loads(held)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_safetensors(path: str | Path) -> None:
    """Raises OSError where a file cannot be one of safetensors: it is no regular file, or its header is out of bounds.

    Args:
      path: the file, or a link to one.
    """
    path = Path(path)
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise refusal(path, "it is not a regular file")
        header = int.from_bytes(file.read(8), "little")
    if not 2 <= header <= min(MOST_HEADER, about.st_size - 8):
        raise refusal(path, f"its header has {header:,} bytes of {about.st_size:,}; it is damaged or of another kind")


def bounded_lines(file: BinaryIO, most: int = MOST_LINE) -> Iterator[bytes]:
    """Yields the lines of a file with their ends; of a longer one, its first `most` bytes without an end.

    Args:
      file: open for reading.
      most: bytes of a line.

    Example:
      >>> import io
      >>> list(bounded_lines(io.BytesIO(b"one\\nlonger\\ntwo"), 4))
      [b'one\\n', b'long', b'two']
    """
    while line := file.readline(most):
        yield line
        while len(line) == most and not line.endswith(b"\n"):
            line = file.readline(most)


def links_in(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Yields the links among some entries of a folder, and among everything below them.

    Args:
      folder: which may itself be behind a link.
      names: of the entries; they need not exist.
    """
    for name in names:
        path = folder / name
        if path.is_symlink():
            yield path
            continue
        for place, folders, files in os.walk(path):  # follows no links
            yield from (Path(place, one) for one in (*folders, *files) if os.path.islink(os.path.join(place, one)))


def refuse(path: Path, wanted: Callable[[int], bool]) -> None:
    """Raises OSError where a path is taken by something else than what is wanted, such as a link."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise refusal(path, "it is a link, and jaxprop writes through none; remove it")
    if not wanted(mode):
        why = "it is a file" if wanted is stat.S_ISDIR else "it is not a regular file"
        raise refusal(path, os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else why)


def refusal(path: Path, why: str) -> OSError:
    """Returns the error for a path that is not what it should be."""
    return OSError(errno.ELOOP, why, str(path))
