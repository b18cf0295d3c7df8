"""Lines for a person on stdout and stderr, either of which may be closed, full, or left by its reader."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from typing import Any, TextIO

from jaxprop.errors import printable

_CONTINUED = re.compile(r"\n(?! )")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # nothing more can be written


class Lasting:
    """A text stream that never fails: at the first error it falls silent, so that a run goes on without its reader.

    Args:
      stream: a text stream, or None, which Python has in place of one that was closed when it started.
      forgiven: the errors after which it falls silent; others are raised. ValueError: someone else has closed it.

    Example:
      >>> import io
      >>> stream = io.StringIO()
      >>> lasting = Lasting(stream)
      >>> stream.close()
      >>> lasting.write("more")
      4
    """

    def __init__(self, stream: TextIO | None, forgiven: tuple[type[Exception], ...] = (OSError, ValueError)):
        self._stream, self._forgiven = stream, forgiven
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Writes a text, or drops it; returns its length."""
        # What the stream's encoding does not have is no reason to fall silent.
        self._try("write", text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    @property
    def silent(self) -> bool:
        """Whether it has fallen silent, so that nobody reads what is written."""
        return self._stream is None

    def flush(self) -> None:
        """Hands on what is buffered, or drops it."""
        self._try("flush")

    def isatty(self) -> bool:
        """Whether this is a terminal."""
        return bool(self._try("isatty"))

    def fileno(self) -> int:
        """The stream's descriptor; raises OSError where it has none."""
        if self._stream is None:
            raise OSError("there is no such stream")
        return self._stream.fileno()

    def _try(self, method: str, *arguments: Any) -> Any:
        if self._stream is None:
            return None
        try:
            return getattr(self._stream, method)(*arguments)
        except self._forgiven:
            silence(self._stream)
            self._stream = None
            return None


def silence(stream: TextIO | None) -> None:
    """Points a broken stream at the null device: what it still holds would fail once more when Python exits."""
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


_speaker = ""


def speak_as(name: str) -> None:
    """Puts a name before each text that `tell` prints from now on; an empty one ends that.

    Args:
      name: of this process, where several share a terminal, such as `process 1 of 4 on node7`.
    """
    global _speaker
    _speaker = f"{name}: " if name else ""


def tell(text: str) -> None:
    """Prints a text on stderr, without control characters; where stderr is gone, nobody is told.

    Every line but the first is indented, so that a line break in a name cannot begin what looks like a line of ours.

    Example:
      >>> import io
      >>> with contextlib.redirect_stderr(io.StringIO()) as stream:
      ...     tell("error: no \x1b[31m colours")
      >>> stream.getvalue()
      'error: no ?[31m colours\\n'
    """
    stream = Lasting(sys.stderr)
    stream.write(_CONTINUED.sub("\n  ", printable(_speaker + text, lines=True)) + "\n")
    stream.flush()


def replace_closed() -> None:
    """Puts the null device in place of the standard streams that were closed when Python started.

    Otherwise the first files that are opened get their numbers, and whatever libraries print goes into these files.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(number, True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
