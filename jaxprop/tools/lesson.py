"""Lessons: a packaged config each, run in several variants over several seeds, and what the runs then show."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.config.load import load
from jaxprop.errors import UsageError, one_of
from jaxprop.run.status import Status
from jaxprop.run.train import train

FIRST_STEPS = 50  # over which a run's beginning is judged


class Run(NamedTuple):
    """What a run has left: its summary, its records of training, and its rows of layers."""

    summary: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]


Figures = dict[str, float]  # by the figure's name, of one run
Measured = dict[str, list[Figures]]  # by variant, one for each seed


class Lesson(NamedTuple):
    """One lesson.

    Args:
      question: that it answers.
      variants: what is compared, and the overrides that make each.
      figures: what is measured of each run.
      claim: what the figures are to show.
      holds: whether those of one seed do, by variant.
      look: where to see it in the report.
    """

    question: str
    variants: Mapping[str, tuple[str, ...]]
    figures: Mapping[str, Callable[[Run], float]]
    claim: str
    holds: Callable[[Mapping[str, Figures]], bool]
    look: str


class Taught(NamedTuple):
    """A lesson's outcome: every run's figures, the seeds for which its claim holds, and its runs' folders."""

    lesson: Lesson
    measured: Measured
    held: list[bool]
    folders: list[Path]


def teach(name: str, folder: Path, *, seeds: int = 3, fresh: bool = False) -> Taught:
    """Runs a lesson: each variant with each seed, in a folder of its own; a run that is complete is not repeated.

    Args:
      name: one of `LESSONS`.
      folder: for the runs.
      seeds: how many.
      fresh: repeat the runs that are complete, too.

    Raises:
      UsageError: there is no such lesson, or fewer than one seed.
    """
    if name not in LESSONS:
        raise UsageError(one_of(name, LESSONS, "lesson"))
    if seeds < 1:
        raise UsageError(f"a lesson takes at least one seed, got {seeds}")
    lesson, folders = LESSONS[name], []
    measured: Measured = {label: [] for label in lesson.variants}
    for seed in range(seeds):
        for label, overrides in lesson.variants.items():
            path = folder / f"{label}-{seed}"
            config = load(f"lessons/{name}", (*overrides, f"run.seed={seed}")).config
            outcome = train(config, path, fresh=fresh, quiet=True)
            run = Run(outcome.summary, list(read(path / "metrics.jsonl")), list(read(path / "layers.jsonl")))
            measured[label].append({figure: measure(run) for figure, measure in lesson.figures.items()})
            folders.append(path)
    held = [lesson.holds({label: runs[seed] for label, runs in measured.items()}) for seed in range(seeds)]
    return Taught(lesson, measured, held, folders)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a file of a run's folder."""
    with open(path, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


# -- figures --------------------------------------------------------------------------------------


def first_over_last(run: Run) -> float:
    """Gradient norm of the first hidden layer over that of the last, median of the first steps."""
    names = [n for n in dict.fromkeys(row.get("layer") for row in run.rows) if n and n.startswith("layers/")]
    norms = [
        [row["grad_norm"] for row in run.rows if row.get("layer") == name and row["step"] <= FIRST_STEPS]
        for name in (names[0], names[-1])
    ]
    ratios = [first / last for first, last in zip(*norms, strict=True) if first is not None and last]
    return statistics.median(ratios) if ratios else math.nan


def largest_gradient(run: Run) -> float:
    """Largest gradient norm of a step, before clipping."""
    return max((record["grad_norm"] for record in _training(run) if record["grad_norm"] is not None), default=math.nan)


def steps_skipped(run: Run) -> float:
    """Steps whose loss or gradient was not finite."""
    return float(max((record.get("skips", 0) for record in _training(run)), default=0))


def update_ratio(run: Run) -> float:
    """||dw|| / ||w||, median over layers and the first steps."""
    ratios = [row.get("update_ratio") for row in run.rows if "layer" in row and row["step"] <= FIRST_STEPS]
    return statistics.median([ratio for ratio in ratios if ratio is not None] or [math.nan])


def last_loss(run: Run) -> float:
    """Loss on the test split at the end; infinite where the run has diverged."""
    loss = run.summary["metrics"].get("loss")
    return math.inf if loss is None or run.summary["status"] == Status.DIVERGED else loss


def settled_loss(run: Run) -> float:
    """Training loss, mean of the last fifth of the records."""
    losses = [math.inf if record["loss"] is None else record["loss"] for record in _training(run)]
    return statistics.fmean(losses[-max(1, len(losses) // 5) :]) if losses else math.nan


def accuracy(run: Run) -> float:
    """Share of the test split that is classified rightly; 0 where the run has diverged."""
    return run.summary["metrics"].get("accuracy") or 0.0


def _training(run: Run) -> list[Mapping[str, Any]]:
    return [record for record in run.records if record["split"] == "train"]


# -- lessons --------------------------------------------------------------------------------------


def _vanishes(runs: Mapping[str, Figures]) -> bool:
    ratios = {label: figures["first / last gradient"] for label, figures in runs.items()}
    return ratios["sigmoid"] < 1e-3 and min(ratios["relu"], ratios["gelu"]) > 1e-2


def _explodes(runs: Mapping[str, Figures]) -> bool:
    free, clipped = runs["unclipped"], runs["clipped"]
    return free["steps skipped"] > 0 == clipped["steps skipped"] and clipped["test loss"] < free["test loss"]


def _needs_the_right_rate(runs: Mapping[str, Figures]) -> bool:
    ratios = [runs[label]["update ratio"] for label in ("too low", "right", "too high")]
    losses = {label: figures["test loss"] for label, figures in runs.items()}
    return ratios[0] * 10 < ratios[1] and losses["right"] * 5 < min(losses["too low"], losses["too high"])


def _order_of_optimizers(runs: Mapping[str, Figures]) -> bool:
    losses = [runs[label]["test loss"] for label in ("sgd", "momentum", "rmsprop", "adam")]
    return all(before > after for before, after in itertools.pairwise(losses))


def _settles(runs: Mapping[str, Figures]) -> bool:
    return runs["warmup and cosine"]["last training losses"] < 1 / 3 * runs["constant"]["last training losses"]


LESSONS = {
    "vanishing": Lesson(
        "Why do deep networks train with relu and gelu, and hardly with sigmoid?",
        {name: (f"model.activation={name}",) for name in ("sigmoid", "relu", "gelu")},
        {"first / last gradient": first_over_last, "accuracy": accuracy},
        "behind eight sigmoids less than a thousandth of the gradient is left; behind relu and gelu over a hundredth",
        _vanishes,
        "the depth profile, and the heat map of gradient RMS: the lower layers of the sigmoid run stay dark",
    ),
    "exploding": Lesson(
        "Why are the gradients of recurrent networks clipped?",
        {"unclipped": (), "clipped": ("optimizer.grad_clip={norm: 1.0}",)},
        {"largest gradient": largest_gradient, "steps skipped": steps_skipped, "test loss": last_loss},
        "over 128 steps of time the gradient explodes and the run is lost; clipped to norm 1 the same run learns",
        _explodes,
        "the gradient norm, on its logarithmic axis, and the first alerts",
    ),
    "rates": Lesson(
        "How does one see that a learning rate is too low, or too high?",
        {
            "too low": ("optimizer.lr=1e-4",),
            "right": ("optimizer.lr=5e-2",),
            "too high": ("optimizer.lr=3.0",),
        },
        {"update ratio": update_ratio, "test loss": last_loss, "accuracy": accuracy},
        "steps below a ten-thousandth of the weights lead nowhere, and neither do such that leap over the minimum",
        _needs_the_right_rate,
        "the loss, the heat map of the update ratio (about 1e-3 to 1e-2 is healthy), and the alerts of the first steps",
    ),
    "optimizers": Lesson(
        "What do momentum, RMSprop and Adam add to plain SGD?",
        {
            "sgd": ("optimizer.name=sgd", "optimizer.lr=0.1"),
            "momentum": ("optimizer.name=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.9"),
            "rmsprop": ("optimizer.name=rmsprop", "optimizer.lr=1e-3"),
            "adam": ("optimizer.name=adam", "optimizer.lr=3e-3"),
        },
        {"test loss": last_loss, "update ratio": update_ratio},
        "on a small transformer each gets further in 200 steps than the one before",
        _order_of_optimizers,
        "the loss, and the heat map of the update ratio: Adam gives every layer steps of its own size",
    ),
    "schedule": Lesson(
        "What does a schedule add to a good learning rate?",
        {
            "constant": (),
            "warmup and cosine": ("optimizer.schedule={name: warmup_cosine, warmup_steps: 30}",),
        },
        {"last training losses": settled_loss, "test loss": last_loss, "accuracy": accuracy},
        "from the same peak, a rate that comes down ends at less than a third of the constant one's training loss",
        _settles,
        "the loss: with a constant rate it goes on bouncing, with the rate it comes down",
    ),
}
