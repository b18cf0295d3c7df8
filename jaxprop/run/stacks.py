"""What every thread of this process is doing, read from outside of it."""

from __future__ import annotations

import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

DEBUGGERS = {"bdb", "pdb", "debugpy", "pydevd", "_pydevd_bundle"}
COMPILER = "jax/_src/compiler.py"
SHOWN = 6  # frames of a thread that a person is shown
_OURS = Path(__file__).parents[1]
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class Frame(NamedTuple):
    """One call that has not returned.

    Args:
      file: of its code.
      line: that it has come to.
      function: its name.
      module: the module's name.
    """

    file: str
    line: int
    function: str
    module: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function})"


def of_threads() -> dict[str, list[Frame]]:
    """Returns the calls of each thread by its name, the outermost first. No source is read: its disk may hang.

    Example:
      >>> of_threads()[threading.current_thread().name][-1].function
      'of_threads'
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found: dict[str, list[Frame]] = {}
    for ident, top in sys._current_frames().items():
        frames = [
            Frame(frame.f_code.co_filename, line or 0, frame.f_code.co_name, frame.f_globals.get("__name__", ""))
            for frame, line in traceback.walk_stack(top)
        ]
        name = names.get(ident, f"thread {ident}")
        found[name if name not in found else f"{name} ({ident})"] = frames[::-1]
    return found


def main_thread() -> str:
    """Returns the name by which `of_threads` lists the main thread."""
    return threading.main_thread().name


def text(threads: dict[str, list[Frame]], shown: int | None = None) -> str:
    """Returns the calls of threads as lines.

    Args:
      threads: as `of_threads` returns them.
      shown: number of innermost calls of each; default: all.
    """
    parts = []
    for name, frames in threads.items():
        some = frames if shown is None else frames[-shown:]
        parts.append("\n".join([f"{name}:", *(f"  {frame}" for frame in some)]))
    return "\n".join(parts)


def culprit(frames: Sequence[Frame]) -> Frame | None:
    """Returns the innermost call of a person's own code that we have called; else of a package; else of any.

    Args:
      frames: of one thread, the outermost first.

    Example:
      >>> here = [Frame("my_reader.py", 12, "rows", "my_reader"), Frame(threading.__file__, 9, "wait", "threading")]
      >>> str(culprit(here))
      'my_reader.py:12 (rows)'
    """
    inside = frames[::-1]
    first = next((i for i, frame in enumerate(frames) if _is_ours(frame)), 0)  # a script that calls us hangs nowhere
    called = frames[first:][::-1]
    own = [frame for frame in called if not _is_ours(frame) and not frame.file.startswith((*_LIBRARIES, "<"))]
    package = [frame for frame in inside if _is_ours(frame) or "site-packages" in frame.file]
    return next(iter([*own, *package, *inside]), None)


def is_debugged(threads: dict[str, list[Frame]]) -> bool:
    """Whether a person has stopped the program in a debugger, or may."""
    return any(frame.module.split(".")[0] in DEBUGGERS for frames in threads.values() for frame in frames)


def is_compiling(frames: Iterable[Frame]) -> bool:
    """Whether a thread waits for XLA to compile a program."""
    return any(frame.file.replace("\\", "/").endswith(COMPILER) for frame in frames)


def _is_ours(frame: Frame) -> bool:
    return Path(frame.file).is_relative_to(_OURS)
