"""Destinations of a run's records and rows: the console, JSONL files and TensorBoard.

Imports only the standard library, since every command does: other packages wait until a sink is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jaxprop.sinks.console import open_console, open_warnings, print_summary, summary_line, summary_table
from jaxprop.sinks.jsonl import open_jsonl, truncate_after
from jaxprop.sinks.sink import Record, Sink, fan_out
from jaxprop.sinks.tensorboard import open_tensorboard

if TYPE_CHECKING:
    from jaxprop.config.schema.run import Sinks

__all__ = [
    "Record",
    "Sink",
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

    Returns:
      One sink, which the caller must close.

    Raises:
      RunFolderError: a file in `folder` cannot be written.

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
    openers: list[tuple[bool, Callable[[], Sink]]] = [
        (section.jsonl, lambda: open_jsonl(folder, start_step=start_step, alerts=alerts)),
        (section.tensorboard, lambda: open_tensorboard(folder / "tensorboard", start_step=start_step)),
        (
            section.console and not quiet,
            open_warnings
            if brief
            else lambda: open_console(total_steps, start_step=start_step or 0, log_every=log_every),
        ),
    ]
    opened: list[Sink] = []
    try:
        for wanted, open_one in openers:
            if wanted:
                opened.append(open_one())
    except BaseException:
        fan_out(opened).close()
        raise
    return fan_out(opened)
