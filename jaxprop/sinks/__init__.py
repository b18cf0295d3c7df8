"""Destinations of a run's records and rows: the console, JSONL files, TensorBoard and trackers.

Imports only the standard library, since every command does: other packages wait until a sink is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxprop.sinks.console import open_console, open_warnings, print_summary, summary_line, summary_table
from jaxprop.sinks.jsonl import open_jsonl, truncate_after
from jaxprop.sinks.sink import Record, Sink, fan_out
from jaxprop.sinks.streams import tell
from jaxprop.sinks.tensorboard import open_tensorboard
from jaxprop.sinks.trackers import check_trackers, open_trackers

if TYPE_CHECKING:
    from jaxprop.config.schema.run import Sinks

__all__ = [
    "Record",
    "Sink",
    "check_trackers",
    "fan_out",
    "open_sinks",
    "print_summary",
    "summary_line",
    "summary_table",
    "truncate_after",
]


def open_sinks(
    section: Sinks,
    folder: str | Path,
    *,
    total_steps: int,
    start_step: int | None = None,
    alerts: int | None = None,
    log_every: int = 1,
    quiet: bool = False,
    brief: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Sink:
    """Opens the sinks that a config asks for, and combines them into one.

    Existing files lose their records of steps after `start_step`, because the run takes those steps again.

    Args:
      section: the config's `sinks`.
      folder: the run's folder.
      total_steps: number of steps taken at the end of the run.
      start_step: the step that a resumed run continues from; None for a new run, which empties the files.
      alerts: number of lines of `alerts.jsonl` that a resumed run keeps; None decides by the step there too.
      log_every: steps between the train records that the console shows.
      quiet: whether to leave the console out.
      brief: whether the console shows nothing but alerts to act on and the responses to them.
      config: the resolved configuration, which trackers are given.

    Returns:
      One sink, which the caller must close.

    Raises:
      RunFolderError: a file in `folder` cannot be written.
      UsageError: a tracker refuses the run.

    Example:
      >>> import tempfile
      >>> from jaxprop.config.schema.run import Sinks
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     sink = open_sinks(Sinks(), folder, total_steps=10, quiet=True)
      ...     sink.write({"step": 5, "split": "train", "loss": 0.1})
      ...     sink.close()
      ...     print((Path(folder) / "metrics.jsonl").read_text())
      {"step": 5, "split": "train", "loss": 0.1}
      <BLANKLINE>
    """
    folder = Path(folder)
    shown = section.console and not quiet
    opened: list[Sink] = []
    where: list[str] = []  # each tracker has the run
    wanted = 1  # how many sinks there are once the console, the last one, is open

    def warn(sentence: str) -> None:
        # That a tracker has failed is told even where nothing else is.
        told_by_console = shown and not brief and len(opened) == wanted
        (opened[-1].note if told_by_console else tell)(sentence)

    openers: list[tuple[bool, Callable[[], Sink]]] = [
        (section.jsonl, lambda: open_jsonl(folder, start_step=start_step, alerts=alerts)),
        (section.tensorboard, lambda: open_tensorboard(folder / "tensorboard", start_step=start_step)),
        (
            shown,
            open_warnings
            if brief
            else lambda: open_console(total_steps, start_step=start_step or 0, log_every=log_every),
        ),
    ]
    try:
        # First, since the others begin their files anew, and a tracker may refuse the run.
        opened += open_trackers(
            section, folder, config or {}, resumed=start_step is not None, say=where.append, warn=warn
        )
        wanted = len(opened) + sum(one for one, _ in openers)
        for one, open_one in openers:
            if one:
                opened.append(open_one())
    except BaseException:
        fan_out(opened).close()
        raise
    sink = fan_out(opened)
    for line in where:
        sink.note(line)
    return sink
