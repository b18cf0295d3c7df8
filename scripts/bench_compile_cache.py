"""What the folder of compiled programs saves: the first and the second start of each shipped configuration.

Each round has a new, empty folder; a start is `jaxprop train CONFIG` of two steps in a process of its own, so that the
step's first two programs and that of the evaluation are compiled. Of each start there are three times:

- `jax's own`: tracing, lowering, and compiling or reading, of all its programs, as jax reports them
- `first calls`: `compile_seconds` of `summary.json`, for which each program also runs once
- `whole start`: the process from its beginning to its end, without the restart for a faster allocator

    python scripts/bench_compile_cache.py
    python scripts/bench_compile_cache.py digits_mlp --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

CONFIGS = ("digits_mlp", "digits_cnn", "stdlib_lm")
SHORT = ("run.epochs=null", "run.steps=2", "optimizer.schedule.warmup_steps=0")
PARTS = {  # what jax calls them
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling or reading",
}


def start(config: str, folder: Path, cache: Path) -> dict[str, float]:
    """One start in a process of its own, and its times."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "JAXPROP_COMPILE_CACHE": ""}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, __file__, "start", "train", config, *SHORT, "--run", str(folder), "--json"]
    began = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - began
    if ran.returncode:
        raise SystemExit(ran.stderr)
    summary, spent = ran.stdout.rsplit("\n{", 1)
    times = json.loads("{" + spent)
    own = sum(times[part] for part in PARTS.values())
    return {**times, "jax's own": own, "first calls": json.loads(summary)["compile_seconds"], "whole start": seconds}


def run_here() -> int:
    """In the child: the command, and then a line with jax's account of its compilations."""
    from jaxprop.run.compile_cache import open_cache

    open_cache(os.environ, print)
    import jax

    from jaxprop.cli import main

    spent = Counter(dict.fromkeys(PARTS.values(), 0.0))

    def listen(event: str, duration_secs: float, **_: object) -> None:
        if event in PARTS:
            spent[PARTS[event]] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    code = main(sys.argv[2:])
    print(json.dumps(spent))
    return code


def measure(config: str, rounds: int) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """The times of first and of second starts, one of each a round."""
    first, second = [], []
    with tempfile.TemporaryDirectory() as work:
        for i in range(rounds):
            for n, times in ((1, first), (2, second)):
                times.append(start(config, Path(work) / f"run{i}{n}", Path(work) / f"cache{i}"))
    return first, second


def cells(first: list[dict[str, float]], second: list[dict[str, float]], name: str) -> list[str]:
    """Medians of both starts, and of their ratio with its extremes."""
    ratios = sorted(two[name] / one[name] for one, two in zip(first, second, strict=True))
    medians = [f"{statistics.median(times[name] for times in side):.2f}" for side in (first, second)]
    return [*medians, f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"]


def main() -> None:
    """Measures, and prints a table in Markdown."""
    if sys.argv[1:2] == ["start"]:
        sys.exit(run_here())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| config | time | first start, s | second start, s | ratio |\n|---|---|---|---|---|")
    for config in options.configs:
        first, second = measure(config, options.rounds)
        for name in (*PARTS.values(), "jax's own", "first calls", "whole start"):
            print(f"| {' | '.join([config, name, *cells(first, second, name)])} |", flush=True)


if __name__ == "__main__":
    main()
