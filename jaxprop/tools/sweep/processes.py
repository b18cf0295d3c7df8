"""Runs of a sweep that are trained at the same time, by processes each of which has its share of the machine."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.errors import UsageError
from jaxprop.run.folder import read_summary
from jaxprop.run.status import Status
from jaxprop.run.swept import Ended
from jaxprop.sinks.jsonl import encode
from jaxprop.tools.sweep.plan import Plan, Trial
from jaxprop.tools.sweep.programs import grouped, numbers_of
from jaxprop.tools.sweep.training import LOOK, Terms, failed

WORKER = "jaxprop.tools.sweep_worker"
Run = tuple[Mapping[str, Any], int, str]  # setting, seed and folder
SHARE = 0.75  # of a GPU's memory, that the processes on it take together


class Work(NamedTuple):
    """What one process is told, as JSON.

    Args:
      config, fixed, code: as of the plan.
      folder: of the sweep.
      fresh: whether runs are trained from their start.
      lanes: how many are trained at a time; None measures what is faster.
      seconds: after which no run begins; None for no limit.
      timed: a run whose steps are timed beside those of the other processes before any is trained; None times none.
      runs: setting, seed and folder of each.
    """

    config: str
    fixed: Sequence[str]
    code: Sequence[str]
    folder: str
    fresh: bool
    lanes: int | None
    seconds: float | None
    timed: Run | None
    runs: Sequence[Run]


class Processes:
    """Processes that train the runs of a plan, each some of them. Leaving the context ends them.

    Args:
      plan: the runs.
      terms: what they have in common.
      lanes: how many runs of a program each process trains at a time.
      count: of processes, at most one for each run.
      code: files of the user's own that may be run.
      timed: a run that `slowest` times; None trains at once.

    Raises:
      UsageError: the machine's devices belong to one process, or so many cannot be started.
    """

    def __init__(
        self, plan: Plan, terms: Terms, lanes: int | None, count: int, code: Sequence[str] = (),
        timed: Trial | None = None,
    ):  # fmt: skip
        if any(Path("/dev").glob("accel[0-9]*")):
            raise UsageError("the TPUs of a machine belong to one process; leave --processes out")
        left = to_train(plan.trials, terms)
        names = {trial.folder for trial in left}
        kept = [trial for trial in plan.trials if trial.folder not in names]  # the first process reads their figures
        first_share, *others = shares(left, count) or [[]]
        self._terms, self._shares, self._waiting = terms, [[*first_share, *kept], *others], timed is not None
        self._found, self._workers = queue.SimpleQueue[tuple[int, str | None]](), list[subprocess.Popen[str]]()
        until = None if terms.until is None else max(terms.until - time.monotonic(), 0.0)
        first = None if timed is None else _run(timed)
        try:
            for i, share in enumerate(self._shares):
                runs = [_run(trial) for trial in share]
                work = Work(plan.config, plan.fixed, code, str(terms.folder), terms.fresh, lanes, until, first, runs)
                self._workers.append(_started(work, part_of(i, len(self._shares))))
        except OSError as error:
            started, self._waiting = len(self._workers), True
            self.close()
            for worker in self._workers:  # nobody reads what they write
                assert worker.stdout is not None
                worker.stdout.close()
            raise UsageError(
                f"{len(self._shares)} processes cannot be started, {started} can ({error.strerror}); use fewer with "
                "--processes"
            ) from error
        for i, worker in enumerate(self._workers):
            threading.Thread(target=_read, args=(i, worker, self._found), daemon=True).start()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._workers)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends them. Where they train, what they have is saved."""
        for worker in self._workers:
            if self._waiting:
                worker.terminate()
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()  # where it trains, it saves its runs and ends
        for worker in self._workers:
            worker.wait()

    def slowest(self) -> float | None:
        """Returns the seconds of a step where all take steps at the same time; None where a process has ended."""
        if len(self._answers("compiled")) < self.count:
            return None
        self._go_on()
        seconds = self._answers("seconds")
        return None if len(seconds) < self.count else max(seconds)

    def _answers(self, word: str) -> list[float]:
        """What all processes say next, or fewer where one has ended or a signal has come."""
        answers: list[float] = []
        while len(answers) < self.count and self._terms.interrupts.asked is None:
            with contextlib.suppress(queue.Empty):
                _, line = self._found.get(timeout=LOOK)
                if line is None:
                    break
                answers.append(json.loads(line)[word])
        return answers

    def _go_on(self) -> None:
        for worker in self._workers:
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # of one that has ended, which is told by what it writes
                worker.stdin.write("\n")
                worker.stdin.flush()

    def ends(self) -> Iterator[Ended]:
        """Trains the runs, and yields them as they end."""
        if self._waiting:
            self._waiting = False
            self._go_on()
        left = [{trial.folder: trial for trial in share} for share in self._shares]
        running, handed_on = set(range(self.count)), False
        while running:
            if self._terms.interrupts.asked is not None and not handed_on:
                handed_on = True
                for worker in self._workers:
                    worker.send_signal(signal.SIGTERM)
            try:
                index, line = self._found.get(timeout=LOOK)
            except queue.Empty:
                continue
            if line is None:
                running.discard(index)
                code = self._workers[index].wait()
                if code and not handed_on:  # what a signal has ended before it trained is left to the next command
                    why = f"the process that trained it ended with code {code}"
                    yield from (failed(trial, why) for trial in left[index].values())
                continue
            told = json.loads(line)
            if "ended" in told:
                left[index].pop(told["ended"]["folder"], None)
                yield _ended(told["ended"])
            else:
                self._terms.tell(told["tell"])


def part_of(index: int, count: int) -> dict[str, str]:
    """Returns the environment that gives a process its part of the machine: GPUs, or a share of their memory.

    Args:
      index: of the process, from 0.
      count: of processes.

    Example:
      >>> sorted(part_of(1, 2))[0]
      'JAXPROP_PART'
    """
    part = {"JAXPROP_PART": f"{index}/{count}"}
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))] if named is None else named.split(",")
    if not gpus or os.environ.get("JAX_PLATFORMS") == "cpu":
        return part
    if len(gpus) >= count:
        return part | {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index::count])}
    sharing = -(-count // len(gpus))
    return part | {
        "CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)],
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{SHARE / sharing:.2f}",
    }


def in_processes(count: int) -> str:
    """Returns `in 1 process`, `in 2 processes`."""
    return f"in {count} process" + ("" if count == 1 else "es")


def to_train(trials: Sequence[Trial], terms: Terms) -> list[Trial]:
    """Returns the runs whose folder does not say that they are complete.

    Args:
      trials: the runs.
      terms: what they have in common.
    """
    if terms.fresh:
        return list(trials)
    summaries = {trial.folder: read_summary(terms.folder / trial.folder) or {} for trial in trials}
    return [trial for trial in trials if summaries[trial.folder].get("status") != Status.COMPLETED]


def shares(trials: Sequence[Trial], count: int) -> list[list[Trial]]:
    """Returns the runs of each process, equally many, and those of a program together as far as that allows.

    Args:
      trials: the runs.
      count: of processes.

    Example:
      >>> from jaxprop.tools.sweep import Axis, plan
      >>> made = plan("digits_mlp", [Axis("optimizer.lr", (0.1, 0.2)), Axis("model.hidden", ([8], [4]))])
      >>> for share in shares(made.trials, 2):
      ...     print(*(trial.folder for trial in share))
      lr=0.1,hidden=_8_,seed=0 lr=0.2,hidden=_8_,seed=0
      lr=0.1,hidden=_4_,seed=0 lr=0.2,hidden=_4_,seed=0
    """
    ordered = [trial for program in grouped(trials, numbers_of(trials)) for trial in program]
    ends = [len(ordered) * i // count for i in range(count + 1)]
    return [ordered[begin:end] for begin, end in itertools.pairwise(ends) if begin < end]


def _run(trial: Trial) -> Run:
    return trial.setting, trial.seed, trial.folder


def _started(work: Work, part: Mapping[str, str]) -> subprocess.Popen[str]:
    # In a session of its own: a Ctrl-C is for the process that waits, which hands it on once.
    worker = subprocess.Popen(
        [sys.executable, "-m", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
        errors="surrogateescape", start_new_session=True, env=os.environ | part,
    )  # fmt: skip
    assert worker.stdin is not None
    worker.stdin.write(encode(work._asdict()) + "\n")
    worker.stdin.flush()
    return worker


def _read(index: int, worker: subprocess.Popen[str], found: queue.SimpleQueue[Any]) -> None:
    assert worker.stdout is not None
    with worker.stdout:
        for line in worker.stdout:
            found.put((index, line))
    found.put((index, None))


def _ended(told: dict[str, Any]) -> Ended:
    metrics = {name: float("nan") if value is None else value for name, value in told["metrics"].items()}
    return Ended(**{**told, "metrics": metrics})
