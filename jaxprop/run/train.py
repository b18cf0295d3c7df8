"""One run in its folder: started, resumed, and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop import data
from jaxprop.checkpoint import Checkpoints
from jaxprop.config.dump import dump
from jaxprop.config.schema.config import Config
from jaxprop.errors import EXIT_DONE
from jaxprop.run.blackbox import Recorder
from jaxprop.run.compose import Experiment, compose
from jaxprop.run.folder import write_summary, write_text
from jaxprop.run.interrupt import Interrupts
from jaxprop.run.lock import hold
from jaxprop.run.loop import Loop
from jaxprop.run.resume import finished, refuse_unreadable, resume_note
from jaxprop.run.status import Status
from jaxprop.run.summary import exit_code, last_words, sum_up_failure, summary
from jaxprop.sinks import open_sinks
from jaxprop.types import TrainState


class Outcome(NamedTuple):
    """How a run ended: the summary that `summary.json` holds, and the exit code."""

    summary: dict[str, Any]
    exit_code: int


def train(config: Config, folder: str | os.PathLike[str], *, fresh: bool = False, quiet: bool = False) -> Outcome:
    """Trains a configuration in a folder, or goes on where the folder's newest checkpoint stands.

    Args:
      config: the configuration.
      folder: the run's folder; made if need be, held against other processes while the run lasts.
      fresh: start over, removing the folder's checkpoints and records.
      quiet: no console.

    Returns:
      The summary and the exit code: 0 done, 3 diverged, 75 or 130 interrupted after saving.

    Raises:
      UsageError: the folder holds a run whose mathematics another configuration would change.
      JaxpropError: the run cannot be built, or its folder not be written.
    """
    folder = Path(folder)
    started = time.perf_counter()
    with hold(folder), Interrupts() as interrupts:
        before = None if fresh else finished(config, folder)
        experiment = compose(config)
        if before is not None and before["step"] == experiment.total_steps:
            print(resume_note(before["step"], before["step"]), file=sys.stderr)
            return Outcome(before, EXIT_DONE)
        checkpoints = _open_checkpoints(config, folder)
        # Nobody but the loop holds the state: its first step donates it.
        loop = Loop(experiment, experiment.init(config.run.seed), checkpoints, interrupts, Recorder(folder, config))
        try:
            with checkpoints:
                status = _run(loop, experiment, checkpoints, folder, fresh, quiet)
        except Exception as error:
            sum_up_failure(error, loop, experiment.task.reference, started, folder)
            raise
        # Written once the last save is known to be whole.
        figures = summary(status, loop, experiment.task.reference, started)
        write_summary(folder, figures)
    if status != Status.COMPLETED:
        print(last_words(status, loop, config.checkpoint.enabled), file=sys.stderr)
    return Outcome(figures, exit_code(status, interrupts.received))


def _run(
    loop: Loop, experiment: Experiment, checkpoints: Checkpoints, folder: Path, fresh: bool, quiet: bool
) -> Status:
    """Resumes or starts over, and runs; returns how the run ended."""
    if fresh:
        _trace(experiment, loop.state)
    resumed_from = None if fresh else loop.resume()
    if resumed_from is None and not fresh:
        refuse_unreadable(folder / "checkpoints")
    write_text(folder / "config.yaml", dump(experiment.config, folder))
    section, total = experiment.config.sinks, experiment.total_steps
    sinks = open_sinks(
        section, folder, total_steps=total, start_step=resumed_from, alerts=loop.alert_lines, quiet=quiet
    )
    with contextlib.closing(sinks) as sink:
        if fresh:
            checkpoints.clear()
            shutil.rmtree(folder / "blackbox", ignore_errors=True)
        (folder / "summary.json").unlink(missing_ok=True)  # of an earlier end that this run goes beyond
        if resumed_from is not None:
            sink.note(resume_note(resumed_from, total))
        return loop.run(sink)


def _trace(experiment: Experiment, state: TrainState) -> None:
    """Traces the train step, so that what cannot be trained is known before anything is removed for it."""
    config = experiment.config
    batch = next(data.one_pass(experiment.sources["train"], config.data.batch_size))
    if config.run.steps_per_call > 1:
        batch = {name: values[None] for name, values in batch.items()}
    experiment.step.lower(state, batch)


def _open_checkpoints(config: Config, folder: Path) -> Checkpoints:
    section = config.checkpoint
    return Checkpoints(folder / "checkpoints", keep=section.keep, best=section.best or "loss", mode=section.mode)
