"""Speed of a training step in jaxprop and in other libraries, on the same models, weights and batches.

    python scripts/peers.py [--rounds N] [--seconds S] [--only TEXT ...] [--side NAME ...] [--precision P]
                            [--allocator {none,jaxprop,all}] [--out FILE]

Each library has a process of its own, which makes the model from jaxprop's first weights and takes three steps: their
losses have to be those of jaxprop, or its row says by how much they differ and has no time. The processes then take
turns: in a round each measures as many steps as take `--seconds`, in this order and back. Reported is the time of a
library over the time of jaxprop in the same half of a round, so above 1 jaxprop is faster: the median over all halves
with its quartiles. `jaxprop again` is a second process of jaxprop, so its row is the noise (A/A).

With `--allocator jaxprop`, jaxprop and the loop by hand have the allocator that `jaxprop train` starts with, and the
others run as they come; with `all`, every library has it; by default, none has.

The libraries are those of the extra `peers`; what is not installed is said in its row. On CPU measure on a quiet
machine: other processes slow PyTorch's threads down much more than those of JAX.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from peers.worker import FIRST, SIDES
from peers.workloads import CPU, GPU, Workload

from jaxprop.run.allocator import environment_with, find_allocator

AGAIN = "jaxprop again"
ALLOCATORS: dict[str, Sequence[str]] = {"none": (), "jaxprop": ("jaxprop", "by hand"), "all": tuple(SIDES)}
SETTLE_SECONDS = 0.05  # in which the threads of the last one go to sleep
# How far a loss may be from jaxprop's: the first one relative to itself; later ones farther, after steps of Adam, which
# turn the smallest gradient into a whole step.
FIRST_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 1e-2}
LATER_TOLERANCE = {"float32": 1e-2, "bfloat16": 1e-1, "float16": 1e-1}


class Process(NamedTuple):
    """A library at work."""

    side: str
    process: subprocess.Popen[str]

    def ask(self, line: str | None = None) -> dict[str, Any]:
        """Returns the next answer, to a line if one is given."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            if line is not None:
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()
        answer = self.process.stdout.readline()
        return json.loads(answer) if answer else {"error": f"{self.side} ended with {self.process.wait()}"}


def main() -> None:
    """Measures, and prints a table as it goes."""
    args = _arguments()
    folder = Path(__file__).resolve().parent
    workloads = _chosen(args.only, args.device)
    print(f"\n{_machine(args)}\n", flush=True)
    print(
        "| workload | library | step, ms | its time over jaxprop's | CPU cores used |\n|---|---|---|---|---|",
        flush=True,
    )
    found, versions = [], {}
    for workload in workloads:
        rows, said = measure(workload, args, folder)
        found += rows
        versions |= said
        for row in rows:
            print(line_of(row), flush=True)
    print("\n" + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())))
    if args.out:
        document = {"machine": _machine(args), "versions": versions, "precision": args.precision, "rows": found}
        Path(args.out).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def measure(workload: Workload, args: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of one workload, and the versions of the libraries."""
    sides = ["jaxprop", AGAIN, *(side for side in args.side if side != "jaxprop")]
    with tempfile.TemporaryDirectory() as held, contextlib.ExitStack() as running:
        files = _files(workload, Path(held), folder)
        processes, rows, versions, losses = [], [], {}, []
        for side in sides:
            process = running.enter_context(_started(side, files, args, folder))
            first = process.ask()
            problem = first.get("error") or _unequal(first["losses"], losses or first["losses"], args.precision)
            if problem:
                rows.append({"workload": workload.name, "side": side, "problem": problem})
                continue
            losses = losses or first["losses"]
            versions |= first["versions"]
            processes.append(process)
        if losses:
            rows = [*_timed(workload, processes, args), *rows]
        return rows, versions


def _timed(workload: Workload, processes: list[Process], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the libraries that run: their times in turn, there and back."""
    calls = {process.side: 0 for process in processes}
    taken: dict[str, list[dict[str, float]]] = {process.side: [] for process in processes}
    broken: dict[str, str] = {}
    for turn in range(2 * args.rounds + 1):  # the first warms up and counts the steps
        for process in processes if turn % 2 == 0 else reversed(processes):
            if process.side in broken:
                continue
            time.sleep(SETTLE_SECONDS)
            answer = process.ask(f"{args.seconds} {calls[process.side]}")
            if "error" in answer:
                broken[process.side] = answer["error"]
                continue
            calls[process.side] = int(answer["calls"])
            if turn:
                taken[process.side].append(answer)
    rows = []
    for side, answers in taken.items():
        if side in broken or "jaxprop" in broken:
            rows.append({"workload": workload.name, "side": side, "problem": broken.get(side, broken.get("jaxprop"))})
            continue
        ratios = [one["seconds"] / own["seconds"] for one, own in zip(answers, taken["jaxprop"], strict=True)]
        seconds = [one["seconds"] for one in answers]
        rows.append({
            "workload": workload.name, "side": side, "ms": statistics.median(seconds) * 1e3,
            "ratio": _quartiles(ratios), "cores": sum(one["cpu"] for one in answers) / sum(seconds),
            "seconds": seconds,
        })  # fmt: skip
    return rows


def line_of(row: dict[str, Any]) -> str:
    """A row as a line of Markdown."""
    if "problem" in row:
        return f"| {row['workload']} | {row['side']} | {row['problem']} | | |"
    low, middle, high = row["ratio"]
    ratio = "1" if row["side"] == "jaxprop" else f"{middle:.2f} ({low:.2f}-{high:.2f})"
    return f"| {row['workload']} | {row['side']} | {row['ms']:.2f} | {ratio} | {row['cores']:.2f} |"


def _unequal(losses: list[float], expected: list[float], precision: str) -> str | None:
    for i, (one, other) in enumerate(zip(losses, expected, strict=True)):
        tolerance = (LATER_TOLERANCE if i else FIRST_TOLERANCE)[precision]
        if not abs(one - other) <= tolerance * max(abs(other), 1e-3):
            return f"trains something else: its losses are {_listed(losses)}, those of jaxprop {_listed(expected)}"
    assert len(losses) == FIRST
    return None


def _listed(losses: list[float]) -> str:
    return ", ".join(f"{loss:.5g}" for loss in losses)


def _files(workload: Workload, held: Path, folder: Path) -> list[str]:
    """The workload and its first weights as files; made in a process of its own, so that this one has no threads."""
    names = [str(held / "workload.json"), str(held / "weights.npz")]
    Path(names[0]).write_text(json.dumps(workload._asdict()), encoding="utf-8")
    code = (
        "import json, sys, numpy as np; from peers.workloads import Workload; from peers.built_in import weights_of; "
        "np.savez(sys.argv[2], **weights_of(Workload(**json.load(open(sys.argv[1])))))"
    )
    subprocess.run([sys.executable, "-c", code, *names], check=True, cwd=folder, env=_environment(folder))
    return names


@contextlib.contextmanager
def _started(side: str, files: list[str], args: argparse.Namespace, folder: Path) -> Iterator[Process]:
    name = "jaxprop" if side == AGAIN else side
    environment = _environment(folder)
    if name in ALLOCATORS[args.allocator]:
        environment = environment_with(_allocator(), environment)
    worker = subprocess.Popen(
        [sys.executable, "-m", "peers.worker", name, *files, args.precision], cwd=folder, env=environment,
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with worker as process:
        try:
            yield Process(side, process)
        finally:
            process.kill()


def _environment(folder: Path) -> dict[str, str]:
    # Each library may take all of a GPU's memory at its start, and all of them run on one.
    paths = [str(folder.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def _allocator() -> str:
    found = find_allocator(os.environ)
    if found is None:
        sys.exit("no allocator that keeps freed memory was found; install the extra `allocator`, or --allocator none")
    return found


def _quartiles(values: list[float]) -> list[float]:
    return [float(x) for x in np.quantile(values, (0.25, 0.5, 0.75))]


def _chosen(only: list[str], device: str) -> list[Workload]:
    table = GPU if device == "gpu" else CPU
    chosen = [one for one in table if not only or any(text.lower() in one.name.lower() for text in only)]
    if not chosen:
        told = "; ".join(one.name for one in table)
        print(f"no workload has {' or '.join(only)} in its name; there are: {told}", file=sys.stderr)
        raise SystemExit(2)
    return chosen


def _machine(args: argparse.Namespace) -> str:
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return (
        f"{len(os.sched_getaffinity(0))} cores of {model}, {platform.system()}, Python {platform.python_version()}, "
        f"{'' if args.allocator == 'none' else f'{Path(_allocator()).name} for {args.allocator}, '}"
        f"{args.precision}, {args.rounds} rounds of {args.seconds:g} s, load at the start {os.getloadavg()[0]:.2f}, "
        f"{time.strftime('%Y-%m-%d')}"
    )


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    parser.add_argument("--only", action="append", default=[], help="part of a workload's name; may be repeated")
    parser.add_argument("--side", action="append", default=[], choices=list(SIDES), help="default: all of them")
    parser.add_argument("--precision", default="float32", choices=list(FIRST_TOLERANCE))
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"], help="whose table of workloads")
    parser.add_argument("--allocator", default="none", choices=list(ALLOCATORS), help="who has one that keeps memory")
    parser.add_argument("--out", help="file for all samples, as JSON")
    args = parser.parse_args()
    args.side = args.side or list(SIDES)
    return args


if __name__ == "__main__":
    main()
