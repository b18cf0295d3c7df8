"""What each shipped configuration reaches, over seeds and precisions, from the `summary.json` of its own command.

Every run is `jaxprop train CONFIG run.seed=S precision.policy=P` in a folder of its own. What it wrote is appended to
`docs/results/configs.jsonl` at once, with its time from the typed line to the end and its CPU seconds, so that an
interrupted measurement goes on where it stopped. `--table` writes `docs/results/CONFIGS.md` from that file.

    python scripts/bench_configs.py [CONFIG ...] [--seeds 0,1,2] [--precisions float32,bfloat16] [--again]
    python scripts/bench_configs.py --table
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "results" / "configs.jsonl"
PAGE = ROOT / "docs" / "results" / "CONFIGS.md"
HEAD = """\
# What the shipped configurations reach

Made by `python scripts/bench_configs.py` from the `summary.json` of each run; do not edit. The figures are those of
the test split, at the step that the validation split chose, with the seeds that the column names. Seconds are the
median from the typed line to the end of the command, with every program compiled anew, and in parentheses the CPU
seconds, on 2 cores of an x86-64 server without accelerator. Where other programs ran at the same time, only the CPU
seconds are given. The last column is the mean in half precision minus the mean in float32.

"""


def names() -> list[str]:
    """The configurations in `configs/`."""
    return sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def run(
    config: str, seed: int, precision: str, *, quiet: bool, overrides: tuple[str, ...] = (), cached: bool = False
) -> dict[str, Any]:
    """One run of one configuration, and what it wrote; `failed` and the last line of the error where it has failed.

    Args:
      config: its name.
      seed: of the run.
      precision: the policy.
      quiet: whether wall time is recorded.
      overrides: further ones.
      cached: whether programs may come out of the cache of compiled programs; if not, all are compiled.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jaxprop", "train", config, f"run.seed={seed}", *overrides]
        command += [] if precision == "float32" else [f"precision.policy={precision}"]
        started, used = time.perf_counter(), cpu_seconds()
        environment = os.environ | ({} if cached else {"JAXPROP_COMPILE_CACHE": "off"})
        ended = subprocess.run(
            [*command, "--run", f"{folder}/run", "-q"], capture_output=True, text=True, env=environment
        )
        seconds, cpu = time.perf_counter() - started, cpu_seconds() - used
        found = {"config": config, "seed": seed, "precision": precision, "cores": os.cpu_count()}
        found |= {"seconds": round(seconds, 1) if quiet else None, "cpu_seconds": round(cpu, 1)}
        if ended.returncode:
            told = ended.stderr.strip().splitlines() or [""]
            return found | {"failed": ended.returncode, "error": told[-1][-2000:]}
        summary = json.loads(Path(folder, "run", "summary.json").read_text())
        alerts = Path(folder, "run", "alerts.jsonl")
        kinds = [json.loads(line)["kind"] for line in alerts.read_text().splitlines()] if alerts.exists() else []
    # without a validation split, the test split is what the last evaluation saw
    tested = summary["test"] or {"step": summary["step"], **summary["metrics"]}
    kept = ("step", "best", "reference", "parameters", "versions")
    return found | {"alerts": kinds, "test": tested, **{key: summary[key] for key in kept}}


def cpu_seconds() -> float:
    """CPU seconds of the programs that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def records() -> list[dict[str, Any]]:
    """All measured runs; the latest of each configuration, seed and precision."""
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    latest = {(r["config"], r["precision"], r["seed"]): r for r in map(json.loads, lines)}
    return [latest[key] for key in sorted(latest)]


def figures(found: list[dict[str, Any]], metric: str) -> str:
    """The figure of each seed."""
    return ", ".join(f"{r['test'][metric]:.4g}" for r in found) or "-"


def rows(config: str, found: list[dict[str, Any]]) -> list[str]:
    """The rows of one configuration: one for each of its metrics."""
    by = {p: [r for r in found if r["precision"] == p] for p in ("float32", "bfloat16", "float16")}
    full = by["float32"]
    if not full:
        return []
    metrics = [name for name in full[0]["test"] if name not in ("step", "loss")] or ["loss"]
    seconds = [r["seconds"] for r in full if r["seconds"] is not None]
    cpu = f"({statistics.median(r['cpu_seconds'] for r in full):.0f})"
    time_taken = f"{statistics.median(seconds):.0f} {cpu}" if seconds else cpu
    return [
        f"| {config if metric == metrics[0] else ''} | {metric} | {figures(full, metric)} | "
        f"{', '.join(str(r['seed']) for r in full)} | {time_taken if metric == metrics[0] else ''} | "
        f"{figures(by['bfloat16'], metric)} | {figures(by['float16'], metric)} | {difference(by, metric)} |"
        for metric in metrics
    ]


def difference(by: dict[str, list[dict[str, Any]]], metric: str) -> str:
    """Mean in half precision minus the mean in float32, over the seeds that both have."""
    told = []
    for half in ("bfloat16", "float16"):
        seeds = {r["seed"] for r in by[half]} & {r["seed"] for r in by["float32"]}
        if seeds:
            means = [statistics.mean(r["test"][metric] for r in by[p] if r["seed"] in seeds) for p in (half, "float32")]
            told.append(f"{means[0] - means[1]:+.4f}")
    return ", ".join(told) or "-"


def page() -> str:
    """The page with the table."""
    titles = "| config | test metric | float32 | seeds | seconds | bfloat16 | float16 | half precision - float32 |"
    lines = [titles, "|---|---|---|---|---|---|---|---|"]
    found = records()
    for config in names():
        lines += rows(config, [r for r in found if r["config"] == config])
    return HEAD + "\n".join(lines) + "\n"


def measure(configs: list[str], seeds: list[int], precisions: list[str], *, again: bool, quiet: bool) -> None:
    """Runs what is not measured yet, and appends each result at once."""
    done = set() if again else {(r["config"], r["precision"], r["seed"]) for r in records()}
    for seed in seeds:
        for precision in precisions:
            for config in configs:
                if (config, precision, seed) in done:
                    continue
                found = run(config, seed, precision, quiet=quiet)
                if "failed" in found:
                    sys.exit(f"{config} {precision} {seed} ended with {found['failed']}: {found['error']}")
                with RECORD.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(
                    config,
                    precision,
                    seed,
                    found["test"],
                    f"{found['seconds']} s, CPU {found['cpu_seconds']} s",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=names(), metavar="CONFIG")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--precisions", default="float32")
    parser.add_argument("--again", action="store_true", help="measure what is on record once more")
    parser.add_argument("--busy", action="store_true", help="other programs are running: record no wall time")
    parser.add_argument("--table", action="store_true", help="write the table, and measure nothing")
    args = parser.parse_args()
    if not args.table:
        seeds = [int(seed) for seed in args.seeds.split(",")]
        measure(args.configs, seeds, args.precisions.split(","), again=args.again, quiet=not args.busy)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
