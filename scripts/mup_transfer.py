"""Whether the best learning rate at a small width is the best at a large one, with mup and with standard rates.

    python scripts/mup_transfer.py [--model mlp|transformer ...] [--widths 64,512] [--seeds N] [--folder DIR] [--write]

For each model, parametrization and width, 8 rates, each twice the one before, are trained with several seeds by
`jaxprop sweep`, with the same batches; every run has one evaluation, at its end. The best rate is that of the lowest
mean loss on data that was not trained on. A best rate at an end of its grid is marked, since the best may lie outside.
Where runs are complete in the folder, they are not trained again. `--write` writes `docs/results/MUP.md`.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxprop.tools.sweep import Axis, Swept, plan, sweep

ROOT = Path(__file__).parent.parent
RATES = 8
BASE = 64


class Subject(NamedTuple):
    """A model, the data and the length that it is trained with, and the middle of its grid of rates.

    Args:
      config: shipped configuration.
      width: overrides that make the model of a width.
      fixed: other overrides.
      first: exponents of two of the first rate, with mup and with standard rates.
    """

    config: str
    width: Any
    fixed: tuple[str, ...]
    first: dict[str, int]


SUBJECTS = {
    "mlp": Subject(
        "digits_mlp",
        lambda width: [f"model.hidden=[{width},{width}]"],
        (
            "model.dropout=0", "optimizer.schedule={name: constant}", "optimizer.weight_decay=0", "run.epochs=5",
            "run.eval_every=115", "optimizer.grad_clip=null",
        ),
        {"mup": -11, "standard": -12},
    ),
    "transformer": Subject(
        "stdlib_lm",
        lambda width: [f"model.width={width}"],
        (
            "model.layers=2", "model.heads=4", "data.batch_size=8", "data.sequence_length=32", "model.dropout=0",
            "optimizer.schedule={name: constant}", "optimizer.weight_decay=0", "optimizer.grad_clip=null",
            "run.epochs=null", "run.steps=100", "run.eval_every=100", "run.eval_batches=20", "run.log_every=50",
        ),
        {"mup": -11, "standard": -14},
    ),
}  # fmt: skip
COMMON = ("checkpoint.enabled=false", "health.every=1", "health.rare_every=1000")


def measured(subject: Subject, name: str, kind: str, width: int, seeds: int, folder: Path) -> Swept:
    """Trains the grid of one model at one width."""
    rates = tuple(2.0 ** (subject.first[kind] + i) for i in range(RATES))
    fixed = [*subject.fixed, *COMMON, *subject.width(width)]
    if kind == "mup":
        fixed += ["optimizer.parametrization=mup", f"optimizer.base_width={BASE}"]
    made = plan(subject.config, [Axis("optimizer.lr", rates)], fixed, seeds)
    return sweep(
        made, folder / f"{name}-{kind}-{width}", metric="loss", lanes=1, tell=lambda line: print(line, flush=True)
    )


def table(name: str, found: dict[tuple[str, int], Swept], widths: list[int], seeds: int) -> list[str]:
    """The rows of one model: losses by rate, the best rate of each width, and how far it moves."""
    lines = [
        f"| {name} | width | best rate | loss there | mean loss by rate, from the lowest rate to the highest |",
        "|---|---:|---:|---:|---|",
    ]
    for kind in ("mup", "standard"):
        best = {}
        for width in widths:
            settings = sorted(found[kind, width].ranked, key=lambda one: one.setting["optimizer.lr"])
            good = [one for one in settings if len(one.values) == seeds]
            top = min(good, key=lambda one: one.mean)
            best[width] = top.setting["optimizer.lr"]
            rate = f"2^{math.log2(best[width]):.0f}" + " (end of the grid)" * (top in (settings[0], settings[-1]))
            curve = " ".join("lost" if len(one.values) < seeds else f"{one.mean:.3f}" for one in settings)
            lines.append(f"| {kind} | {width} | {rate} | {top.mean:.3f} ± {top.margin:.2g} | {curve} |")
        moved = best[widths[0]] / best[widths[-1]]
        lines.append(f"| {kind} | {widths[0]} over {widths[-1]} | **{moved:g}** | | |")
    return lines


def main() -> None:
    """Prints the tables, and writes them where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=[*SUBJECTS], help="only this one; may be repeated")
    parser.add_argument("--widths", default="64,512")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", help="of the runs; by default a temporary one")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    logging.getLogger("jaxprop").setLevel("ERROR")
    widths, began = [int(width) for width in options.widths.split(",")], time.perf_counter()
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(options.folder or place)
        for name in options.model or SUBJECTS:
            found = {
                (kind, width): measured(SUBJECTS[name], name, kind, width, options.seeds, folder)
                for kind in ("mup", "standard") for width in widths
            }  # fmt: skip
            lines += ["", *table(name, found, widths, options.seeds)]
    about = f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, {options.seeds} seeds"
    print(f"{about}, {time.perf_counter() - began:.0f} s", *lines, sep="\n")
    if options.write:
        head = (
            f"# Rates that transfer over widths\n\nMade by `python scripts/mup_transfer.py`; {about}. {INTRODUCTION}\n"
        )
        (ROOT / "docs" / "results" / "MUP.md").write_text("\n".join([head, *lines[1:]]) + "\n")


INTRODUCTION = (
    "Rates are powers of two, so that the best one of a grid is known to a factor of two at most. The loss is that of "
    "data that was not trained on, at the end of a short run, with Student's 95 % margin over the seeds. With mup the "
    "base width is 64, so both parametrizations are the same model there."
)

if __name__ == "__main__":
    main()
