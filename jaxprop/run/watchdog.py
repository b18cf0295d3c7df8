"""The watchdog: ends a run that hangs, with a stack of every thread, and one that is asked to stop while it cannot."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from jaxprop.errors import EXIT_RUNTIME
from jaxprop.parallel.hosts import process_count
from jaxprop.run import stacks
from jaxprop.run.interrupt import EXIT_CODES, Interrupts
from jaxprop.sinks.streams import tell
from jaxprop.untrusted.writes import write_whole

T = TypeVar("T")
PERIOD = 1.0  # seconds between two looks
TIMES = 20  # the longest so far
LEAST = 600.0  # seconds, of any automatic limit
FIRST = {"data": 3600.0}  # seconds, while nothing of a kind has ended yet; of others as for compiling
COMPILING = 21600.0
BYTES_A_SECOND = 1e7  # that any disk writes
GRACE = 10.0  # seconds that a run has to stop by itself, of the 30 that a preempted process has
STACKS = "stacks.txt"
WHAT = {
    "data": "the data source has not returned",
    "step": "the train step has not ended",
    "save": "the checkpoint has not been written",
    "evaluation": "the evaluation has not gone on",
    "compile": "compiling has not ended",
}
LOADER = "jaxprop-prefetch"  # the thread that reads, where there is one
# While a run does one of these, its state is whole, and nobody changes it.
AT_REST = ("data", "compile", "evaluation")
IDLE = "idle"  # before training and after it: nothing is watched, and nothing would be lost
_ALONE = ("compile", IDLE)  # while a loader may not have begun, and one call may take long


class Watchdog:
    """Looks every second whether the main thread has come any further.

    Time is counted in looks, so that a process that was suspended, or a computer that slept, does not wake up to its
    end. A debugger's time does not count either. A call that lets no other thread of Python run, such as a regular
    expression that backtracks, holds up this thread, too: there the kernel ends the process by SIGVTALRM, once it has
    computed for the limit on every core, and writes the stacks to stderr.

    Args:
      folder: of the run, for `stacks.txt`.
      stop: asks for an early end.
      period: seconds between two looks.

    Example:
      >>> watchdog = Watchdog(Path("runs/a"), Interrupts())
      >>> with watchdog, watchdog.doing("data"):
      ...     watchdog.kind
      'data'
    """

    def __init__(self, folder: Path, stop: Interrupts | None = None, *, period: float = PERIOD):
        self.kind = IDLE
        self.save_bytes = 0  # of a checkpoint
        # `step -> a clause on what was saved`, called by the watchdog's thread while a run is at rest; `error -> None`,
        # called before the process ends.
        self.rescue: Callable[[], str] | None = None
        self.sum_up: Callable[[str | None], None] = lambda _: None
        self._folder, self._stop, self._period = folder, stop, period
        self._limits: Any = None
        self._turn, self._seen, self._looks, self._asked = 0, 0, 0, 0
        self._kind_seen, self._sentence = IDLE, ""
        self._rescuer: threading.Thread | None = None
        self._longest: dict[str, float] = {}
        self._turning = threading.Lock()  # held while the main thread must not go on
        self._ended = threading.Event()
        self._watches = False
        self._leave: Callable[[int], Any] = os._exit

    def __enter__(self) -> Self:
        self._ended.clear()
        self._thread = threading.Thread(target=self._watch, name="jaxprop-watchdog", daemon=True)
        self._thread.start()
        if hasattr(signal, "setitimer"):
            with contextlib.suppress(ValueError):  # a stderr that is closed
                faulthandler.register(signal.SIGVTALRM, file=2, all_threads=True, chain=True)
        self._watches = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watches = False
        self._ended.set()
        self._thread.join()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            faulthandler.unregister(signal.SIGVTALRM)

    # -- what the main thread says -------------------------------------------------------------------

    def limit_by(self, limits: Any) -> None:
        """Sets the limits: `run.limits` of a configuration; None watches nothing."""
        self._limits = limits

    def enters(self, kind: str) -> None:
        """Says what the main thread does from now on: one of `WHAT`, or `IDLE`."""
        if threading.current_thread() is self._rescuer:
            return  # the main thread does what it did
        with self._turning:
            before, self.kind, self._turn = self.kind, kind, self._turn + 1
        if self._watches and (before in _ALONE) != (kind in _ALONE):
            self._put_off()

    def goes_on(self) -> None:
        """Says that it has come further with the same."""
        self.enters(self.kind)

    @contextlib.contextmanager
    def doing(self, kind: str) -> Iterator[None]:
        """Says what the main thread does in a `with` block."""
        before = self.kind
        self.enters(kind)
        try:
            yield
        finally:
            self.enters(before)

    def waiting(self, items: Iterator[T]) -> Iterator[T]:
        """Yields items of a data source, each of which is waited for."""
        while True:
            with self.doing("data"):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    # -- the watchdog's own thread ---------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._ended.wait(self._period):
            self.look()
            self._put_off()

    def look(self) -> None:
        """Counts one more period; ends the process where that is due."""
        turn, kind = self._turn, self.kind
        if turn != self._seen:
            if self._looks:  # of what was seen to last; what never was took less than a period
                self._longest[self._kind_seen] = max(self._longest.get(self._kind_seen, 0.0), self._seconds())
            self._seen, self._looks = turn, 0
        self._kind_seen = kind
        self._looks += 1
        if self._stop is not None and self._stop.asked is not None and process_count() == 1:
            self._asked += 1
            if self._asked * self._period >= GRACE and self._seconds() >= GRACE:
                self._leave_for_the_signal(turn, kind)
        limit = self._limit(kind)
        if limit is not None and self._seconds() >= limit:
            self._end_what_hangs(turn, kind)

    def _put_off(self) -> None:
        """Winds up the timer that ends a process whose Python stands still: in seconds of computing on every core."""
        # What stands still may be the loader, which reads beside everything else that the main thread does.
        kinds = {self.kind} if self.kind in _ALONE else {self.kind, "data"}
        limits = [limit for limit in map(self._limit, kinds) if limit is not None]
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_VIRTUAL, min(limits, default=0) * (os.cpu_count() or 1))

    def _seconds(self) -> float:
        return self._looks * self._period

    def _limit(self, kind: str) -> float | None:
        if self._limits is None or kind not in WHAT:
            return None
        given = getattr(self._limits, kind)
        if given != "auto":
            return None if given is None else float(given)
        if kind == "compile":
            return COMPILING
        if kind == "save":
            return max(LEAST + self.save_bytes / BYTES_A_SECOND, TIMES * self._longest.get(kind, 0.0))
        known = self._longest.get(kind)
        return FIRST.get(kind, COMPILING) if known is None else max(LEAST, TIMES * known)

    def _leave_for_the_signal(self, turn: int, kind: str) -> None:
        """Saves in place of a main thread that is held up, and leaves; goes on watching where it is not."""
        received = self._stop.asked if self._stop is not None else None
        assert received is not None
        if kind == IDLE:
            said = ""
        elif kind in AT_REST or stacks.is_compiling(stacks.of_threads().get(stacks.main_thread(), [])):
            said = "; "
        else:
            return
        with self._turning:
            if turn != self._turn:
                return
            if said:
                saved = self._rescued()
                if saved is None:
                    self._asked = 0  # once more in a while
                    return  # the step has begun and taken the state, so the main thread will leave by itself
                said += saved
            tell(f"{received.name}: leaving while the run is held up{said}")
            self._end(EXIT_CODES[received], None)

    def _end_what_hangs(self, turn: int, kind: str) -> None:
        threads = stacks.of_threads()
        main = threads.get(stacks.main_thread(), [])
        if stacks.is_debugged(threads):
            self._looks = 0
            return
        compiles = self._limit("compile")
        if kind != "compile" and stacks.is_compiling(main) and (compiles is None or self._seconds() < compiles):
            return
        with self._turning:
            if turn != self._turn:
                return
            self._report(kind, threads)
            self._end(EXIT_RUNTIME, self._sentence)

    def _report(self, kind: str, threads: dict[str, list[stacks.Frame]]) -> None:
        who = LOADER if kind == "data" and LOADER in threads else stacks.main_thread()
        frame = stacks.culprit(threads.get(who, []))
        where = "" if frame is None else f": in {frame}"
        self._sentence = f"{WHAT[kind]} for {self._seconds():.0f} s{where}"
        saved = self._rescued() if kind == "data" else None
        path = self._folder / STACKS
        with contextlib.suppress(OSError):
            write_whole(path, f"{self._sentence}\n\n{stacks.text(threads)}\n")
        shown = {name: threads[name] for name in dict.fromkeys((who, stacks.main_thread())) if name in threads}
        tell(stacks.text(shown, stacks.SHOWN))
        also = f"; {saved}" if saved else ""
        tell(
            f"error: {self._sentence}{also}; the stack of every thread is in {path}, and where it may take that long, "
            f"run.timeout.{kind}={2 * self._seconds():.0f} allows it"
        )

    def _rescued(self) -> str | None:
        """Saves within the limit of a save; returns a clause that says so, or None where that cannot be."""
        rescue, said = self.rescue, list[str]()
        if rescue is None:
            return "nothing was to be saved"
        return said[0] if self._bounded(lambda: said.append(rescue()), self._limit("save")) and said else None

    def _bounded(self, act: Callable[[], Any], seconds: float | None) -> bool:
        """Acts in a thread of its own, which may hang as well; returns whether it has come to an end."""

        def acting() -> None:
            with contextlib.suppress(Exception):
                act()

        thread = threading.Thread(target=acting, name="jaxprop-rescue", daemon=True)
        self._rescuer = thread
        thread.start()
        for _ in range(int((COMPILING if seconds is None else seconds) / self._period) + 1):
            thread.join(self._period)
            if not thread.is_alive():
                return True
        return False

    def _end(self, code: int, error: str | None) -> None:
        self._bounded(lambda: self.sum_up(error), GRACE)
        for child in multiprocessing.active_children():  # a loader's, which would outlive this process
            child.kill()
        for stream in (sys.stdout, sys.stderr):
            self._bounded(stream.flush, GRACE)
        self._leave(code)
