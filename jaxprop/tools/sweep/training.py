"""Trains the runs of one program, one after another or several at a time, and says how each has ended."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.config.schema.config import Config
from jaxprop.errors import JaxpropError, in_one_line
from jaxprop.run.conduct import Attend
from jaxprop.run.interrupt import Interrupts
from jaxprop.run.lanes import Program
from jaxprop.run.resume import check_data, finished
from jaxprop.run.status import Status
from jaxprop.run.swept import HALVED, Ended
from jaxprop.run.together import Together, TogetherLane
from jaxprop.run.train import Compose, train
from jaxprop.run.watchdog import Watchdog
from jaxprop.sinks import Sink
from jaxprop.tools.sweep.plan import Trial
from jaxprop.tools.sweep.programs import Group

Tell = Callable[[str], None]
Judge = Callable[[Trial, Mapping[str, Any]], bool]
RARE_EVERY = 50  # steps between measurements of everything, as in a step of the library
LOOK = 0.2  # seconds between two looks at the threads, in which Python hears of signals


class Terms(NamedTuple):
    """What all runs of a sweep have.

    Args:
      folder: of the sweep.
      fresh: whether they are trained from their start.
      tell: takes a line for a person.
      interrupts: asks all of them to stop.
      until: `time.monotonic` from which on no run begins; None for no end.
      judge: is told of each evaluation of a run, and says whether the run is to end; None where none is.
    """

    folder: Path
    fresh: bool
    tell: Tell
    interrupts: Interrupts
    until: float | None = None
    judge: Judge | None = None

    @property
    def go_on(self) -> bool:
        """Whether another run may begin."""
        return self.interrupts.asked is None and (self.until is None or time.monotonic() < self.until)


class _Alone(Interrupts):
    """What asks one run to stop: whatever asks all of them, or itself."""

    def __init__(self, others: Interrupts):
        super().__init__()
        self._others, self.is_over = others, False

    @property
    def is_known(self) -> bool:
        return self.is_over

    @property
    def received(self) -> signal.Signals | None:
        return signal.SIGTERM if self.is_over else self._others.received


def complete(group: Group, terms: Terms) -> list[Ended]:
    """Returns the runs of a program that are complete already, or whose folder holds another run.

    Args:
      group: the runs.
      terms: what they have in common.
    """
    assert group.program is not None
    found = []
    for trial in group.trials if not terms.fresh else ():
        folder = terms.folder / trial.folder
        try:
            before = finished(trial.config, folder)
            if before is not None and before["step"] == group.program.experiment.total_steps:
                check_data(group.program.member(trial.config).stream, folder / "checkpoints")
                found.append(ended_as(trial, before))
        except JaxpropError as error:
            found.append(failed(trial, in_one_line(error)))
    return found


def in_turn(group: Group, terms: Terms) -> Iterator[Ended]:
    """Trains the runs of a program one after another.

    Args:
      group: the runs.
      terms: what they have in common.
    """
    assert group.program is not None
    program, interrupts = group.program, terms.interrupts

    @contextlib.contextmanager
    def attend(folder: Path) -> Iterator[tuple[Interrupts, Watchdog]]:
        with Watchdog(folder, interrupts) as watchdog:
            yield interrupts, watchdog

    for trial in group.trials:
        if terms.go_on:
            yield _run(trial, terms, program.member, attend)


def together(group: Group, terms: Terms, lanes: Together) -> Iterator[Ended]:
    """Trains the runs of a program several at a time; where one has ended, the next takes its lane.

    Args:
      group: the runs.
      terms: what they have in common.
      lanes: where they meet.
    """
    assert group.program is not None
    waiting, done = queue.SimpleQueue[Trial](), queue.SimpleQueue[Ended | BaseException]()
    for trial in group.trials:
        waiting.put(trial)
    workers = [
        threading.Thread(
            target=_work, args=(slot, group.program, terms, lanes, waiting, done), daemon=True,
            name=f"jaxprop-lane-{slot}",
        )
        for slot in range(min(lanes.count, len(group.trials)))
    ]  # fmt: skip
    firsts = group.trials[: len(workers)]
    for slot, trial in enumerate(firsts):  # before any begins, so that all begin together
        lanes.join(slot, group.program.values(trial.config))
    for worker in workers:
        worker.start()
    try:
        yield from _as_they_end(workers, done)
    finally:  # where one has failed as no run may, the others end, too
        lanes.close()
        for worker in workers:
            worker.join()


def _as_they_end(workers: Sequence[threading.Thread], done: queue.SimpleQueue[Any]) -> Iterator[Ended]:
    while any(worker.is_alive() for worker in workers) or not done.empty():
        try:
            found = done.get(timeout=LOOK)
        except queue.Empty:
            continue
        if isinstance(found, BaseException):
            raise found
        yield found


def _work(
    slot: int, program: Program, terms: Terms, lanes: Together, waiting: queue.SimpleQueue[Trial],
    done: queue.SimpleQueue[Any],
) -> None:  # fmt: skip
    """Trains one run after another in a lane."""

    @contextlib.contextmanager
    def attend(folder: Path) -> Iterator[tuple[Interrupts, Watchdog]]:
        yield terms.interrupts, Watchdog(folder)

    lane = TogetherLane(lanes, slot)
    try:
        while terms.go_on:
            try:
                trial = waiting.get_nowait()
            except queue.Empty:
                return
            trial = trial._replace(config=steady(trial.config))
            lanes.join(slot, program.values(trial.config))
            done.put(_run(trial, terms, lambda config, _: program.with_lane(config, lane), attend))
    except BaseException as error:  # raised by the thread that waits for all of them
        done.put(error)
    finally:
        lanes.leave(slot)


def steady(config: Config) -> Config:
    """Returns a configuration whose steps measure what they do by their number alone.

    Lanes that chose by the time of their calls would measure at different steps, each of which the others wait for.

    Args:
      config: with or without `health.every: auto`.
    """
    health = config.health
    if health.every != "auto":
        return config
    rare = RARE_EVERY if health.rare_every == "auto" else health.rare_every
    return config.model_copy(update={"health": health.model_copy(update={"every": 1, "rare_every": rare})})


def _run(trial: Trial, terms: Terms, compose: Compose, attend: Attend) -> Ended:
    """Trains one run; one that cannot be trained is told of, and the others go on."""

    def alert(line: Mapping[str, Any]) -> None:
        if line.get("severity") == "act":
            terms.tell(f"{trial.label}: step {line['step']}: {line['message']}")

    alone = _Alone(terms.interrupts)

    def judge(record: Mapping[str, Any]) -> None:
        if terms.judge is not None and record.get("split") == "eval":
            alone.is_over = terms.judge(trial, record) or alone.is_over

    @contextlib.contextmanager
    def attended(folder: Path) -> Iterator[tuple[Interrupts, Watchdog]]:
        with attend(folder) as (_, watchdog):
            yield alone, watchdog

    try:
        outcome = train(
            trial.config, terms.folder / trial.folder, fresh=terms.fresh, quiet=True, composing=compose,
            sinks=[Sink(alert=alert, write=judge)], attend=attended,
        )  # fmt: skip
    except JaxpropError as error:
        return failed(trial, in_one_line(error))
    ended = ended_as(trial, outcome.summary)
    if alone.is_over and ended.status == Status.INTERRUPTED:
        return ended._replace(status=HALVED, problem="ended early, since other settings are better by now")
    return ended


def failed(trial: Trial, problem: str) -> Ended:
    """Returns the end of a run that cannot be trained.

    Args:
      trial: the run.
      problem: why, one sentence.
    """
    return Ended(trial.setting, trial.seed, trial.folder, Status.FAILED, {}, problem, None)


def ended_as(trial: Trial, summary: Mapping[str, Any]) -> Ended:
    """Returns what is ranked of a run.

    Args:
      trial: the run.
      summary: its `summary.json`.
    """
    status = str(summary.get("status"))
    found = summary.get("best") or summary.get("metrics") or {}
    metrics = {name: float(value) for name, value in found.items() if isinstance(value, int | float) and name != "step"}
    lost = status != Status.COMPLETED
    problem = str(summary.get("error") or status) if lost else ""
    seconds = summary.get("seconds")
    return Ended(trial.setting, trial.seed, trial.folder, status, {} if lost else metrics, problem, seconds)
