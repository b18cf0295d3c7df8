"""Searches: settings that are drawn one after another by what the earlier ones gave, each a run like any other."""

from __future__ import annotations

import contextlib
import math
import socket
import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.errors import RunFolderError, UsageError
from jaxprop.run.interrupt import EXIT_CODES, Interrupts
from jaxprop.run.lock import hold
from jaxprop.run.status import Status
from jaxprop.run.swept import Ended, label, on_other_data, read_results, write_results
from jaxprop.tools.sweep.grid import Axis, Span
from jaxprop.tools.sweep.plan import Plan, Trial, check_like, trials_of
from jaxprop.tools.sweep.programs import Programs
from jaxprop.tools.sweep.study import FILE, Asked, Study
from jaxprop.tools.sweep.sweep import (
    WORDS,
    Swept,
    check_metric,
    ends_of,
    exit_code_of,
    metric_of,
    refuse_changed,
    results_of,
    take_over,
    tell_of,
)
from jaxprop.tools.sweep.training import Terms


class Search(NamedTuple):
    """What a search draws, and how long it goes on.

    Args:
      spans: ranges.
      axes: lists.
      sampler: `tpe`, `cmaes` or `random`.
      trials: settings to be tried in all, also before and on other machines; None for no limit.
      minutes: after which no run begins; None for no limit.
      halving: whether runs that are behind are ended.
      storage: URL or SQLite file that several machines may share; None for a file in the folder.
    """

    spans: tuple[Span, ...]
    axes: tuple[Axis, ...]
    sampler: str = "tpe"
    trials: int | None = None
    minutes: float | None = None
    halving: bool = False
    storage: str | None = None


def search(
    plan: Plan, wanted: Search, folder: Path, *, metric: str | None = None, fresh: bool = False,
    lanes: int | None = None, tell: Callable[[str], None] = print, code: Sequence[str] = (),
) -> Swept:  # fmt: skip
    """Draws settings and trains them, until there are enough of them or the time is over.

    Args:
      plan: configuration, fixed overrides and seeds, from `jaxprop.tools.sweep.plan.drawn`.
      wanted: what is drawn.
      folder: of the sweep; each run has a folder in it.
      metric: of the evaluations, that is searched for; default: that of the task.
      fresh: start over.
      lanes: how many settings are drawn and trained at a time; None for one.
      tell: takes a line for a person.
      code: files of the user's own that may be run.

    Raises:
      UsageError: there is no limit, no such metric, or the storage cannot be used.
      JaxpropError: the runs cannot be built.
    """
    _check(plan, wanted)
    check_like(plan)
    check_metric(plan, metric)
    began = time.perf_counter()
    with hold(folder, WORDS), Interrupts() as interrupts, contextlib.ExitStack() as held:
        if fresh and wanted.storage is None:
            (folder / FILE).unlink(missing_ok=True)
        kept = _kept(folder) if not fresh else []
        refuse_changed(_trials_of_newest(plan, kept, code), folder, fresh)
        take_over(plan, folder, fresh)
        name, better = metric_of(plan, kept, metric)
        study = held.enter_context(contextlib.closing(_study(plan, wanted, folder, name, better)))
        until = None if wanted.minutes is None else time.monotonic() + 60 * wanted.minutes
        drawn = _Drawn(plan, study, name, kept, code)
        terms = Terms(folder, fresh, tell, interrupts, until, drawn.is_behind if wanted.halving else None)
        programs = Programs([axis.key for axis in plan.axes])
        while terms.go_on and (wanted.trials is None or study.ended < wanted.trials):
            count = lanes or 1
            trials = drawn.ask(count if wanted.trials is None else min(count, wanted.trials - study.ended))
            for again in drawn.again:
                tell(f"{again} was tried before, and counts once more")
            take_over(plan._replace(trials=tuple(trials)), folder, fresh=False)
            groups = programs.groups(trials)
            for one in (one for group in groups for one in ends_of(group, terms, lanes or 1, _nothing)):
                drawn.note(one)
                tell_of(one, len(drawn.known), drawn.plan(), metric, tell, of=wanted.trials)
            drawn.tell()
            write_results(folder, results_of(drawn.plan(), drawn.known, metric, time.perf_counter() - began))
        found = results_of(drawn.plan(), drawn.known, metric, time.perf_counter() - began)
        if wanted.trials is not None:
            found = found._replace(left=max(wanted.trials - study.ended, 0) * len(plan.seeds))
        found = found._replace(warning=on_other_data(found.runs, folder))
        write_results(folder, found)
        asked = interrupts.asked
        return Swept(found, exit_code_of(found.runs) if asked is None else EXIT_CODES[asked])


def _check(plan: Plan, wanted: Search) -> None:
    if wanted.trials is None and wanted.minutes is None:
        raise UsageError("a search has no end by itself; say how long it goes on, with --trials 40 or --minutes 30")
    if wanted.halving and len(plan.seeds) > 1:
        raise UsageError("--halving compares settings by one run each; leave out --seeds, and repeat the best ones")


def _study(plan: Plan, wanted: Search, folder: Path, metric: str, better: Any) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "config": plan.config, "fixed": list(plan.fixed), "metric": metric,
        "keys": [axis.key for axis in plan.axes],
    }  # fmt: skip
    here = f"{socket.gethostname()}:{folder.resolve()}"
    # Machines that begin at the same time would otherwise draw the same settings.
    apart = 0 if wanted.storage is None else zlib.crc32(here.encode())
    return Study(
        wanted.spans, wanted.axes, sampler=wanted.sampler, better=better, seed=plan.seeds[0] + apart,
        storage=wanted.storage or str(folder / FILE), name=plan.name, about=about, here=here, halving=wanted.halving,
    )  # fmt: skip


def _kept(folder: Path) -> list[Ended]:
    """The runs of earlier calls."""
    try:
        return read_results(folder).runs
    except RunFolderError:
        return []


def _trials_of_newest(plan: Plan, kept: Sequence[Ended], code: Sequence[str]) -> list[Trial]:
    """The runs of the setting that was drawn last in earlier calls, as they would be computed now."""
    return trials_of(plan, kept[-1].setting, code) if kept else []


def _nothing(_line: str) -> None:
    """What is trained how is not told again for each setting."""


class _Drawn:
    """The settings that were drawn, and what has become of their runs."""

    def __init__(self, plan: Plan, study: Study, metric: str, kept: Sequence[Ended], code: Sequence[str]):
        self._plan, self._study, self._metric, self._code = plan, study, metric, code
        self.ended = {one.folder: one for one in kept if one.status != Status.INTERRUPTED}
        self._interrupted: dict[str, Ended] = {}  # asked for again by the same command
        self._trials: dict[str, Trial] = {}
        self.again: list[str] = []  # of the settings that were drawn last, those that had been before
        self._asked: dict[int, tuple[Asked, list[Trial]]] = {}

    def ask(self, count: int) -> list[Trial]:
        """Draws settings, and returns those of their runs that have not ended yet."""
        found: dict[str, Trial] = {}
        self.again = []
        for _ in range(count):
            asked = self._study.ask()
            trials = trials_of(self._plan, asked.setting, self._code)
            self._asked[asked.number] = asked, trials
            if all(trial.folder in self.ended for trial in trials):
                self.again.append(label(asked.setting))
            found |= {trial.folder: trial for trial in trials}
        self._trials |= found
        return [trial for folder, trial in found.items() if folder not in self.ended]

    def note(self, one: Ended) -> None:
        """Keeps how a run has ended."""
        (self._interrupted if one.status == Status.INTERRUPTED else self.ended)[one.folder] = one

    @property
    def known(self) -> dict[str, Ended]:
        """The runs that have ended, and those that were interrupted."""
        return self.ended | self._interrupted

    def is_behind(self, trial: Trial, record: Mapping[str, Any]) -> bool:
        """Whether a run is to end, as far as its evaluations tell."""
        number = next((n for n, (_, trials) in self._asked.items() if trial in trials), None)
        value = record.get(self._metric)
        return number is not None and value is not None and self._study.is_behind(number, float(value))

    def tell(self) -> None:
        """Tells the study of the settings all of whose runs have ended."""
        for number, (_, trials) in list(self._asked.items()):
            runs = [self.ended[trial.folder] for trial in trials if trial.folder in self.ended]
            if len(runs) < len(trials):
                continue
            values = [run.metrics.get(self._metric, math.nan) for run in runs]
            lost = any(not math.isfinite(value) for value in values)
            self._study.tell(number, None if lost else statistics.fmean(values))
            del self._asked[number]

    def plan(self) -> Plan:
        """The plan with all runs that are known, in the order in which they ended."""
        known = []
        for one in self.ended.values():
            trial = self._trials.get(one.folder)
            known.append(trial or Trial(one.setting, one.seed, self._plan.base, one.folder))
        left = [trial for _, trials in self._asked.values() for trial in trials if trial.folder not in self.ended]
        return self._plan._replace(trials=(*known, *left))
