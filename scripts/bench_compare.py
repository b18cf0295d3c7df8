"""Whether `jaxprop bench compare` finds a planted slowdown, and nothing between equal programs.

    python scripts/bench_compare.py [--pairs N] [--processes N] [--seconds S] [--slower SHARE] [--all-cores]
                                    [--keep DIR] [--again DIR]

Each document is measured in processes of its own, merged as `--processes` of `jaxprop bench` does, on a train step of
a small MLP that takes 5 to 20 ms. The two documents of a pair follow one another. In a planted pair, one of them sleeps
after each step for a share of the time which that step has taken; which one is measured first alternates. In an equal
pair, both are the same program. Planted and equal pairs alternate, too, so that both meet the same machine.

All of them run on one core, so that what else runs has the others; `--all-cores` measures on all of them.

Reported is how many of the pairs have each verdict, and how long the measured processes have waited for a core, which
says how busy the machine was. `--keep` keeps the documents, and `--again` judges the documents of such a folder without
measuring.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxprop
from jaxprop.bench.compare import Line, compare
from jaxprop.bench.document import SCHEMA, Document, read, write
from jaxprop.bench.environment import environment
from jaxprop.bench.processes import merge
from jaxprop.bench.rounds import Job, Plan, Prepared, measure

WIDTH, BATCH = 768, 256
PROCESSES = 5  # that measure a document, one after the other
SECONDS = 3.0  # of measuring in each
BURST = 0.25  # seconds of one round


def step_and_state() -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    """The train step, what makes its state, and a batch; random, so that nothing decays to denormal numbers."""
    rng = np.random.default_rng(0)
    sizes = (WIDTH, WIDTH, WIDTH, 10)
    params = {
        f"dense_{i}": rng.normal(0, (2 / n) ** 0.5, (n, m)).astype(np.float32)
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    }
    batch = {
        "inputs": rng.normal(size=(BATCH, WIDTH)).astype(np.float32),
        "labels": rng.integers(0, 10, BATCH).astype(np.int32),
    }

    def loss_fn(params, batch, _key):
        x = batch["inputs"]
        for i in range(len(sizes) - 1):
            x = x @ params[f"dense_{i}"]
            x = jax.nn.relu(x) if i < len(sizes) - 2 else x
        return optax.losses.softmax_cross_entropy_with_integer_labels(x, batch["labels"]).mean()

    step = jaxprop.make_train_step(loss_fn, optax.adamw(1e-4), health=False)
    return step, lambda: step.init(jax.tree.map(jax.numpy.asarray, params), key=jax.random.key(0)), batch


def job(slower: float, slept: dict[str, float]) -> Job:
    """The train step as `bench` measures it.

    Args:
      slower: share of a step's time to sleep after it.
      slept: gets the `seconds` of sleeping, and those of the steps, `of`.
    """
    step, init, batch = step_and_state()

    def prepare() -> Prepared:
        held = {"state": init()}
        on_device = jax.device_put(batch)

        def call(_i: int) -> Any:
            start = time.perf_counter()
            held["state"], measured = step(held["state"], on_device)
            jax.block_until_ready(measured)
            if slower:
                taken = time.perf_counter() - start
                time.sleep(slower * taken)
                slept["of"] += taken
                slept["seconds"] += time.perf_counter() - start - taken
            return measured

        return Prepared(call, lambda m: "" if np.isfinite(float(m.loss)) else "the loss is not finite")

    return Job("train", "step", "ms", prepare, better="lower", per_call=1e3, device=jax.devices()[0])


def measure_one(path: Path, slower: float, seconds: float) -> None:
    """Measures in this process."""
    devices = jax.devices()[:1]
    slept = {"seconds": 0.0, "of": 0.0}
    wanted = job(slower, slept)
    wanted.prepare().call(0)  # compiles, so that the time is for measuring alone
    started, start = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    # An aim of 0 is never reached, so all processes have the same time.
    *_, row = measure([wanted], Plan(seconds=seconds, burst=BURST, aim=0.0), devices)
    facts = {"slept": round(slept["seconds"] / slept["of"], 4)} if slept["of"] else {}
    document = Document(
        schema=SCHEMA,
        command="train",
        started=started,
        seconds=time.monotonic() - start,
        complete=True,
        environment=environment(devices),
        rows=[row.model_copy(update={"facts": row.facts | facts})],
    )
    write(path, document)


def measure_document(path: Path, slower: float, options: argparse.Namespace) -> None:
    """Measures one document in new processes."""
    with tempfile.TemporaryDirectory() as temporary:
        parts = [Path(temporary, f"{i}.json") for i in range(options.processes)]
        for part in parts:
            words = ["--measure", str(part), "--slower", str(slower), "--seconds", str(options.seconds)]
            subprocess.run([sys.executable, __file__, *words], check=True)
        write(path, merge([read(part) for part in parts], options.processes))


def measure_pairs(folder: Path, options: argparse.Namespace) -> None:
    """Measures all documents, `KIND-NUMBER-a.json` and `-b.json`; `b` has what is planted."""
    for i in range(options.pairs):
        for kind, planted in (("planted", options.slower), ("equal", 0.0)):
            sides = [("a", 0.0), ("b", planted)]
            for side, share in sides if i % 2 == 0 else reversed(sides):
                measure_document(folder / f"{kind}-{i:02}-{side}.json", share, options)
        print(f"pair {i + 1} of {options.pairs} is measured", file=sys.stderr, flush=True)


def judged(folder: Path) -> dict[str, list[Line]]:
    """The verdict of each pair in a folder, by kind."""
    found: dict[str, list[Line]] = {"planted": [], "equal": []}
    for first in sorted(folder.glob("*-a.json")):
        second = first.with_name(first.name.replace("-a.json", "-b.json"))
        if second.exists():  # the last pair of a measurement that was interrupted has none
            found[first.name.split("-")[0]].append(compare(read(first), read(second)).lines[0])
    return found


def waits(folder: Path) -> list[float]:
    """Share of the measured time that each document's processes have waited for a core."""
    found = []
    for path in sorted(folder.glob("*.json")):
        row = read(path).rows[0]
        measured = row.calls * sum(one for samples in row.samples for one in samples)
        if measured and "waited_seconds" in row.facts:
            found.append(float(row.facts["waited_seconds"]) / measured)
    return found


def report(folder: Path) -> None:
    """Prints each pair, and a table of the verdicts."""
    found = judged(folder)
    for kind, lines in found.items():
        for i, line in enumerate(lines):
            interval = f"[{line.low:.3f}, {line.high:.3f}]" if line.low and line.high else "without an interval"
            ratio = f"{line.ratio:.3f}" if line.ratio else "none"
            floor = f"{line.floor:.1%}" if line.floor is not None else "none"
            print(f"{kind} {i:02}: {line.verdict:<10} {ratio} {interval}, floor {floor}; {line.reason}".rstrip("; "))
    verdicts = ("slower", "faster", "same", "no verdict")
    print(f"\n| pairs | {' | '.join(verdicts)} |\n|---|{'---:|' * len(verdicts)}")
    for kind, lines in found.items():
        counts = [sum(line.verdict == verdict for line in lines) for verdict in verdicts]
        print(f"| {kind} | {' | '.join(f'{count} of {len(lines)}' for count in counts)} |")
    slept = [fact for path in folder.glob("planted-*-b.json") if (fact := read(path).rows[0].facts.get("slept"))]
    if slept:
        print(f"\nslept after a planted step: median {statistics.median(slept):.1%} of its time")
    waited = waits(folder)
    if waited:
        print(f"waited for a core: median {statistics.median(waited):.1%} of the time, at most {max(waited):.1%}")


def main() -> None:
    """Measures pairs and judges them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of each kind")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="that measure one document")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of measuring in each process")
    parser.add_argument("--slower", type=float, default=0.08, help="what is planted, as a share of a step's time")
    parser.add_argument("--all-cores", action="store_true", help="measure on all cores instead of one")
    parser.add_argument("--keep", type=Path, help="folder for the documents; default: one that is deleted")
    parser.add_argument("--again", type=Path, help="folder of documents to judge without measuring")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_one(options.measure, options.slower, options.seconds)
        return
    if options.again:
        report(options.again)
        return
    if hasattr(os, "sched_setaffinity") and not options.all_cores:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the processes that measure inherit it
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        measure_pairs(folder, options)
        report(folder)


if __name__ == "__main__":
    main()
