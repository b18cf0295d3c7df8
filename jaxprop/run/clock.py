"""Time: what training alone takes, what a function takes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

CALLS = 10  # made in a row, so that what dispatching takes is hidden where the device hides it
ROUNDS = 5
T = TypeVar("T")


class Clock:
    """Examples a second of training alone: compiling, evaluating and saving are taken off; and the time of it all.

    Args:
      began: when this session of the run began, by `time.perf_counter`.
    """

    def __init__(self, began: float | None = None) -> None:
        now = time.perf_counter()
        self.began = now if began is None else began
        self.earlier = 0.0  # seconds that earlier sessions of the run have taken
        self.compile_seconds = 0.0
        self.examples, self.seconds = 0.0, 0.0
        self.waiting = 0.0  # seconds of these that were spent waiting for batches
        self._since = now
        self._mark = (0.0, 0.0)

    @property
    def session(self) -> float:
        """Seconds since this session of the run began, whatever they went into."""
        return time.perf_counter() - self.began

    def goes_on(self, seconds: Any) -> None:
        """Takes up the seconds that earlier sessions took, as a file tells them; of several accounts the longest."""
        if isinstance(seconds, int | float) and math.isfinite(seconds):
            self.earlier = max(self.earlier, float(seconds))

    def resume(self) -> None:
        """Goes on counting from now."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Adds the time since the last resume."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now

    def rate(self) -> float | None:
        """Examples a second since the last call, or None if there was no time."""
        self.pause()
        examples, seconds = self.examples - self._mark[0], self.seconds - self._mark[1]
        self._mark = (self.examples, self.seconds)
        return examples / seconds if examples and seconds > 0 else None

    def waited(self, batches: Iterator[T]) -> Iterator[T]:
        """Yields batches and counts the time that each is waited for, but for the first: its readers only start."""
        counted = False
        while True:
            started = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waiting += (time.perf_counter() - started) * counted
            counted = True
            yield batch

    def wait_share(self) -> float | None:
        """The share of the counted time that was spent waiting for data, or None if there was no time."""
        return min(self.waiting / self.seconds, 1.0) if self.seconds > 0 else None

    def compiled(self, call: Callable[..., Any], *args: Any) -> Any:
        """Makes the first call of a compiled function and books its time as compiling."""
        self.pause()
        out = jax.block_until_ready(call(*args))
        self.compile_seconds += time.perf_counter() - self._since
        self.resume()
        return out

    def recompiled(self, seconds: float) -> None:
        """Books a part of the time that is counted as training as compiling."""
        self.compile_seconds += seconds
        self.seconds -= seconds


def timed(call: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """Makes a call that waits for what is under way before it and for its own end.

    Args:
      call: a function of arrays; it may donate its arguments.
      *args: what it takes.

    Returns:
      What the call returns, and the seconds it took.

    Example:
      >>> out, seconds = timed(lambda x: x + 1, 1)
      >>> out, seconds > 0
      (2, True)
    """
    jax.block_until_ready(args)
    started = time.perf_counter()
    out = jax.block_until_ready(call(*args))
    return out, time.perf_counter() - started


def seconds_a_call(call: Callable[..., Any], *args: Any) -> float:
    """Returns the median time of one call among many made in a row, after a first one that compiles.

    Example:
      >>> seconds_a_call(lambda x: x + 1, 1) > 0
      True
    """
    jax.block_until_ready(call(*args))
    rounds = [timed(lambda: [call(*args) for _ in range(CALLS)])[1] / CALLS for _ in range(ROUNDS)]
    return statistics.median(rounds)
