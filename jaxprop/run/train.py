"""One run in its folder: started, resumed, and ended."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop import data
from jaxprop.checkpoint import Checkpoints
from jaxprop.config.dump import dump, with_absolute_paths
from jaxprop.config.schema.config import Config
from jaxprop.errors import EXIT_DONE
from jaxprop.run import linear, panels, prepared
from jaxprop.run.blackbox import Recorder
from jaxprop.run.compose import Experiment, compose
from jaxprop.run.final import evaluate_test
from jaxprop.run.folder import expanded, write_summary, write_text
from jaxprop.run.interrupt import Interrupts
from jaxprop.run.lock import hold
from jaxprop.run.loop import Loop
from jaxprop.run.memory import explained
from jaxprop.run.replaced import BACK, Replaced, recover
from jaxprop.run.resume import check_data, finished, refuse_unreadable, resume_note, start_over
from jaxprop.run.status import Status
from jaxprop.run.summary import exit_code, headline_of, last_words, sum_up_failure, summary
from jaxprop.sinks import open_sinks
from jaxprop.sinks.streams import tell
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
      fresh: start over. The folder's run is set aside; it is removed once the new one has a checkpoint, and comes back
        if the new one fails or is interrupted before that.
      quiet: no console.

    Returns:
      The summary and the exit code: 0 done, 3 diverged, 75 or 130 interrupted after saving.

    Raises:
      UsageError: the folder holds a run whose mathematics another configuration would change.
      JaxpropError: the run cannot be built, or its folder not be written.
    """
    folder = expanded(folder)
    started = time.perf_counter()
    with hold(folder), Interrupts() as interrupts:
        _tell_if(recover(folder))
        before = None if fresh else finished(config, folder)
        experiment = compose(config)
        config = with_absolute_paths(config)  # it is stored, and may be read in another working directory
        experiment = experiment._replace(config=config)
        if before is not None and before["step"] == experiment.total_steps:
            check_data(experiment.stream, folder / "checkpoints")
            tell(resume_note(before["step"], before["step"]))
            _tell_if(None if quiet else headline_of(before))
            return Outcome(before, EXIT_DONE)
        checkpoints, replaced = _open_checkpoints(config, folder), Replaced(folder)
        checkpoints.when_whole = replaced.drop_if_saved
        # Nobody but the loop holds the state: its first step donates it.
        with explained(experiment):
            state = experiment.init(config.run.seed)
        loop = Loop(experiment, state, checkpoints, interrupts, Recorder(folder, config))
        del state
        try:
            with checkpoints, explained(experiment, lambda: _saved(checkpoints)):
                status = _run(loop, experiment, checkpoints, interrupts, replaced, folder, fresh, quiet)
        except BaseException as error:
            if replaced.bring_back():
                error.add_note(BACK)
            elif isinstance(error, Exception):
                sum_up_failure(error, loop, experiment.task.reference, started, folder)
            raise
        # Written once the last save is known to be whole.
        reference = dict(experiment.task.reference)
        if status == Status.COMPLETED:
            reference |= linear.compared(experiment, folder)
        figures = summary(status, loop, reference, started)
        back = status == Status.INTERRUPTED and replaced.bring_back()
        if status == Status.COMPLETED:
            panels.write(folder, panels.draw(experiment, loop.state))
        if not back:
            write_summary(folder, figures)
        if status == Status.COMPLETED:
            replaced.drop()
    _tell_if(None if quiet or back else headline_of(figures))
    if status != Status.COMPLETED:
        tell(last_words(status, loop, saved=config.checkpoint.enabled, back=back, aside=replaced.pending))
    return Outcome(figures, exit_code(status, interrupts.received))


def _tell_if(text: str | None) -> None:
    if text is not None:
        tell(text)


def _run(
    loop: Loop,
    experiment: Experiment,
    checkpoints: Checkpoints,
    stop: Interrupts,
    replaced: Replaced,
    folder: Path,
    fresh: bool,
    quiet: bool,
) -> Status:
    """Resumes or starts over, and runs; returns how the run ended."""
    if fresh:
        _trace(experiment, loop.state)
        replaced.set_aside()
    resumed_from = None if fresh else loop.resume()
    notes = [note for source in experiment.sources.values() for note in source.info.get("notes", ())]
    if resumed_from is not None:
        notes.append(resume_note(resumed_from, experiment.total_steps))
    elif not fresh:
        refuse_unreadable(folder / "checkpoints")
        notes += start_over(folder)
    write_text(folder / "config.yaml", dump(experiment.config, folder))
    prepared.write(folder, prepared.prepared_of(experiment.sources["train"]))
    section, run = experiment.config.sinks, experiment.config.run
    sinks = open_sinks(
        section, folder, total_steps=experiment.total_steps, start_step=resumed_from, alerts=loop.alert_lines,
        log_every=run.log_every, quiet=quiet,
    )  # fmt: skip
    with contextlib.closing(sinks) as sink:
        for name in ("summary.json", panels.NAME):  # of an earlier end that this run goes beyond
            (folder / name).unlink(missing_ok=True)
        for note in notes:
            sink.note(note)
        status = loop.run(sink, lambda: replaced.pending)
        if status == Status.COMPLETED:
            evaluate_test(loop, experiment, checkpoints, sink, stop)
        return status


def _trace(experiment: Experiment, state: TrainState) -> None:
    """Traces the train step, so that what cannot be trained is known before anything is removed for it."""
    config = experiment.config
    batch = next(data.one_pass(experiment.sources["train"], config.data.batch_size))
    if config.run.steps_per_call > 1:
        batch = {name: values[None] for name, values in batch.items()}
    experiment.step.lower(state, batch)


def _saved(checkpoints: Checkpoints) -> int | None:
    checkpoints.wait()  # one may just be under way
    return checkpoints.latest()


def _open_checkpoints(config: Config, folder: Path) -> Checkpoints:
    section = config.checkpoint
    return Checkpoints(folder / "checkpoints", keep=section.keep, best=section.best or "loss", mode=section.mode)
