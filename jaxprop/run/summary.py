"""How a run ended: its summary, its exit code, and what to tell a person."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxprop.core import trees
from jaxprop.errors import EXIT_DIVERGED, EXIT_DONE, RunFolderError
from jaxprop.run.allocator import allocator_in_use
from jaxprop.run.folder import write_summary
from jaxprop.run.interrupt import EXIT_CODES
from jaxprop.run.loop import Loop
from jaxprop.run.replaced import BACK
from jaxprop.run.status import Status, headline
from jaxprop.sinks.jsonl import encode
from jaxprop.version import versions


def last_words(status: Status, run: Loop, *, saved: bool, back: bool = False, aside: bool = False) -> str:
    """What to tell a person whose run ended early, and what to do next.

    Args:
      status: how it ended.
      run: what it left.
      saved: whether it saves checkpoints.
      back: whether the run that it was to replace is back in its place.
      aside: whether that run lies aside, and comes back when the next one starts.
    """
    if status == Status.DIVERGED:
        kept = f"; {BACK} when the next run starts here, unless --run DIR names another folder" if aside else ""
        return f"diverged: {run.diagnosis}{kept}"
    if back:
        return f"interrupted after step {run.step}, before the first checkpoint; {BACK}"
    if not saved:
        return f"interrupted after step {run.step} and not saved, since checkpoint.enabled is false"
    return f"interrupted after step {run.step}; the same command goes on from there"


def headline_of(figures: Mapping[str, Any]) -> str | None:
    """Returns the first thing to tell of a run that has learned nothing; None of any other.

    Args:
      figures: its summary.

    Example:
      >>> headline_of({"status": "completed", "outcome": "no better than at its start: loss 2 against 2", "step": 9})
      'No better than at its start: loss 2 against 2; the run completed all the same.'
    """
    said = figures.get("outcome")
    return None if said is None else headline(said, figures["status"], figures["step"])


def summary(status: Status, run: Loop, reference: Mapping[str, float]) -> dict[str, Any]:
    """Returns what `summary.json` holds.

    Args:
      status: how the run ended.
      run: what it left.
      reference: figures to compare its metrics with.
    """
    clock = run.clock
    diverged = {"error": run.diagnosis} if status == Status.DIVERGED else {}
    figures = {
        "status": status,
        **diverged,
        "outcome": run.outcome(reference) if status in (Status.COMPLETED, Status.DIVERGED) else None,
        "stopped": run.stopped if status == Status.COMPLETED else None,
        "step": run.step,
        "metrics": run.metrics,
        "best": run.best,
        "test": run.test,
        "reference": dict(reference),
        "parameters": trees.count(run.state.params),
        "seconds": clock.earlier + clock.session,
        "session_seconds": clock.session if clock.earlier else None,  # where the run was resumed
        "compile_seconds": clock.compile_seconds,
        "examples_per_second": clock.examples / clock.seconds if clock.seconds else None,
        "data_wait_share": clock.wait_share(),
        "versions": versions(),
        "allocator": allocator_in_use(),
    }
    return json.loads(encode(figures))  # what is not finite is null, in the file and out of `--json`


def sum_up_failure(error: Exception, run: Loop, reference: Mapping[str, float], folder: Path) -> None:
    """Writes the summary of a run that failed, unless it got no further than an earlier one's."""
    # Removed when training begins: a run that got no further leaves what an earlier one wrote.
    if (folder / "summary.json").exists():
        return
    failed = summary(Status.FAILED, run, reference)
    with contextlib.suppress(RunFolderError):  # of a full disk the first error says enough
        write_summary(folder, {**failed, "error": f"{type(error).__name__}: {error}"})


def exit_code(status: Status, received: signal.Signals | None) -> int:
    """Returns the process's exit code: 0 done, 3 diverged, 75 or 130 after a signal.

    Example:
      >>> exit_code(Status.COMPLETED, None), exit_code(Status.INTERRUPTED, signal.SIGINT)
      (0, 130)
    """
    if status == Status.INTERRUPTED and received is not None:
        return EXIT_CODES[received]
    return EXIT_DIVERGED if status == Status.DIVERGED else EXIT_DONE
