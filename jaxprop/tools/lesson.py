"""Lessons: packaged configs that are run in several variants and with several seeds, and compared."""

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

FIRST_STEPS = 50  # steps that count as the beginning of a run


class Run(NamedTuple):
    """The results of a run: its summary, its records, and its rows of layers."""

    summary: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]


Figures = dict[str, float]  # by the figure's name, of one run
Measured = dict[str, list[Figures]]  # by variant, one for each seed


class Lesson(NamedTuple):
    """One lesson.

    Args:
      question: the question that it answers.
      variants: name of each variant -> the overrides that define it.
      figures: name of each figure -> the function that computes it from a run.
      claim: the statement that the figures should confirm.
      holds: whether the claim holds for the figures of one seed, given by variant.
      look: where the report shows it.
    """

    question: str
    variants: Mapping[str, tuple[str, ...]]
    figures: Mapping[str, Callable[[Run], float]]
    claim: str
    holds: Callable[[Mapping[str, Figures]], bool]
    look: str


class Taught(NamedTuple):
    """The outcome of a lesson: the figures of every run, for which seeds the claim holds, and the runs' folders."""

    lesson: Lesson
    measured: Measured
    held: list[bool]
    folders: list[Path]


def teach(name: str, folder: Path, *, seeds: int = 3, fresh: bool = False) -> Taught:
    """Runs each variant of a lesson with each seed, in a separate folder; completed runs are not repeated.

    Args:
      name: a key of `LESSONS`.
      folder: the folder for the runs.
      seeds: number of seeds.
      fresh: whether to repeat completed runs too.

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
            run = Run(
                outcome.summary, list(_read_jsonl(path / "metrics.jsonl")), list(_read_jsonl(path / "layers.jsonl"))
            )
            measured[label].append({figure: measure(run) for figure, measure in lesson.figures.items()})
            folders.append(path)
    held = [lesson.holds({label: runs[seed] for label, runs in measured.items()}) for seed in range(seeds)]
    return Taught(lesson, measured, held, folders)


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of a JSONL file."""
    with open(path, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


# -- figures --------------------------------------------------------------------------------------


def first_over_last(run: Run) -> float:
    """Gradient norm of the first hidden layer over that of the last; median over the first steps."""
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
    """Number of steps whose loss or gradient was not finite."""
    return float(max((record.get("skips", 0) for record in _training(run)), default=0))


def median_update_ratio(run: Run) -> float:
    """||dw|| / ||w||; median over the layers and the first steps."""
    ratios = [row.get("update_ratio") for row in run.rows if "layer" in row and row["step"] <= FIRST_STEPS]
    return statistics.median([ratio for ratio in ratios if ratio is not None] or [math.nan])


def last_loss(run: Run) -> float:
    """Loss on the test split at the end; infinite if the run has diverged."""
    loss = run.summary["metrics"].get("loss")
    return math.inf if loss is None or run.summary["status"] == Status.DIVERGED else loss


def settled_loss(run: Run) -> float:
    """Training loss; mean over the last fifth of the records."""
    losses = [math.inf if record["loss"] is None else record["loss"] for record in _training(run)]
    return statistics.fmean(losses[-max(1, len(losses) // 5) :]) if losses else math.nan


def first_loss(run: Run) -> float:
    """Training loss of the first step."""
    return _number(_training(run)[0]["loss"])


def first_gradient(run: Run) -> float:
    """Gradient norm of the first step."""
    return _number(_training(run)[0]["grad_norm"])


def early_gradient(run: Run) -> float:
    """Root mean square of the gradient norms of the first ten steps."""
    return math.sqrt(statistics.fmean(_number(record["grad_norm"]) ** 2 for record in _training(run)[:10]))


def speed(run: Run) -> float:
    """Examples that a second trains on, without compiling."""
    return _number(run.summary["examples_per_second"])


def accuracy(run: Run) -> float:
    """Accuracy on the test split; 0 if the run has diverged."""
    return run.summary["metrics"].get("accuracy") or 0.0


def _number(value: float | None) -> float:
    return math.inf if value is None else value


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


# Trained parameters by size, and what of the config makes as many.
SIZES = {
    "1e2": (100, ("optimizer.groups=[{match: 'layers/.*', freeze: true}]",)),
    "1e4": (9_985, ("model.hidden=[133]", "optimizer.lr=1e-2")),
    "1e6": (999_985, ("model.hidden=[13333]", "optimizer.lr=1e-3")),
}
DIRECTIONS = 4  # in which each of these looks at the loss
ESTIMATORS = {
    "forward": ("gradient.estimator=forward", f"gradient.samples={DIRECTIONS}"),
    "spsa": ("gradient.estimator=spsa", f"gradient.samples={DIRECTIONS}"),
    "evolution": ("gradient.estimator=evolution", f"gradient.population={2 * DIRECTIONS}"),
}


def _noise_grows(runs: Mapping[str, Figures]) -> bool:
    """Squares of norms within a factor of 4 of theory; and a smaller part of backpropagation's progress at 1e6.

    One estimate from few directions is far from its mean, so that those of some steps are taken, before the gradient
    has changed much. Ranks take the loss out of the norm of an evolution strategy, so that theory says nothing of it.
    """
    shares = {}
    for size, (n, _) in SIZES.items():
        exact = runs[f"{size} backprop"]
        for name in ESTIMATORS:
            found = runs[f"{size} {name}"]
            excess = _over(found["early gradient norms"], exact["first gradient norm"]) ** 2
            if name != "evolution" and not 1 / 4 < excess / (1 + n / DIRECTIONS) < 4:
                return False
            shares[size, name] = _over(
                found["first loss"] - found["last training losses"], exact["first loss"] - exact["last training losses"]
            )
    return all(1.5 * shares["1e6", name] < shares["1e2", name] < 1 for name in ESTIMATORS)


def _over(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


LESSONS = {
    "vanishing": Lesson(
        "Why do deep networks train well with relu and gelu, and badly with sigmoid?",
        {name: (f"model.activation={name}",) for name in ("sigmoid", "relu", "gelu")},
        {"first / last gradient": first_over_last, "accuracy": accuracy},
        "after eight sigmoid layers less than 1/1000 of the gradient is left; with relu and gelu, more than 1/100",
        _vanishes,
        "the depth profile, and the heat map of gradient RMS: the lower layers of the sigmoid run stay dark",
    ),
    "exploding": Lesson(
        "Why are the gradients of recurrent networks clipped?",
        {"unclipped": (), "clipped": ("optimizer.grad_clip={norm: 1.0}",)},
        {"largest gradient": largest_gradient, "steps skipped": steps_skipped, "test loss": last_loss},
        "over 128 time steps the gradient explodes and the run fails; with clipping to norm 1, the same run learns",
        _explodes,
        "the gradient norm, on its logarithmic axis, and the first alerts",
    ),
    "rates": Lesson(
        "How does one see that a learning rate is too low or too high?",
        {
            "too low": ("optimizer.lr=1e-4",),
            "right": ("optimizer.lr=5e-2",),
            "too high": ("optimizer.lr=3.0",),
        },
        {"update ratio": median_update_ratio, "test loss": last_loss, "accuracy": accuracy},
        "updates that are too small for the weights do not learn, and neither do updates that overshoot the minimum",
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
        {"test loss": last_loss, "update ratio": median_update_ratio},
        "on a small transformer, each reaches a lower loss in 200 steps than the one before",
        _order_of_optimizers,
        "the loss, and the heat map of the update ratio: Adam scales the updates of every layer separately",
    ),
    "schedule": Lesson(
        "What does a schedule add to a good learning rate?",
        {
            "constant": (),
            "warmup and cosine": ("optimizer.schedule={name: warmup_cosine, warmup_steps: 30}",),
        },
        {"last training losses": settled_loss, "test loss": last_loss, "accuracy": accuracy},
        "a rate that decays from the same peak ends at less than a third of the training loss of a constant rate",
        _settles,
        "the loss: with a constant rate it keeps fluctuating, and with a decaying rate it settles",
    ),
    "evolution": Lesson(
        "What is the backward pass worth, against estimates of the gradient from forward passes alone?",
        {
            f"{size} {name}": (*made, *chosen)
            for size, (_, made) in SIZES.items()
            for name, chosen in {"backprop": (), **ESTIMATORS}.items()
        },
        {
            "first gradient norm": first_gradient,
            "early gradient norms": early_gradient,
            "first loss": first_loss,
            "last training losses": settled_loss,
            "examples a second": speed,
        },
        "an estimate from K directions has about 1 + n / K times the squared norm of the gradient of n parameters, and "
        "of what backpropagation learns from the same batches, estimates learn a part, which at 1e6 parameters is less "
        "than two thirds of that at 1e2",
        _noise_grows,
        "the loss of the variants of one size, and the gradient norm, which is mostly noise",
    ),
}
