"""Requests that reach one process and are met by all of them at the same point."""

from __future__ import annotations

import contextlib
import itertools
import threading

import jax

from jaxprop.errors import JaxpropError
from jaxprop.parallel.hosts import AGREE_SECONDS, peek, poll_seconds, process_count, process_index, put_first, wait_for

_NEVER = 1 << 60  # calls: of a process that makes no more of them

_numbers = itertools.count()


class SharedFlag:
    """A value that any process may set at any time, and that all of them see from the same call of `poll` on.

    All processes call `poll` equally often, at the same points of the program. Once a thread of each process knows of a
    request, it says how many calls that process has made; the one after the largest of these numbers is the call at
    which all of them see the value. It is a thread of its own that says so, since the main one may wait for a device,
    and thereby for the very process that waits for its number. Nothing is sent while there is no request.

    For one process it is a variable.

    Args:
      name: of the request; the processes make their flags in the same order.

    Example:
      >>> flag = SharedFlag("stop")
      >>> flag.poll() is None
      True
      >>> flag.set("SIGTERM")
      >>> flag.poll()
      'SIGTERM'
    """

    def __init__(self, name: str):
        self._key = f"jaxprop/flag/{name}/{next(_numbers)}"
        self._value: str | None = None
        self._polls, self._target = 0, 0 if process_count() == 1 else _NEVER
        self._said = False  # how many calls this process has made
        self._counting = threading.Lock()
        self._asked, self._closing, self._agreed = threading.Event(), threading.Event(), threading.Event()
        self._listener = threading.Thread(target=self._listen, name=f"jaxprop-flag-{name}", daemon=True)
        if process_count() > 1:
            self._listener.start()
        else:
            self._agreed.set()

    @property
    def known(self) -> str | None:
        """The value as this process knows it, whether the others have agreed on it yet or not."""
        return self._value

    def set(self, value: str) -> None:
        """Requests; the first value counts. May be called by any thread, though by no signal handler."""
        if process_count() == 1:
            self._value = self._value or value
        elif not self._closing.is_set():
            put_first(self._key, value)
            self._asked.set()

    def poll(self) -> str | None:
        """Returns the value once all processes see it, else None."""
        with self._counting:
            self._polls += 1
            if self._value is None:
                return None
        if not self._agreed.wait(AGREE_SECONDS):
            raise JaxpropError(
                f"the other processes have not answered a request in {AGREE_SECONDS:.0f} s; look at their output"
            )
        return self._value if self._polls >= self._target else None

    def close(self) -> None:
        """Says that this process makes no more calls, so that nobody waits for it."""
        self._closing.set()
        self._asked.set()
        if self._listener.is_alive():
            self._listener.join()
        if process_count() > 1 and not self._said:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # whoever is gone waits for nobody
                put_first(f"{self._key}/at/{process_index()}", str(_NEVER))

    def _listen(self) -> None:
        """Learns of a request, and agrees with the other processes on the call that is to see it."""
        # Where the connection is gone, it is not this flag that ends the process.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            value = None
            while value is None and not self._closing.is_set():
                self._asked.wait(poll_seconds())
                self._asked.clear()
                value = peek(self._key)
            if value is None:
                return
            with self._counting:  # a call after this one waits for what is agreed on
                self._value, made, self._said = value, self._polls, True
            put_first(f"{self._key}/at/{process_index()}", str(made))
            others = [i for i in range(process_count()) if i != process_index()]
            self._target = max([made, *(self._calls_of(i) for i in others)]) + 1
            self._agreed.set()

    def _calls_of(self, process: int) -> int:
        while not self._closing.is_set():
            calls = wait_for(f"{self._key}/at/{process}", poll_seconds())
            if calls is not None:
                return int(calls)
        return _NEVER
