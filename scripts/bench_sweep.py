"""A sweep against the same runs one command after another, whole commands, compilation included.

    python scripts/bench_sweep.py [--runs 24] [--only NAME] [--lanes auto 24]

The runs are those of `jaxprop sweep CONFIG 'optimizer.lr=log(...)'`; by themselves each is `jaxprop train` in a process
of its own, with a folder of compiled programs that is empty for the first and kept for the others, as a shell loop has
it. The best runs are the same ones, or the row says so. Reported are wall seconds and seconds on processors, and the
ratio to the loop; below 1 the sweep is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

CASES = {
    "digits_mlp": ("digits_mlp", "optimizer.lr", 1e-4, 1e-1, ()),
    "small LM": (
        "stdlib_lm", "optimizer.lr", 1e-4, 1e-2,
        ("model.layers=2", "model.width=64", "model.heads=2", "run.steps=100", "optimizer.schedule.warmup_steps=10"),
    ),
}  # fmt: skip


class Took(NamedTuple):
    """Wall seconds and seconds on processors."""

    seconds: float
    processors: float


def timed(words: list[str], cache: Path) -> tuple[Took, str]:
    """Runs `jaxprop WORDS`; returns its time and what it printed."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "JAXPROP_COMPILE_CACHE": ""}
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run([sys.executable, "-m", "jaxprop", *words], capture_output=True, text=True, env=environment)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(time.perf_counter() - began, busy), ran.stdout


def best_of(values: dict[float, float]) -> float:
    return max(values, key=lambda rate: values[rate])


def by_loop(case: str, runs: int, folder: Path) -> tuple[Took, float]:
    """Every run by a command of its own; their time, and the best rate."""
    from jaxprop.tools.sweep.grid import axes_of

    config, key, low, high, words = CASES[case]
    (axis,) = axes_of([f"{key}=log({low}, {high}, {runs})"]).axes
    seconds = processors = 0.0
    found = {}
    for rate in axis.values:
        took, printed = timed(
            ["train", config, f"{key}={rate}", *words, "--run", str(folder / str(rate)), "--json"], folder / "cache"
        )
        seconds, processors = seconds + took.seconds, processors + took.processors
        found[rate] = json.loads(printed)["best"]["accuracy"]
    return Took(seconds, processors), best_of(found)


def by_sweep(case: str, runs: int, lanes: str, folder: Path) -> tuple[Took, float]:
    """The same runs by one command."""
    config, key, low, high, words = CASES[case]
    values = f"{key}=log({low}, {high}, {runs})"
    took, printed = timed(
        ["sweep", config, values, *words, "--lanes", lanes, "--run", str(folder / "sweep"), "--json"], folder / "cache"
    )
    runs_of = json.loads(printed)["runs"]
    return took, best_of({one["setting"][key]: one["metrics"]["accuracy"] for one in runs_of if one["metrics"]})


def main() -> None:
    """Prints one row for each way to train the runs of each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--only", choices=CASES, nargs="*", default=list(CASES))
    parser.add_argument("--lanes", nargs="*", default=["auto"])
    args = parser.parse_args()
    print("| runs | how | seconds (on processors) | ratio | best rate |\n|---|---|---|---|---|")
    for case in args.only:
        with tempfile.TemporaryDirectory() as room:
            loop, rate = by_loop(case, args.runs, Path(room))
        name = f"{args.runs} of {case}"
        print(f"| {name} | a command each | {loop.seconds:.0f} ({loop.processors:.0f}) | 1 | {rate:g} |", flush=True)
        for lanes in args.lanes:
            with tempfile.TemporaryDirectory() as room:
                took, rate = by_sweep(case, args.runs, lanes, Path(room))
            ratio = f"{took.seconds / loop.seconds:.2f} ({took.processors / loop.processors:.2f})"
            how = f"`jaxprop sweep --lanes {lanes}`"
            print(f"| {name} | {how} | {took.seconds:.0f} ({took.processors:.0f}) | {ratio} | {rate:g} |", flush=True)


if __name__ == "__main__":
    main()
