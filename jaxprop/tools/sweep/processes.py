"""Programs of a sweep that are trained at the same time, each by a process of its own with its share of the machine."""

from __future__ import annotations

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
from jaxprop.run.swept import Ended
from jaxprop.sinks.jsonl import encode
from jaxprop.tools.sweep.plan import Plan, Trial
from jaxprop.tools.sweep.programs import grouped, numbers_of
from jaxprop.tools.sweep.training import LOOK, Terms, failed

WORKER = "jaxprop.tools.sweep.worker"
SHARE = 0.75  # of a GPU's memory, that the processes on it take together


class Work(NamedTuple):
    """What one process is told, as JSON.

    Args:
      config, fixed, code: as of the plan.
      folder: of the sweep.
      fresh: whether runs are trained from their start.
      lanes: how many are trained at a time; None measures what is faster.
      seconds: after which no run begins; None for no limit.
      runs: setting, seed and folder of each.
    """

    config: str
    fixed: Sequence[str]
    code: Sequence[str]
    folder: str
    fresh: bool
    lanes: int | None
    seconds: float | None
    runs: Sequence[tuple[Mapping[str, Any], int, str]]


def in_processes(
    plan: Plan, terms: Terms, lanes: int | None, processes: int, code: Sequence[str] = ()
) -> Iterator[Ended]:
    """Trains the runs of a plan in several processes, among which its programs are divided; yields them as they end.

    Args:
      plan: the runs.
      terms: what they have in common.
      lanes: how many runs of a program are trained at a time.
      processes: at most so many; a program is never divided.
      code: files of the user's own that may be run.

    Raises:
      UsageError: the machine's devices belong to one process.
    """
    if any(Path("/dev").glob("accel[0-9]*")):
        raise UsageError("the TPUs of a machine belong to one process; leave --processes out")
    shares = _shares(plan.trials, processes)
    said = f"{len(plan.trials)} runs in {len(shares)} processes"
    terms.tell(f"{said}, fewer than {processes}: no more programs" if len(shares) < processes else said)
    until = None if terms.until is None else max(terms.until - time.monotonic(), 0.0)
    found = queue.SimpleQueue[tuple[int, str | None]]()
    workers = []
    try:
        for i, share in enumerate(shares):
            runs = [(trial.setting, trial.seed, trial.folder) for trial in share]
            work = Work(plan.config, plan.fixed, code, str(terms.folder), terms.fresh, lanes, until, runs)
            workers.append(_started(work, part_of(i, len(shares))))
        readers = [
            threading.Thread(target=_read, args=(i, worker, found), daemon=True) for i, worker in enumerate(workers)
        ]
        for reader in readers:
            reader.start()
        yield from _as_they_end(shares, workers, found, terms)
    finally:
        for worker in workers:  # a worker whose input is closed saves its runs and ends
            assert worker.stdin is not None
            worker.stdin.close()
        for worker in workers:
            worker.wait()


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


def _shares(trials: Sequence[Trial], processes: int) -> list[list[Trial]]:
    """The runs of whole programs, the largest first to whoever has fewest."""
    shares: list[list[Trial]] = [[] for _ in range(processes)]
    for program in sorted(grouped(trials, numbers_of(trials)), key=len, reverse=True):
        min(shares, key=len).extend(program)
    return [share for share in shares if share]


def _started(work: Work, part: Mapping[str, str]) -> subprocess.Popen[str]:
    # In a session of its own: a Ctrl-C is for the process that waits, which hands it on once.
    worker = subprocess.Popen(
        [sys.executable, "-m", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True, env=os.environ | part,
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


def _as_they_end(
    shares: Sequence[Sequence[Trial]], workers: Sequence[subprocess.Popen[str]], found: queue.SimpleQueue[Any],
    terms: Terms,
) -> Iterator[Ended]:  # fmt: skip
    left = [{trial.folder: trial for trial in share} for share in shares]
    running, handed_on = set(range(len(workers))), False
    while running:
        if terms.interrupts.asked is not None and not handed_on:
            handed_on = True
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
        try:
            index, line = found.get(timeout=LOOK)
        except queue.Empty:
            continue
        if line is not None:
            told = json.loads(line)
            if "ended" in told:
                left[index].pop(told["ended"]["folder"], None)
                yield _ended(told["ended"])
            else:
                terms.tell(told["tell"])
            continue
        running.discard(index)
        code = workers[index].wait()
        if code:
            for trial in left[index].values():
                yield failed(trial, f"the process that trained it ended with code {code}")


def _ended(told: dict[str, Any]) -> Ended:
    metrics = {name: float("nan") if value is None else value for name, value in told["metrics"].items()}
    return Ended(**{**told, "metrics": metrics})
