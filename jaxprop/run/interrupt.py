"""SIGINT, SIGTERM, SIGHUP and SIGUSR1: the first asks a run to save and leave; Ctrl-C after it leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

from jaxprop.errors import EXIT_SIGINT, EXIT_SIGTERM
from jaxprop.parallel.flags import SharedFlag
from jaxprop.sinks.streams import tell

EXIT_CODES = {signal.SIGINT: EXIT_SIGINT, signal.SIGTERM: EXIT_SIGTERM}
if os.name == "posix":
    EXIT_CODES[signal.SIGHUP] = EXIT_SIGTERM  # what a terminal sends that is closed, or an ssh connection that is lost
    # What schedulers send some time before the end: SLURM with --signal=USR1@90, LSF, SGE.
    EXIT_CODES[signal.SIGUSR1] = EXIT_SIGTERM


def _taken() -> Iterator[signal.Signals]:
    """Yields the signals to take over: the latter two only where nobody has a use for them, as nohup has."""
    for number in EXIT_CODES:
        if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is signal.SIG_DFL:
            yield number


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Ends the process at a signal while packages load: some swallow the KeyboardInterrupt they import under."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, lambda n, _: os._exit(EXIT_CODES[signal.Signals(n)])) for number in _taken()
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def end_within(seconds: float, code: int) -> None:
    """Ends the process with a code after so many seconds, should the threads of a loader that hangs keep it."""
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()


class Interrupts:
    """Takes over SIGINT, SIGTERM and an unused SIGHUP and SIGUSR1 for the length of a `with` block.

    Python runs a handler only between two byte codes of the main thread, and compiling a step may take minutes.
    So a thread reads the signals' bytes as they arrive, and it is this thread that leaves at a SIGINT that is not the
    first signal: a person presses Ctrl-C again who does not want to wait. SIGTERM comes again from schedulers that
    repeat it until the process is gone; it must not end the save that it has asked for. Outside the main thread, where
    Python allows no handlers, nothing is taken over.

    Where several processes run together, a signal to one of them is seen by all at the same point, so that they save
    the same step: `received` is then to be read equally often by each of them.

    Args:
      quiet: say nothing, where the process that has handed the signal on has told the person.

    Example:
      >>> with Interrupts() as interrupts:
      ...     interrupts.received is None
      True
    """

    def __init__(self, quiet: bool = False) -> None:
        self._tell: Callable[[str], None] = (lambda _: None) if quiet else tell
        self._signal = SharedFlag("signal")
        self.asked: signal.Signals | None = None  # of this process alone
        self._repeated = False  # SIGTERM, and a person was told

    @property
    def is_known(self) -> bool:
        """Whether whoever asked the run to leave says so, and a person need not be told twice."""
        return False

    @property
    def received(self) -> signal.Signals | None:
        """The signal that asks the run to leave, once all processes know of it."""
        name = self._signal.poll()
        return None if name is None else signal.Signals[name]

    def __enter__(self) -> Self:
        self._active = threading.current_thread() is threading.main_thread()
        if not self._active:
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._handlers = {number: signal.signal(number, self._ignore) for number in _taken()}
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="jaxprop-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal.close()
        if not self._active:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            # None stands for a handler that was not installed from Python, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._writer.close()  # ends the thread
        self._thread.join()
        self._reader.close()

    def _ignore(self, number: int, frame: FrameType | None) -> None:
        """The handler proper: what is to be done has been done by the thread."""

    def _watch(self) -> None:
        while byte := self._reader.recv(1):
            if byte[0] not in self._handlers:
                continue
            number = signal.Signals(byte[0])
            if self.asked is None:
                self.asked = number
                self._signal.set(number.name)
                once_more = "once more" if number == signal.SIGINT else "Ctrl-C"
                self._tell(f"{number.name}: stopping after this step; {once_more} leaves at once")
            elif number == signal.SIGINT:
                # Nothing is cleaned up on purpose: whatever is complete on disk stays complete.
                os._exit(EXIT_CODES[number])
            elif not self._repeated:
                self._repeated = True
                self._tell(f"{number.name} again: still saving; the process ends by itself")
