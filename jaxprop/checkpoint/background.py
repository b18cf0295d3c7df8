"""A save in the background: waited for as long as it gets on, and never what keeps a process from ending."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jaxprop.errors import CheckpointError

PATIENCE = 300.0  # seconds without a new byte or name on the disk after which a save is given up
_LOOK = 1.0  # seconds between two looks at the disk
_NICER = 5  # with 10, training waits for the interpreter that a save holds and has no time to use
_GRACE = 10.0  # seconds that the end of the process may wait for threads of a save that was given up


class StuckError(CheckpointError):
    """A save does not get on: its disk or its peers do not answer."""


class Background:
    """Work in a thread that ends with the process; the threads that it starts do too, since they inherit that.

    Args:
      step: what is saved.
      work: called in the thread with a function that it calls once it needs its arguments no more.
      folder: in which files appear as it gets on.
    """

    def __init__(self, step: int, work: Callable[[Callable[[], None]], None], folder: Path):
        self.step, self._folder = step, folder
        self._error: BaseException | None = None
        self._is_copied, self._has_ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(work,), name="jaxprop-checkpoint", daemon=True)

    def start(self) -> None:
        """Starts the work; an interrupt that comes meanwhile finds something to wait for."""
        _unreported.add(self)
        self._thread.start()

    def _run(self, work: Callable[[Callable[[], None]], None]) -> None:
        _give_way()
        try:
            work(self._is_copied.set)
        except BaseException as error:  # whatever it is, it is raised where the save is waited for
            self._error = error
        finally:
            self._has_ended.set()
            self._is_copied.set()

    @property
    def has_ended(self) -> bool:
        """Whether `result` would not wait."""
        return self._has_ended.is_set()

    @property
    def has_failed(self) -> bool:
        """Whether it has ended with an error."""
        return self._has_ended.is_set() and self._error is not None

    def wait_for_copy(self) -> None:
        """Waits until what is saved may be changed.

        Raises:
          StuckError: nothing has happened for five minutes.
        """
        self._wait(self._is_copied)

    def result(self) -> None:
        """Waits until the save has ended.

        Raises:
          StuckError: nothing has happened for five minutes.
          Exception: the save has failed.
        """
        self._wait(self._has_ended)
        # What it still lets go of is freed by compiled code, which aborts where the interpreter ends meanwhile.
        self._thread.join(_GRACE)
        _unreported.discard(self)
        if self._error is not None:
            raise self._error

    def _wait(self, event: threading.Event) -> None:
        seen, since = self._progress(), time.monotonic()
        while not event.wait(min(_LOOK, PATIENCE)):
            if not self._thread.is_alive() and not event.is_set():
                _unreported.discard(self)
                raise OSError("it was interrupted before it began")
            now = self._progress()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= PATIENCE:
                _unreported.discard(self)
                _leave_all_the_same()
                raise StuckError(
                    f"the checkpoint of step {self.step} could not be written to {self._folder.parent}: nothing has "
                    f"been written for {PATIENCE:.0f} s, so its disk does not answer; make sure that it can be "
                    "written, or choose another with --run DIR"
                )

    def _progress(self) -> tuple[int, int]:
        """Files and bytes that lie there by now."""
        files = total = 0
        for place, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.stat(os.path.join(place, name)).st_size
                    files += 1
        return files, total


def _give_way() -> None:
    """Has this thread, and those that it starts, give way to the threads that train; Linux alone has this by thread."""
    if sys.platform.startswith("linux"):
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICER)


_unreported: set[Background] = set()


def _report_unclosed() -> None:
    """Waits for the saves of a process that never asked how they ended; one that failed ends it with an error."""
    for save in list(_unreported):
        try:
            save.result()
        except BaseException as error:
            print(f"error: the checkpoint of step {save.step} was not written: {error}", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)


def _leave_all_the_same() -> None:
    """Lets the process end although threads of libraries, which it would wait for, never do."""
    threading.Thread(target=_end_with_main, name="jaxprop-end", daemon=True).start()


def _end_with_main() -> None:
    threading.main_thread().join()
    time.sleep(_GRACE)
    os._exit(1)


# `atexit` comes too late: pools, by which files are written, take no work from then on. What is registered last with
# the threads is called first, so the module of the pools has to be there by now, which naming it sees to.
_POOL = concurrent.futures.ThreadPoolExecutor
getattr(threading, "_register_atexit", atexit.register)(_report_unclosed)
