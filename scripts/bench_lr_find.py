"""What `jaxprop lr-find` suggests, against a grid of learning rates: whole runs with their own schedules.

    python scripts/bench_lr_find.py [--case NAME ...] [--part grid|suggestion|table ...] [--points N] [--results FILE]

Every run is written to FILE as it ends, and none is made twice, so that the script may be stopped and called again.
A run that diverges counts as infinitely bad. What is compared is the loss on the test split at the end of the run.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxprop.config.load import load
from jaxprop.errors import EXIT_DIVERGED, EXIT_DONE
from jaxprop.run.train import train
from jaxprop.tools import lr_find

# name -> config and overrides
CASES: dict[str, tuple[str, list[str]]] = {
    "digits_cnn": ("digits_cnn", []),
    "digits_mlp": ("digits_mlp", []),
    "digits_mlp, sgd momentum": (
        "digits_mlp",
        ["optimizer.name=sgd", "optimizer.momentum=0.9", "optimizer.decay_mask=all"],
    ),
    "stdlib_lm": ("stdlib_lm", []),
}
LOWEST, HIGHEST = 3e-5, 3e-1


def final_loss(config: str, overrides: list[str], lr: float) -> dict[str, Any]:
    """Trains a config at a rate; its loss at the end, None where it diverged, and the seconds it took."""
    started = time.perf_counter()
    quiet = ["checkpoint.enabled=false", "sinks.tensorboard=false"]
    loaded = load(config, [*overrides, *quiet, f"optimizer.lr={lr!r}"])
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(loaded.config, folder, quiet=True)
    if outcome.exit_code not in (EXIT_DONE, EXIT_DIVERGED):
        raise SystemExit(outcome.exit_code)  # interrupted: nothing is known of this rate
    loss = outcome.summary["metrics"].get("loss") if outcome.exit_code == EXIT_DONE else None
    return {"lr": lr, "loss": loss, "seconds": round(time.perf_counter() - started, 1)}


def suggest(config: str, overrides: list[str]) -> dict[str, Any]:
    """What the range test says of a config, without its curve."""
    started = time.perf_counter()
    found = lr_find.find_rate(load(config, overrides).config)
    return {"suggested": found.suggested, "why": found.why, "seconds": round(time.perf_counter() - started, 1)}


class Results:
    """The runs made so far, in a file."""

    def __init__(self, path: Path):
        self._path = path
        self.runs: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def trained(self, case: str, lr: float) -> dict[str, Any]:
        """The run of a case at a rate, made if need be."""
        return self._kept(f"{case} {lr:.6g}", lambda: final_loss(*CASES[case], lr))

    def suggested(self, case: str) -> dict[str, Any]:
        """What the range test says of a case."""
        return self._kept(f"{case} suggestion", lambda: suggest(*CASES[case]))

    def _kept(self, key: str, make: Any) -> dict[str, Any]:
        if key not in self.runs:
            self.runs[key] = make()
            self._path.write_text(json.dumps(self.runs, indent=1) + "\n")
            print(f"{key}: {self.runs[key]}", flush=True)
        return self.runs[key]


def row(case: str, grid: list[dict[str, Any]], suggestion: dict[str, Any], run: dict[str, Any] | None) -> str:
    """A row of the table: the best of the grid, the suggestion, and how much worse it ends."""
    best = min(grid, key=lambda point: math.inf if point["loss"] is None else point["loss"])
    cells = [case, f"{best['lr']:.2g}", f"{best['loss']:.4f}"]
    if run is None:
        return f"| {' | '.join(cells)} | none: {suggestion['why']} | | |"
    loss = math.inf if run["loss"] is None else run["loss"]
    within = [point["lr"] for point in grid if point["loss"] is not None and point["loss"] <= 1.1 * best["loss"]]
    cells += [f"{run['lr']:.2g}", f"{loss:.4f}", f"{100 * (loss / best['loss'] - 1):+.1f} %"]
    return f"| {' | '.join(cells)} | {min(within):.2g} to {max(within):.2g} | {suggestion['seconds']} |"


def main() -> None:
    """Makes the runs that are asked for, and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=[*CASES], help="only this case; may be repeated")
    parser.add_argument("--part", action="append", choices=["grid", "suggestion", "table"], help="only this part")
    parser.add_argument("--points", type=int, default=12, help="rates of the grid, log spaced")
    parser.add_argument("--results", type=Path, default=Path("lr_find_results.json"), help="where runs are kept")
    args = parser.parse_args()
    results, parts = Results(args.results), args.part or ["grid", "suggestion", "table"]
    rates = [float(f"{lr:.4g}") for lr in np.geomspace(LOWEST, HIGHEST, args.points)]
    rows = []
    for case in args.case or CASES:
        grid = [results.trained(case, lr) for lr in rates] if {"grid", "table"} & {*parts} else []
        if {"suggestion", "table"} & {*parts}:
            suggestion = results.suggested(case)
            lr = suggestion["suggested"]
            run = None if lr is None else results.trained(case, lr)
            rows += [row(case, grid, suggestion, run)] if "table" in parts else []
    if rows:
        print("\n| case | best lr | its loss | suggested lr | its loss | worse by | within 10 % | seconds |")
        print("|---|---|---|---|---|---|---|---|")
        print("\n".join(rows))


if __name__ == "__main__":
    main()
