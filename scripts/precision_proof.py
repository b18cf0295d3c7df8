"""Whether half precision reaches what float32 reaches: every shipped configuration, in three precisions, over seeds.

Every run is `jaxprop train CONFIG run.seed=S precision.policy=P` in a folder of its own, and is appended to the file of
results at once, so that an interrupted measurement goes on where it stopped. Then the table of all results is printed.

The test is Welch's, of the difference of the means against its standard error:

    d = mean(half) - mean(float32),   s^2 = var(half) / n + var(float32) / m,   within noise: |d| <= t(0.975, f) s

with the degrees of freedom f of Welch and Satterthwaite; `d ± t s` is the interval of 95 %. With 3 seeds t is 2.8 to
4.3, so that the interval is wide, and what is told is that no difference was found that is larger than it. Of 20 rows
one is expected outside by chance.

`--scale 0.1` takes a tenth of the steps of each configuration, `--steps 200` at most 200, and the warm-up and the steps
between evaluations are shortened by the same factor. The table says how many steps there were.

    python scripts/precision_proof.py [CONFIG ...] [--seeds 0,1,2] [--scale 0.1] [--steps 200] [--out FILE]
    python scripts/precision_proof.py --table [--out FILE] [--write]

`--write` puts the table into docs/results/PRECISION.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import bench_configs

PRECISIONS = ("float32", "bfloat16", "float16")
PASSED_OVER = ("step", "infeasible", "bytes_per_token")  # properties of the data, not of what was learned
DIVERGED = 3  # exit code; another failure is tried again the next time
PAGE = bench_configs.ROOT / "docs" / "results" / "PRECISION.md"
HEAD = """# The shipped configurations in half precision

Made by `python scripts/precision_proof.py`; do not edit. Mean and standard deviation of the figures of the test split,
at the step that the validation split chose, over the seeds that the column counts. The last two columns are the
difference of the means with the half width of its interval of 95 % (Welch's t), and whether it contains 0. With three
seeds the interval is wide: what is shown is that no larger difference was found. Of 20 rows one is expected outside by
chance.

Runs with fewer steps than the configuration has were shortened to save time, their warm-up with them; language models
were then evaluated on 16 batches.
"""
TITLES = (
    "| config | steps | test metric | seeds | float32 | bfloat16 | float16 | bfloat16 - float32 | float16 - float32 |"
)


class Comparison(NamedTuple):
    """Difference of two means, and half the width of its interval of 95 %; infinite where there is no spread."""

    difference: float
    margin: float

    @property
    def within(self) -> bool:
        """Whether the interval contains zero."""
        return abs(self.difference) <= self.margin


def welch(half: list[float], full: list[float], share: float = 0.95) -> Comparison | None:
    """Compares two samples by Welch's t; None where one of them has fewer than two figures."""
    if min(len(half), len(full)) < 2:
        return None
    from scipy import stats

    difference = statistics.mean(half) - statistics.mean(full)
    parts = [statistics.variance(values) / len(values) for values in (half, full)]
    if not sum(parts):
        return Comparison(difference, 0.0)
    freedom = sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (half, full), strict=True))
    t = float(stats.t.ppf(0.5 + share / 2, freedom))
    return Comparison(difference, t * math.sqrt(sum(parts)))


# -- the runs ---------------------------------------------------------------------------------------


@functools.cache
def whole(config: str) -> tuple[Any, int]:
    """A configuration, and the steps that it takes."""
    from jaxprop.config.load import load
    from jaxprop.run.compose import compose

    found = load(bench_configs.ROOT / "configs" / f"{config}.yaml").config
    return found, found.run.steps or compose(found).total_steps


def shortened(config: str, scale: float, most: int | None) -> tuple[int, tuple[str, ...]]:
    """Steps of a run, and the overrides that shorten it; none where it is not shortened."""
    if scale == 1 and most is None:
        return 0, ()
    found, full = whole(config)
    steps = max(1, min(round(full * scale), most or full))
    if steps >= full:
        return full, ()
    by = steps / full
    overrides = [f"run.steps={steps}"]
    if found.run.eval_every is not None:
        overrides.append(f"run.eval_every={max(1, round(found.run.eval_every * by))}")
    warmup = getattr(found.optimizer.schedule, "warmup_steps", 0)
    if warmup:
        overrides.append(f"optimizer.schedule.warmup_steps={max(1, round(warmup * by))}")
    return steps, tuple(overrides)


def records(out: Path) -> list[dict[str, Any]]:
    """All runs of a file; the latest of each configuration, shortening, precision and seed."""
    lines = out.read_text().splitlines() if out.exists() else []
    latest = {key(r): r for r in map(json.loads, lines)}
    return [latest[at] for at in sorted(latest)]


def key(record: dict[str, Any]) -> tuple[str, tuple[str, ...], str, int]:
    """What a run is known by."""
    return record["config"], tuple(record["overrides"]), record["precision"], record["seed"]


def measure(configs: list[str], seeds: list[int], out: Path, *, scale: float, most: int | None, again: bool) -> None:
    """Runs what is not in the file yet, and appends each result at once."""
    ended = [r for r in records(out) if r.get("failed") in (None, DIVERGED)]
    done = set() if again else {key(r) for r in ended}
    out.parent.mkdir(parents=True, exist_ok=True)
    for config in configs:
        steps, overrides = shortened(config, scale, most)
        for seed in seeds:
            for precision in PRECISIONS:
                if (config, overrides, precision, seed) in done:
                    continue
                found = bench_configs.run(config, seed, precision, quiet=False, overrides=overrides, cached=True)
                found |= {"overrides": overrides, "planned": steps or found.get("step")}
                with out.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                told = found.get("test") or f"failed with {found['failed']}: {found['error']}"
                print(config, precision, seed, told, f"CPU {found['cpu_seconds']} s", flush=True)


# -- the table --------------------------------------------------------------------------------------


def table(found: list[dict[str, Any]]) -> str:
    """The table of all results, and in how many rows a difference lies within the noise."""
    lines, counts = [TITLES, "|---" * TITLES.count(" | ") + "|---|"], {half: [0, 0] for half in PRECISIONS[1:]}
    for group in sorted({(r["config"], tuple(r["overrides"])) for r in found}):
        runs = [r for r in found if (r["config"], tuple(r["overrides"])) == group]
        lines += rows(runs, counts)
    for half, (within, all_of_them) in counts.items():
        lines.append(f"\n{half}: {within} of {all_of_them} rows within the noise of the seeds (Welch's t, 95 %)")
    return "\n".join(lines)


def rows(runs: list[dict[str, Any]], counts: dict[str, list[int]]) -> list[str]:
    """The rows of one configuration, one for each of its metrics; adds what they show to the counts."""
    config, steps = runs[0]["config"], max(r.get("step") or r.get("planned") or 0 for r in runs)
    trained = {p: [r for r in runs if r["precision"] == p and "test" in r] for p in PRECISIONS}
    failed = [f"{r['precision']} {r['seed']}: {r['error']}" for r in runs if "failed" in r]
    lines = [f"| {config} | {steps} | failed: {one} | | | | | | |" for one in failed]
    first_ones = [r["test"] for r in runs if "test" in r][:1]
    metrics = [name for test in first_ones for name in test if name not in PASSED_OVER]
    for metric in metrics:
        values = {p: [r["test"][metric] for r in trained[p]] for p in PRECISIONS}
        seeds = "/".join(str(len(values[p])) for p in PRECISIONS)
        compared = {half: welch(values[half], values["float32"]) for half in PRECISIONS[1:]}
        for half, one in compared.items():
            if one is not None:
                counts[half][0] += one.within
                counts[half][1] += 1
        shown = [figure(values[p]) for p in PRECISIONS] + [verdict(compared[half]) for half in PRECISIONS[1:]]
        first = metric == metrics[0]
        lines.append(f"| {config if first else ''} | {steps if first else ''} | {metric} | {seeds} | ")
        lines[-1] += " | ".join(shown) + " |"
    return lines


def figure(values: list[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return "-"
    return f"{statistics.mean(values):.4g}" + (f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else "")


def verdict(one: Comparison | None) -> str:
    """A comparison in words."""
    if one is None:
        return "-"
    if not one.margin:
        return "equal" if not one.difference else f"{one.difference:+.2g}, no spread: different"
    return f"{one.difference:+.2g} ± {one.margin:.2g}: {'within' if one.within else 'different'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=bench_configs.names(), metavar="CONFIG")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps that are taken")
    parser.add_argument("--steps", type=int, help="largest number of steps")
    parser.add_argument("--out", type=Path, default=bench_configs.ROOT / "docs" / "results" / "precision.jsonl")
    parser.add_argument("--again", action="store_true", help="run what is in the file once more")
    parser.add_argument("--table", action="store_true", help="print the table, and run nothing")
    parser.add_argument("--write", action="store_true", help=f"write the table to {PAGE.name}, too")
    args = parser.parse_args()
    if not args.table:
        seeds = [int(seed) for seed in args.seeds.split(",")]
        measure(args.configs, seeds, args.out, scale=args.scale, most=args.steps, again=args.again)
    made = table(records(args.out))
    print(made)
    if args.write:
        PAGE.write_text(f"{HEAD}\n{made}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
