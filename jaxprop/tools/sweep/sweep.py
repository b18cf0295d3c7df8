"""A sweep in its folder: trains what is left of its runs, each in a folder of its own, and ranks them."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxprop.config.schema.model import CustomModel
from jaxprop.config.tasks import TASK_TABLE, best_mode, better, main_metric
from jaxprop.errors import EXIT_DIVERGED, EXIT_DONE, EXIT_RUNTIME, JaxpropError, RunFolderError, UsageError, one_of
from jaxprop.run.folder import is_run, write_text
from jaxprop.run.interrupt import EXIT_CODES, Interrupts
from jaxprop.run.lock import Words, hold
from jaxprop.run.resume import ChangedError, finished
from jaxprop.run.status import Status
from jaxprop.run.swept import (
    FILE,
    HALVED,
    OWN,
    RESULTS,
    Ended,
    Ranked,
    Results,
    on_other_data,
    read_sweep,
    write_results,
)
from jaxprop.sinks.console import duration
from jaxprop.tools.sweep.choice import choose, choose_processes
from jaxprop.tools.sweep.plan import Plan, Trial, check_like
from jaxprop.tools.sweep.processes import Processes, in_processes
from jaxprop.tools.sweep.programs import Group, groups
from jaxprop.tools.sweep.ranking import rank, verdict
from jaxprop.tools.sweep.training import Terms, complete, ended_as, failed, in_turn, together

EVERY = 10.0  # seconds between two writings of the results while runs end
WORDS = Words(
    what="the sweep's folder", instead="choose another with --run DIR", unwritable="choose another with --run DIR"
)


UNRANKED = (Status.INTERRUPTED, HALVED)  # runs that are neither done nor lost


class Swept(NamedTuple):
    """A sweep that has ended.

    Args:
      results: what has come of it, as `results.json` has it.
      exit_code: 0 done, 3 or 1 where no run ended well, 75 or 130 stopped by a signal.
    """

    results: Results
    exit_code: int

    @property
    def metric(self) -> str:
        """By which settings are ranked."""
        return self.results.metric

    @property
    def ranked(self) -> list[Ranked]:
        """The settings, the best first."""
        return self.results.settings

    @property
    def ended(self) -> list[Ended]:
        """The runs, in their order."""
        return self.results.runs

    @property
    def left(self) -> int:
        """How many runs have not been begun or not been finished."""
        return self.results.left


def sweep(
    plan: Plan, folder: Path, *, metric: str | None = None, fresh: bool = False, lanes: int | None = None,
    minutes: float | None = None, tell: Callable[[str], None] = print, processes: int | None = 1,
    code: Sequence[str] = (),
) -> Swept:  # fmt: skip
    """Trains every run of a plan that is not complete yet, and ranks the settings.

    Args:
      plan: the runs.
      folder: of the sweep; each run has a folder in it.
      metric: of the evaluations, by which settings are ranked; default: that of the task.
      fresh: train all runs from their start.
      lanes: how many are trained at a time; None measures what is faster.
      minutes: after which no run begins; None for no limit.
      tell: takes a line for a person.
      processes: among which the runs are divided, each with its share of cores or GPUs; None measures what is faster.
      code: files of the user's own that may be run.

    Raises:
      UsageError: the folder holds another sweep, or there is no such metric.
      JaxpropError: the runs cannot be built.
    """
    check_like(plan)
    check_metric(plan, metric)
    began = time.perf_counter()
    with hold(folder, WORDS), Interrupts() as interrupts:
        refuse_changed(plan.trials, folder, fresh)
        take_over(plan, folder, fresh)
        ended: dict[str, Ended] = {}
        told = began
        until = None if minutes is None else time.monotonic() + 60 * minutes
        terms = Terms(folder, fresh, tell, interrupts, until)
        for one in _ends(plan, terms, lanes, processes, code):
            ended[one.folder] = one
            tell_of(one, len(ended), plan, metric, tell, of=len(plan.trials))
            # A process that is killed writes nothing at its end, and a report may be wanted before it.
            if (now := time.perf_counter()) > told + EVERY:
                told = now
                with contextlib.suppress(RunFolderError):  # the runs go on where the disk is full for a while
                    write_results(folder, results_of(plan, ended, metric, now - began))
        ended |= _complete_before(plan, terms, ended)
        found = results_of(plan, ended, metric, time.perf_counter() - began)
        found = found._replace(warning=on_other_data(found.runs, folder))
        write_results(folder, found)
        asked = interrupts.asked if found.left else None
        return Swept(found, exit_code_of(found.runs) if asked is None else EXIT_CODES[asked])


def results_of(plan: Plan, ended: Mapping[str, Ended], metric: str | None, seconds: float) -> Results:
    """Returns what has come of the runs of a plan so far."""
    done = [ended[trial.folder] for trial in plan.trials if trial.folder in ended]
    chosen, mode = metric_of(plan, done, metric)
    ranked = rank([one for one in done if one.status not in UNRANKED], chosen, mode)
    good = [one for one in ranked if one.values]
    return Results(
        metric=chosen, better=mode, keys=tuple(axis.key for axis in plan.axes), settings=ranked, runs=done,
        verdict=verdict(good[0], good[1]) if len(good) > 1 else None,
        left=len(plan.trials) - sum(one.status != Status.INTERRUPTED for one in done), seconds=seconds,
    )  # fmt: skip


def exit_code_of(ended: Sequence[Ended]) -> int:
    """Returns 0 where a run ended well, 3 where one diverged, else 1."""
    if any(one.metrics for one in ended):
        return EXIT_DONE
    return EXIT_DIVERGED if any(one.status == Status.DIVERGED for one in ended) else EXIT_RUNTIME


def check_metric(plan: Plan, metric: str | None) -> None:
    """Refuses a metric that no evaluation will have, before anything is trained."""
    task = plan.base.task
    known = [*TASK_TABLE[task.name].figures, *(task.metrics or ())]
    if metric is not None and metric not in known:
        raise UsageError(f"--metric: {one_of(metric, known, 'metric of this task')}")


def metric_of(plan: Plan, ended: Sequence[Ended], metric: str | None) -> tuple[str, Literal["min", "max"]]:
    """Returns the metric by which a sweep is ranked, and whether smaller or larger is better."""
    config = plan.base
    usual = () if isinstance(config.model, CustomModel) else TASK_TABLE[config.task.name].figures
    measured = next((one.metrics for one in ended if one.metrics), usual)
    name = metric or main_metric(config.task.name, measured, config.checkpoint.best)
    return name, best_mode(config) if name == config.checkpoint.best else better(name, config.task.name)


def _complete_before(plan: Plan, terms: Terms, ended: Mapping[str, Ended]) -> dict[str, Ended]:
    """The runs of earlier commands that are complete, where a signal or the time has come before they were read."""
    found: dict[str, Ended] = {}
    for trial in plan.trials if not terms.fresh else ():
        if trial.folder not in ended:
            with contextlib.suppress(JaxpropError):  # told by the command that gets so far
                before = finished(trial.config, terms.folder / trial.folder)
                found |= {} if before is None else {trial.folder: ended_as(trial, before)}
    return found


def _ends(plan: Plan, terms: Terms, lanes: int | None, processes: int | None, code: Sequence[str]) -> Iterator[Ended]:
    """Yields the runs as they end; none begins after a signal."""
    if processes is not None and processes > 1:  # devices are left to them
        with Processes(plan, terms, lanes, processes, code) as several:
            terms.tell(f"{len(plan.trials)} runs {in_processes(several.count)}")
            yield from several.ends()
        return
    made = groups(plan.trials)
    if processes is None and lanes is None:
        first = next(made)
        chosen = choose_processes(plan, first, terms, code)
        if chosen is not None:
            with chosen:
                yield from chosen.ends()
            return
        made = itertools.chain([first], made)
    for group in made:
        yield from ends_of(group, terms, lanes, terms.tell)


def ends_of(group: Group, terms: Terms, lanes: int | None, tell: Callable[[str], None]) -> Iterator[Ended]:
    """Yields the runs of a program as they end: first those that are complete already.

    Args:
      group: the runs.
      terms: what they have in common.
      lanes: how many are trained at a time; None measures what is faster.
      tell: takes how they are trained.
    """
    if not terms.go_on:
        return
    if group.program is None:
        yield from (failed(trial, group.problem) for trial in group.trials)
        return
    before = complete(group, terms)
    kept = sum(one.status == Status.COMPLETED for one in before)
    if kept:
        tell(f"complete already, and not trained again: {kept} of {len(group.trials)} runs by one program")
    yield from before
    known = {one.folder for one in before}
    left = group._replace(trials=[trial for trial in group.trials if trial.folder not in known])
    if left.trials:
        chosen = choose(left, lanes)
        tell(chosen.note)
        yield from in_turn(left, terms) if chosen.lanes is None else together(chosen.group, terms, chosen.lanes)


def tell_of(
    one: Ended, count: int, plan: Plan, metric: str | None, tell: Callable[[str], None], of: int | None = None
) -> None:
    """Tells how a run has ended, and how many there are."""
    trial = next(trial for trial in plan.trials if trial.folder == one.folder)
    name, _ = metric_of(plan, [one], metric)
    figure = f"{name} {one.metrics[name]:.4g}" if name in one.metrics else one.problem or one.status
    took = "" if one.seconds is None else f" ({duration(one.seconds)})"
    tell(f"[{count}/{of}] {trial.label}: {figure}{took}" if of else f"[{count}] {trial.label}: {figure}{took}")


# -- the folder -------------------------------------------------------------------------------------


_WHOSE = {"config": "of", "fixed": "with the overrides", "keys": "over the keys"}


def refuse_changed(trials: Iterable[Trial], folder: Path, fresh: bool) -> None:
    """Refuses to go on in a folder whose runs another configuration has computed, as after its file was edited.

    Args:
      trials: runs of the sweep; the first that lies there is looked at, since all are of one configuration.
      folder: of the sweep.
      fresh: whether all of them start over.

    Raises:
      UsageError: names what has changed.
    """
    there = next((trial for trial in trials if is_run(folder / trial.folder)), None)
    if there is None or fresh:
        return
    try:
        finished(there.config, folder / there.folder)
    except ChangedError:
        raise
    except JaxpropError:
        pass  # of this run alone, which is told with it


def take_over(plan: Plan, folder: Path, fresh: bool) -> None:
    """Writes what the sweep is; refuses a folder of another one."""
    runs = [{"folder": one.folder, "setting": dict(one.setting), "seed": one.seed} for one in plan.trials]
    config = plan.base
    own = (plan.seeds[0], config.health.every, config.health.rare_every)
    about: dict[str, Any] = {
        "name": plan.name,
        "config": plan.config,
        "fixed": list(plan.fixed),
        "keys": [axis.key for axis in plan.axes],
        "own": dict(zip(OWN, own, strict=True)),
        "runs": runs,
    }
    if is_run(folder):
        raise UsageError(f"{folder} is the folder of a run, not of a sweep; choose another with --run DIR")
    if fresh:
        (folder / RESULTS).unlink(missing_ok=True)
    before = None if fresh else read_sweep(folder)
    if before is not None:
        for name in ("config", "fixed", "keys"):
            if before.get(name) != about[name]:
                raise UsageError(
                    f"{folder} holds another sweep, {_WHOSE[name]} {json.dumps(before.get(name))} and not "
                    f"{json.dumps(about[name])}; choose another folder with --run DIR, or start over with --fresh"
                )
        known = {one["folder"] for one in runs}
        about["runs"] = [*runs, *(one for one in before.get("runs", []) if one["folder"] not in known)]
    write_text(folder / FILE, json.dumps(about, indent=2) + "\n")
