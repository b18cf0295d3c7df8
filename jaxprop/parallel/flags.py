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

    All processes call `poll` equally often, at the same points of the program. Once a process knows of a request, it
    says at its next call how many calls it has made and waits there for the others to say so; the largest number is the
    call at which all of them see the value. A process can make its calls up to that one, since those who wait for it
    have made theirs. Nothing is sent while there is no request.

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
        self._polls, self._target = 0, None if process_count() > 1 else 0
        self._closing = threading.Event()
        self._listener = threading.Thread(target=self._listen, name=f"jaxprop-flag-{name}", daemon=True)
        if process_count() > 1:
            self._listener.start()

    @property
    def known(self) -> str | None:
        """The value as this process knows it, whether the others have agreed on it yet or not."""
        return self._value

    def set(self, value: str) -> None:
        """Requests; the first value counts. May be called by any thread, though by no signal handler."""
        if process_count() > 1 and not self._closing.is_set() and not put_first(self._key, value):
            return  # another process was first, and the listener is about to learn of it
        self._value = self._value or value

    def poll(self) -> str | None:
        """Returns the value once all processes see it, else None."""
        self._polls += 1
        if self._value is None:
            return None
        if self._target is None:
            self._target = self._agree(self._polls)
        return self._value if self._polls >= self._target else None

    def close(self) -> None:
        """Says that this process makes no more calls, so that nobody waits for it."""
        self._closing.set()
        if self._listener.is_alive():
            self._listener.join()
        if self._target is None:
            self._target = _NEVER
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # whoever is gone waits for nobody
                put_first(f"{self._key}/at/{process_index()}", str(_NEVER))

    def _agree(self, mine: int) -> int:
        put_first(f"{self._key}/at/{process_index()}", str(mine))
        others = (i for i in range(process_count()) if i != process_index())
        return max([mine, *(self._calls_of(i) for i in others)])

    def _calls_of(self, process: int) -> int:
        calls = wait_for(f"{self._key}/at/{process}", AGREE_SECONDS)
        if calls is None:
            raise JaxpropError(
                f"process {process} has not answered a request in {AGREE_SECONDS:.0f} s; look at its output"
            )
        return int(calls)

    def _listen(self) -> None:
        """Learns of the others' requests."""
        # Where the connection is gone, it is not this flag that ends the process.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            while self._value is None and not self._closing.wait(poll_seconds()):
                self._value = peek(self._key)
