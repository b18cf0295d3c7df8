"""A sink: functions that receive a run's records, rows and alerts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Record = Mapping[str, Any]


def _nothing(*_: Any) -> None:
    """The default of every field: ignores its argument."""


class Sink(NamedTuple):
    """A destination of records, as functions; each field is optional.

    Args:
      write: takes a record `{"step", "split": "train" | "eval", "loss", ...}`, one for each log interval and one for
        each evaluation.
      layers: takes the rows of one log interval, `{"step", "layer", "grad_norm", ...}`.
      alert: takes `{"step", "kind", "layer", "severity", "value", "threshold", "message", ...}`, when an alert starts
        or an action is taken.
      rewind: takes the step that the run has gone back to; later records and rows are dropped, alerts are kept.
      progress: takes the number of steps done; it is called at every step.
      note: takes a line of text for the user, such as the compile time.
      summary: takes what `summary.json` will hold, right before `close`; not called where the run fails.
      close: writes everything that is pending; the sink is not used afterwards.

    Example:
      >>> seen = []
      >>> sink = Sink(write=seen.append)
      >>> sink.write({"step": 1, "split": "train", "loss": 0.5})
      >>> sink.note("compiled in 3.1 s")
      >>> seen
      [{'step': 1, 'split': 'train', 'loss': 0.5}]
    """

    write: Callable[[Record], None] = _nothing
    layers: Callable[[Sequence[Record]], None] = _nothing
    alert: Callable[[Record], None] = _nothing
    rewind: Callable[[int], None] = _nothing
    progress: Callable[[int], None] = _nothing
    note: Callable[[str], None] = _nothing
    summary: Callable[[Record], None] = _nothing
    close: Callable[[], None] = _nothing


def fan_out(sinks: Sequence[Sink]) -> Sink:
    """Combines several sinks into one that calls each of them in order.

    Closing it closes all of them, even if one of them fails.

    Args:
      sinks: any number of sinks.

    Returns:
      One sink.

    Example:
      >>> one, two = [], []
      >>> fan_out([Sink(note=one.append), Sink(note=two.append)]).note("resumed from step 40")
      >>> one == two == ["resumed from step 40"]
      True
    """

    def to_each(name: str) -> Callable[[Any], None]:
        takers = [take for sink in sinks if (take := getattr(sink, name)) is not _nothing]

        def hand_out(item: Any) -> None:
            for take in takers:
                take(item)

        return hand_out

    def close() -> None:
        with contextlib.ExitStack() as stack:
            for sink in reversed(sinks):
                stack.callback(sink.close)

    return Sink(
        write=to_each("write"),
        layers=to_each("layers"),
        alert=to_each("alert"),
        rewind=to_each("rewind"),
        progress=to_each("progress"),
        note=to_each("note"),
        summary=to_each("summary"),
        close=close,
    )
