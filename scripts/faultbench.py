"""Planted training faults: how many the early warning sees, how early, and how many runs the responses save.

    python scripts/faultbench.py [--quick] [--family NAME ...] [--model NAME ...] [--json PATH]
    python scripts/faultbench.py --save-records DIR     # keeps what every step reported
    python scripts/faultbench.py --replay DIR           # shows the records to the watch again, without training

Eighteen families of faults and six of runs in which nothing is wrong, three severities, ten seeds, on small models
that take jaxprop's own step. A run diverges
where its loss is not finite, or above max(1.5 m, m + 0.5) for 20 steps, m the median of the 200 losses before the
fault, or of an untrained model where the fault is there from the start. Lead is that step less the first alert's; a
gradual fault that breaks the loss within 20 steps is as sudden as a bad batch, and its lead is told apart.
An alert detects a sudden fault within 20 steps (a NaN batch in the step itself); a gradual or structural one before
the divergence, or within 20 steps where it diverges sooner; one that never diverges within 300 steps. Thresholds were
chosen on every second family in alphabetical order, the three newest, and the even healthy runs; the others are held
out. The watch is shown gradient norms of each step and everything of the first and of each tenth, as in a run
(`--every 50 --no-opening`: as in a loop of one's own).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

WORKERS = 2


def start_worker(cores: Any) -> None:
    """Gives a worker a core of its own: the models are too small to share out.

    They are compiled at half the effort in half the time, and run as fast.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
    core = cores.get()
    if hasattr(os, "sched_setaffinity") and core is not None:
        os.sched_setaffinity(0, {core})


def spread(function: Callable[[Any], list[Any]], tasks: Iterable[Any], workers: int) -> Iterator[list[Any]]:
    """Results of the tasks from so many processes, as they come."""
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for i in range(workers):
        cores.put(available[i % len(available)] if available else None)
    with context.Pool(workers, start_worker, (cores,)) as pool:
        yield from pool.imap_unordered(function, tasks, chunksize=1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one model, Adam, three seeds: about a minute")
    parser.add_argument("--family", action="append", help="only this family; may be repeated")
    parser.add_argument("--model", action="append", help="only this model; may be repeated")
    parser.add_argument("--seeds", type=int, help="of each severity; ten by default")
    parser.add_argument("--first-seed", type=int, default=0, help="thresholds were chosen on seeds below 200")
    parser.add_argument("--every", type=int, help="steps between full records that the watch is shown; 10 by default")
    parser.add_argument("--no-opening", action="store_true", help="the watch is shown no full record of step 1")
    parser.add_argument("--no-rescue", action="store_true", help="do not run again what has diverged")
    parser.add_argument("--no-healthy", action="store_true", help="no healthy runs")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes, one core each")
    parser.add_argument("--json", type=Path, help="write one result a run here")
    parser.add_argument("--save-records", type=Path, metavar="DIR", help="keep all records here, about 1 GB")
    parser.add_argument("--replay", type=Path, metavar="DIR", help="judge saved records again")
    args = parser.parse_args()
    from faultbench.faults import FAMILIES, QUIET
    from faultbench.models import ARCHITECTURES

    for chosen, known, what in ((args.family, FAMILIES | QUIET, "family"), (args.model, ARCHITECTURES, "model")):
        for name in chosen or ():
            if name not in known:
                parser.error(f"expected --{what} of {', '.join(known)}; got {name}")
    return args


def options_of(args: argparse.Namespace) -> Any:
    """What to run."""
    from faultbench.suite import Options

    options = Options(
        models=tuple(args.model or ()),
        healthy=not args.no_healthy,
        rescue=not args.no_rescue,
        save=None if args.save_records is None else str(args.save_records),
        first=args.first_seed,
        opening=not args.no_opening,
    )
    if args.family:
        options = options._replace(families=tuple(args.family))
    if args.seeds:
        options = options._replace(seeds=args.seeds)
    if args.every:
        options = options._replace(every=args.every)
    if args.quick:
        options = options._replace(models=options.models or ("mlp",), optimizers=("adam",), seeds=3)
    return options


def main() -> None:
    """Runs the suite, or judges saved records, and prints the tables."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    args = parse()
    import jax
    import numpy as np
    import optax
    from faultbench import report, suite

    start = time.perf_counter()
    if args.replay is not None:
        chosen, shown = args.family or None, options_of(args)
        wanted = [path for path in args.replay.glob("*.npz") if chosen is None or path.name.split("__")[0] in chosen]
        tasks: list[Any] = [
            (path, shown.every, shown.opening) for path in sorted(wanted, key=lambda path: -path.stat().st_size)
        ]
        function: Callable = suite.replay
    else:
        options = options_of(args)
        tasks, function = [(programs, options) for programs in suite.groups(options)], suite.work
    results = []
    for done, found in enumerate(spread(function, tasks, args.workers), 1):
        results += found
        print(f"{done} of {len(tasks)} parts, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(results, default=float))
    versions = (
        f"jax {jax.__version__}, optax {optax.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    )
    print(f"{versions}, {platform.machine()}, {args.workers} processes, {time.perf_counter() - start:.0f} s\n")
    print(report.tables(results))


if __name__ == "__main__":
    main()
