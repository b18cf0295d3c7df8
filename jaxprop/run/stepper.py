"""Calls of the compiled step: the first of each variant compiles it, and some of the others are timed."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxprop.core.measurements import Measurements
from jaxprop.health.signals.settings import RARE
from jaxprop.health.watch.alerts import RECOMPILATION
from jaxprop.run.clock import Clock, timed
from jaxprop.run.pace import Pace
from jaxprop.train.compilations import Compilation
from jaxprop.train.compiled import TrainStep
from jaxprop.types import TrainState

PATIENCE = 10.0  # seconds of compiling after which a person is told
EVIDENCE = 20  # changed arguments that one holds


class Variant(NamedTuple):
    """What `jit` compiles a program of its own for: steps in a call, what they measure, and batches that each takes."""

    size: int
    detail: str
    parts: int = 1


class Stepper:
    """Calls the compiled step, books the time of its calls, and tells of those that compile it again.

    Args:
      step: the compiled step.
      pace: what each call measures; told the time of calls while it is still to choose.
      clock: compiling and choosing the pace do not count as training.
      per_call: S, the steps of a whole call; shorter ones say nothing of the pace.
      shapes: how many shapes the data's batches have; each is compiled once, which is no news.
      compiling: a context around each call that compiles.
    """

    def __init__(
        self, step: TrainStep, pace: Pace, clock: Clock, per_call: int, shapes: int = 1,
        compiling: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ):  # fmt: skip
        self._step, self._pace, self._clock, self._per_call = step, pace, clock, per_call
        self._steps = {1: step}  # by how many of the stream's batches they take
        self._called: set[Variant] = set()
        self._shapes, self._expected = shapes, Counter[str]()
        self._compiling = compiling
        self._known = {1: len(step.compilations)}  # how many have been looked at

    def take(
        self,
        state: Any,
        batch: Any,
        *,
        first: int,
        size: int,
        examples: float,
        note: Callable[[str], None],
        parts: int = 1,
    ) -> tuple[Any, Measurements]:
        """Takes the steps of one call.

        Args:
          state: before them, donated; of a lane, `jaxprop.train.lanes.Elsewhere`.
          batch: on the devices.
          first: number of the first step, from 1.
          size: how many steps.
          examples: in the batch.
          note: takes a line for a person.
          parts: how many of the stream's batches the batch is made of.

        Returns:
          The state after them, and their measurements, which may still be under way.
        """
        variant = Variant(size, self._pace.detail(first, first + size - 1), parts)
        step = self._taking(parts)
        if variant not in self._called:
            self._called.add(variant)
            return self._compile(state, batch, variant, note)
        self._clock.examples += examples
        if not (self._pace.measuring and size == self._per_call):
            return step(state, batch, variant.detail)
        (state, measurements), seconds = timed(step, state, batch, variant.detail)
        if self._pace.book(variant.detail, seconds):
            self._clock.pause()
            note(self._pace.choose())
            self._clock.resume()
        return state, measurements

    def alerts(self, step: int) -> list[dict[str, Any]]:
        """Returns the lines of `alerts.jsonl` for what has been compiled again since the last time.

        Args:
          step: the last step that was taken.
        """
        made = [one for parts, step in self._steps.items() for one in step.compilations[self._known[parts] :]]
        if not made:
            return []
        self._known = {parts: len(step.compilations) for parts, step in self._steps.items()}
        again = [one for one in made if one.changes]
        for one in again:
            self._clock.recompiled(one.seconds)
        news = [one for one in again if not self._is_expected(one)]
        return [_alert(step, one) for one in news if one.message]

    def _taking(self, parts: int) -> TrainStep:
        if parts not in self._steps:
            self._steps[parts] = self._step.for_batches(parts)
            self._known[parts] = 0
        return self._steps[parts]

    def _is_expected(self, made: Compilation) -> bool:
        """Whether it is of another of the shapes that the data are known to have."""
        if not all(change.kind == "shape" and change.path.startswith("batch") for change in made.changes):
            return False
        self._expected[made.detail] += 1
        return self._expected[made.detail] < self._shapes

    def _compile(
        self, state: Any, batch: Any, variant: Variant, note: Callable[[str], None]
    ) -> tuple[TrainState, Measurements]:
        before = self._clock.compile_seconds
        which = " (all signals)" if variant.detail in RARE else ""
        line = f"still compiling after {PATIENCE:g} s{which}; each program is compiled once"
        with _told_late(note, line), self._compiling():
            out = self._clock.compiled(self._taking(variant.parts), state, batch, variant.detail)
        note(f"compiled in {self._clock.compile_seconds - before:.1f} s{which}")
        return out


@contextlib.contextmanager
def _told_late(note: Callable[[str], None], line: str) -> Iterator[None]:
    """Tells a person a line if the `with` block takes longer than their patience."""
    timer = threading.Timer(PATIENCE, note, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # so that the line never follows what comes after the block


def _alert(step: int, made: Compilation) -> dict[str, Any]:
    return {
        "step": step,
        "kind": RECOMPILATION,
        "layer": None,
        "severity": "advice",
        "value": made.seconds,
        "threshold": None,
        "since": step,
        "evidence": {change.path: f"{change.before} -> {change.after}" for change in made.changes[:EVIDENCE]},
        "fix": made.fix,
        "message": made.message,
    }
