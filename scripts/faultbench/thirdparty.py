"""Programs in which nothing is wrong, trained as a user of the library trains them: every alert is a false one.

    python scripts/faultbench/thirdparty.py [--seeds N] [--first-seed N] [--only seen|kept-back] [--program NAME ...]

Every program takes 1,500 steps with `jaxprop.make_train_step` and its defaults, and each record is shown to a
`jaxprop.health.Watch` with its defaults. Every second program in alphabetical order is kept back: its alerts are
counted and not printed, so that what is changed because of the others can be tried on it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, str(Path(__file__).parent.parent))

from faultbench.programs import KEPT_BACK, PROGRAMS, STEPS, Program
from jaxprop.health import Watch


def train(program: Program, seed: int, steps: int = STEPS) -> dict[str, Any]:
    """Trains one program from one seed; its alerts, and its loss in the beginning and at the end."""
    state, watch = program.start(seed), Watch(stationary=program.stationary)
    alerts, losses = [], []
    for step, batch in zip(range(1, steps + 1), program.batches(seed), strict=False):
        state, m = program.step(state, batch)
        m = m.host()
        losses.append(float(m.loss))
        alerts += [alert.record() for alert in watch.update(step, m)]
    few = max(steps // 50, 1)
    start, end = (sum(part) / len(part) for part in (losses[:few], losses[-few:]))
    return {"seed": seed, "steps": steps, "start": start, "end": end, "alerts": alerts, "outcome": watch.outcome()}


def rate(runs: Sequence[dict[str, Any]], severity: str) -> float:
    """Alerts of a severity in 1,000 steps."""
    steps = sum(run["steps"] for run in runs)
    return 1000 * sum(alert["severity"] == severity for run in runs for alert in run["alerts"]) / max(steps, 1)


def table(results: Sequence[dict[str, Any]]) -> str:
    """One row a program, and one of each half."""
    lines = [
        "| program | loss, first and last | act, advice in 1,000 steps | alerts |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(run["program"] for run in results):
        runs = [run for run in results if run["program"] == name]
        kinds = Counter(f"{a['kind']} ({a['severity']})" for run in runs for a in run["alerts"])
        said = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()) or "-"
        start, end = (sum(run[key] for run in runs) / len(runs) for key in ("start", "end"))
        rates = f"{rate(runs, 'act'):.2f}, {rate(runs, 'advice'):.2f}"
        lines.append(f"| {name} | {start:.3g}, {end:.3g} | {rates} | {'kept back' if name in KEPT_BACK else said} |")
    for what, runs in (
        ("seen", [run for run in results if run["program"] not in KEPT_BACK]),
        ("kept back", [run for run in results if run["program"] in KEPT_BACK]),
        ("all", list(results)),
    ):
        if runs:
            steps = sum(run["steps"] for run in runs)
            wrong = sum(run["outcome"] is not None for run in runs)
            rates = f"{rate(runs, 'act'):.3f}, {rate(runs, 'advice'):.3f}"
            lines.append(f"| {what} | {wrong} of {len(runs)} called untrained | {rates} | {steps:,} steps |")
    return "\n".join(lines)


def main() -> None:
    """Trains the programs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of each program")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", choices=("seen", "kept-back"), help="one half of the programs")
    parser.add_argument("--program", action="append", choices=list(PROGRAMS), help="only this one; may be repeated")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--json", type=Path, help="write all alerts here")
    args = parser.parse_args()
    names = [name for name in args.program or PROGRAMS if args.only != ("seen" if name in KEPT_BACK else "kept-back")]
    results, started = [], time.perf_counter()
    for name in names:
        program = PROGRAMS[name]()
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            results.append({"program": name} | train(program, seed, args.steps))
        print(f"{name}, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(results, default=float))
    print(table(results))


if __name__ == "__main__":
    main()
