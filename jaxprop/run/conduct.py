"""A run in its folder, whoever asks for it: held, resumed or started over, and ended."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.checkpoint import Checkpoints
from jaxprop.checkpoint.arrays import import_ahead
from jaxprop.checkpoint.folder import steps_in
from jaxprop.config.dump import to_builtins
from jaxprop.config.tasks import TASK_TABLE, best_mode
from jaxprop.data.readers.arrays import IF_NUMBERS
from jaxprop.errors import EXIT_DONE, HungError
from jaxprop.parallel.hosts import decided, is_first
from jaxprop.run import panels
from jaxprop.run.alike import check_fresh, check_together
from jaxprop.run.averages import for_evaluation
from jaxprop.run.compose import Experiment
from jaxprop.run.final import evaluate_test
from jaxprop.run.folder import expanded, read_summary, write_summary
from jaxprop.run.interrupt import Interrupts
from jaxprop.run.lock import hold
from jaxprop.run.loop import Loop
from jaxprop.run.processes import failing_together
from jaxprop.run.replaced import BACK, Replaced, recover
from jaxprop.run.resume import resume_note, start_over, still_stopped, stopped_note
from jaxprop.run.status import Status
from jaxprop.run.summary import exit_code, headline_of, last_words, sum_up_failure, summary
from jaxprop.run.watchdog import IDLE, Watchdog
from jaxprop.sinks import Sink, check_trackers, fan_out, open_sinks
from jaxprop.sinks.streams import tell
from jaxprop.types import TrainState

Attend = Callable[[Path], contextlib.AbstractContextManager[tuple[Interrupts, Watchdog]]]
_NO_TOKENS = set(TASK_TABLE["classify"].models) - set(TASK_TABLE["language"].models)


def _drawn(experiment: Experiment) -> tuple[TrainState, list[str]]:
    return experiment.init(experiment.config.run.seed), []


@contextlib.contextmanager
def attended(folder: Path) -> Iterator[tuple[Interrupts, Watchdog]]:
    """Watches a run in its folder, and hears what asks it to stop."""
    with Interrupts() as interrupts, Watchdog(folder, interrupts) as watchdog:
        yield interrupts, watchdog


class Outcome(NamedTuple):
    """How a run ended: the summary that `summary.json` holds, and the exit code."""

    summary: dict[str, Any]
    exit_code: int


class Conducted(NamedTuple):
    """A run that has ended.

    Args:
      outcome: how; its exit code is 0 done, 3 diverged, 75 or 130 interrupted after saving.
      experiment: what was trained.
      state: the newest; None where the folder's run was complete already.
    """

    outcome: Outcome
    experiment: Experiment
    state: TrainState | None


class Undertaking(NamedTuple):
    """What is run in a folder, and what is particular to who asks for it.

    Args:
      compose: makes the experiment.
      finished: `(folder) -> summary` of a completed run that the folder holds, or None; refuses a run of another kind.
      complete: `(experiment, folder)`, called where nothing is left to do; refuses data that have changed.
      recorder: `(folder, experiment)`, what keeps a failing step's inputs.
      trace: `(experiment, state)`, finds out whether the step can be trained, before anything is removed for it.
      describe: `(experiment, folder)`, writes what the run is.
      explained: `(experiment, saved)`, a context that explains running out of memory.
      begin: `experiment -> (state, notes)`, the state before the first step, and what there is to say of it.
      sinks: further destinations of records.
      attend: `folder -> (interrupts, watchdog)`, a context: who asks the run to stop, and who sees whether it goes on.
      compared: `(experiment, folder) -> figures` of other models on the splits of a completed run, for its summary.
    """

    compose: Callable[[], Experiment]
    finished: Callable[[Path], dict[str, Any] | None]
    complete: Callable[[Experiment, Path], None]
    recorder: Callable[[Path, Experiment], Any]
    trace: Callable[[Experiment, TrainState], None]
    describe: Callable[[Experiment, Path], None]
    explained: Callable[..., contextlib.AbstractContextManager[None]]
    begin: Callable[[Experiment], tuple[TrainState, list[str]]] = _drawn
    sinks: Sequence[Sink] = ()
    attend: Attend = attended
    compared: Callable[[Experiment, Path], dict[str, float]] = lambda _experiment, _folder: {}


def conduct(
    undertaking: Undertaking,
    folder: str | os.PathLike[str],
    *,
    fresh: bool = False,
    quiet: bool = False,
    brief: bool = False,
) -> Conducted:
    """Runs an undertaking in a folder, or goes on where the folder's newest checkpoint stands.

    Args:
      undertaking: what is run.
      folder: the run's folder; made if need be, held against other processes while the run lasts.
      fresh: start over. The folder's run is set aside; it is removed once the new one has a checkpoint, and comes back
        if the new one fails or is interrupted before that.
      quiet: no console.
      brief: a console of warnings alone: alerts to act on, and the responses to them.

    Returns:
      How it ended.

    Raises:
      UsageError: the folder holds a run whose mathematics this one would change.
      JaxpropError: the run cannot be built, or its folder not be written.
    """
    folder, began = expanded(folder), time.perf_counter()
    with _held(folder, fresh), undertaking.attend(folder) as (interrupts, watchdog), failing_together():
        _tell_if(decided("recovery", lambda: recover(folder)))
        before = None if fresh else decided("the run before", lambda: undertaking.finished(folder))
        experiment = undertaking.compose()
        check_together(experiment, folder)
        if before is not None and decided("its end", lambda: _has_ended(before, experiment, folder)):
            return _nothing_left(undertaking, experiment, before, folder, quiet)
        decided("trackers", lambda: check_trackers(experiment.config.sinks))
        checkpoints, replaced = open_checkpoints(experiment, folder), Replaced(folder)
        checkpoints.when_whole = replaced.drop_if_saved
        # Nobody but the loop holds the state: its first step donates it.
        with undertaking.explained(experiment):
            state, begun = _first_state(undertaking, experiment, checkpoints, fresh)
        recorder = undertaking.recorder(folder, experiment)
        loop = Loop(experiment, state, checkpoints, interrupts, recorder, began, watchdog)
        del state
        started = _Started(undertaking, experiment, loop, replaced, folder, begun)
        try:
            with (
                watchdog.doing(IDLE),
                checkpoints,
                undertaking.explained(experiment, lambda: _saved(checkpoints)),
                failing_together(),  # inside of the checkpoints, which wait for the other processes
                _begun(started, fresh, quiet, brief) as sink,
            ):
                status = loop.run(sink, lambda: decided("an earlier run aside", lambda: replaced.pending))
                _come_to_its_end(status, loop, experiment, sink, interrupts)
        except BaseException as error:
            if replaced.bring_back():
                error.add_note(BACK)
            elif isinstance(error, Exception) and is_first():
                sum_up_failure(error, loop, experiment.task.reference, folder)
            raise
        # Written once the last save is known to be whole.
        completed = status == Status.COMPLETED
        compared = decided("figures", lambda: undertaking.compared(experiment, folder)) if completed else {}
        figures = summary(status, loop, {**experiment.task.reference, **compared})
        back = status == Status.INTERRUPTED and decided("the earlier run", replaced.bring_back)
        drawn = panels.draw(experiment, for_evaluation(experiment, loop.state, loop.metrics)) if completed else None
        if is_first():
            panels.write(folder, drawn)
            if not back:
                write_summary(folder, figures)
            if completed:
                replaced.drop()
    _tell_if(None if quiet or back else headline_of(figures))
    if not completed and not interrupts.is_known:
        saved = experiment.config.checkpoint.enabled
        _tell_if(last_words(status, loop, saved=saved, back=back, aside=replaced.pending))
    return Conducted(Outcome(figures, exit_code(status, interrupts.received)), experiment, loop.state)


def _come_to_its_end(status: Status, loop: Loop, experiment: Experiment, sink: Sink, stop: Interrupts) -> None:
    """Evaluates a completed run on the test split, and tells the sinks how the run has ended."""
    if status == Status.COMPLETED:
        evaluate_test(loop, experiment, loop.checkpoints, sink, stop)
    loop.checkpoints.wait()  # a run whose last save fails has not come to its end
    sink.summary(summary(status, loop, experiment.task.reference))


def _nothing_left(
    undertaking: Undertaking, experiment: Experiment, before: dict[str, Any], folder: Path, quiet: bool
) -> Conducted:
    """What becomes of a run that has completed already."""
    decided("its data", lambda: undertaking.complete(experiment, folder))
    early = stopped_note(before, experiment.total_steps)
    _tell_if(early or resume_note(before["step"], before["step"], experiment.config))
    _tell_if(None if quiet else headline_of(before))
    return Conducted(Outcome(before, EXIT_DONE), experiment, None)


def _first_state(
    undertaking: Undertaking, experiment: Experiment, checkpoints: Checkpoints, fresh: bool
) -> tuple[TrainState, list[str]]:
    """The state before the first step; where the run goes on, it only says what to restore into."""
    if fresh or decided("a start", lambda: not steps_in(checkpoints.folder)):
        return undertaking.begin(experiment)
    return experiment.init(experiment.config.run.seed), []


class _Started(NamedTuple):
    """What belongs to one run while it lasts."""

    undertaking: Undertaking
    experiment: Experiment
    loop: Loop
    replaced: Replaced
    folder: Path
    begun: list[str]


@contextlib.contextmanager
def _begun(run: _Started, fresh: bool, quiet: bool, brief: bool) -> Iterator[Sink]:
    """Resumes or starts over; yields the destination of the run's records, open for as long as it runs."""
    undertaking, experiment, loop, replaced, folder, begun = run
    loop.watchdog.limit_by(experiment.config.run.limits)
    loop.watchdog.sum_up = partial(_sum_up_killed, run)
    if fresh:
        undertaking.trace(experiment, loop.state)
        decided("the run aside", replaced.set_aside)
    notes = data_notes(experiment)
    loop.checkpoints.tell = notes.append
    resumed_from = None if fresh else loop.resume()
    if experiment.config.checkpoint.enabled:
        loop.checkpoints.tell_of_space(loop.state)
        import_ahead()
    if resumed_from is not None:
        # It has the time after the last checkpoint, too, where the session before came to an end of its own.
        loop.clock.goes_on((read_summary(folder) or {}).get("seconds"))
        notes.append(resume_note(resumed_from, experiment.total_steps, experiment.config))
    elif not fresh:
        notes += decided("a new start", lambda: start_over(folder))
    decided("what it is", lambda: undertaking.describe(experiment, folder))
    if not is_first():  # one process writes
        yield Sink()
        return
    own = open_sinks(
        experiment.config.sinks, folder, total_steps=experiment.total_steps, start_step=resumed_from,
        alerts=loop.alert_lines, log_every=experiment.config.run.log_every, quiet=quiet, brief=brief,
        config=to_builtins(experiment.config),
    )  # fmt: skip
    with contextlib.closing(fan_out([own, *undertaking.sinks])) as sink:
        for name in ("summary.json", panels.NAME):  # of an earlier end that this run goes beyond
            (folder / name).unlink(missing_ok=True)
        for note in notes + begun:
            sink.note(note)
        loop.checkpoints.tell = sink.note
        try:
            yield sink
        finally:
            loop.checkpoints.tell = tell


@contextlib.contextmanager
def _held(folder: Path, fresh: bool) -> Iterator[None]:
    """Holds the folder for process 0, which alone writes to it; the others go on once it does."""
    with hold(folder) if is_first() else contextlib.nullcontext():
        check_fresh(fresh)
        yield


def _sum_up_killed(run: _Started, error: str | None) -> None:
    """Writes the summary of a run that the watchdog ends; one that lies aside comes back at the next start."""
    if error is not None:
        sum_up_failure(HungError(error), run.loop, run.experiment.task.reference, run.folder)
    elif not run.replaced.pending:
        write_summary(run.folder, summary(Status.INTERRUPTED, run.loop, run.experiment.task.reference))


def data_notes(experiment: Experiment) -> list[str]:
    """Returns what the sources of a run tell a person; of integers that may be tokens, as the model takes them."""
    model = getattr(experiment.config, "model", None)  # a run of `fit` has none
    sees_numbers = getattr(model, "name", None) in _NO_TOKENS
    told = ("notes", IF_NUMBERS) if sees_numbers else ("notes",)
    return [note for source in experiment.sources.values() for name in told for note in source.info.get(name, ())]


def open_checkpoints(experiment: Experiment, folder: Path) -> Checkpoints:
    """Opens the checkpoints of a run, as its configuration says which are kept."""
    section = experiment.config.checkpoint
    checkpoints = Checkpoints(
        folder / "checkpoints", keep=section.keep, best=section.best or "loss", mode=best_mode(experiment.config)
    )
    checkpoints.tell = tell
    return checkpoints


def _has_ended(before: dict[str, Any], experiment: Experiment, folder: Path) -> bool:
    """Whether nothing is left to do for a run that has completed."""
    return before["step"] == experiment.total_steps or still_stopped(before, experiment.config, folder)


def _tell_if(text: str | None) -> None:
    if text is not None and is_first():
        tell(text)


def _saved(checkpoints: Checkpoints) -> int | None:
    checkpoints.wait()  # one may just be under way
    return checkpoints.latest()
