"""The learning-rate range test: one short run in which the rate grows exponentially, and what its losses say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.dump import dump, with_absolute_paths
from jaxprop.config.schema import schedules
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.groups import Group
from jaxprop.errors import RunFolderError, UsageError
from jaxprop.run import compose
from jaxprop.run.compose import place
from jaxprop.run.folder import write_text
from jaxprop.run.initial import begin
from jaxprop.sinks.jsonl import encode

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 150
WINDOW = 15  # steps over which a slope is taken, 0.7 decades
SMOOTHING = 0.8  # of the moving average of losses
SMOOTHED_NOISE = ((1 - SMOOTHING) / (1 + SMOOTHING) / 2) ** 0.5  # noise of `smooth`'s mean over that of a loss
SURE = 5.0  # standard errors by which a slope or a rise must differ from zero
LOST = 0.5  # rise of the loss that ends a sweep, as a share of what it had fallen by
FIRST = 10  # steps whose mean is the loss at the start
AGREE = 2.0  # factor within which two sweeps agree


class Suggestion(NamedTuple):
    """The learning rate that one sweep suggests, and what it follows from.

    Args:
      rate: the geometric mean of `fastest` and `best`; None where the loss does not fall.
      fastest: rate at which the loss falls fastest; None where it does not fall.
      slope: slope of the loss at `fastest`, per decade of the rate.
      error: standard error of the slope.
      best: smallest rate at which the loss is as low as it gets, up to its noise; None where it does not fall.
      diverged: rate at which the sweep ended because its loss rose; None where it went to the end.
    """

    rate: float | None
    fastest: float | None
    slope: float
    error: float
    best: float | None
    diverged: float | None


class Sweep(NamedTuple):
    """The rates and losses of one sweep, and the rate that it suggests."""

    lr: tuple[float, ...]
    loss: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: Suggestion


class Found(NamedTuple):
    """What `find_rate` returns.

    Args:
      lr, loss, smoothed: rates and losses of the sweep whose suggestion is nearest the median.
      suggested: the median of the sweeps' suggestions; None where most of them give none.
      why: the reason, in a sentence or two.
      flat: whether the loss neither falls nor rises anywhere.
      sweeps: the rate that each sweep suggests.
    """

    lr: tuple[float, ...]
    loss: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float | None
    why: str
    flat: bool
    sweeps: tuple[float | None, ...]


def find_rate(config: Config, *, lowest: float = LOWEST, highest: float = HIGHEST, steps: int = STEPS) -> Found:
    """Sweeps the learning rate of a configuration, with its own model, data and optimizer.

        lr_i = lowest (highest / lowest)^(i / (steps - 1))

    The suggestion is the geometric mean of two rates: the one at which the loss falls fastest, and the smallest one at
    which it is lowest. Below the first, steps are shorter than they could be; above the second, they overshoot as much
    as they gain. The first alone is too low where part of the loss is easy to learn at any rate (such as how frequent
    each word is), and the second alone is too high for a whole run; a rate that is a decade too high or too low costs
    about the same. Two sweeps are made with different seeds; if they differ by more than a factor of two, a third one
    follows and the median is taken.

    Args:
      config: the configuration; its schedule is replaced, and no moving average of the parameters is kept.
      lowest, highest: the first and the last rate.
      steps: length of a sweep that does not diverge.

    Returns:
      The curve and the suggestion.

    Raises:
      UsageError: the optimizer chooses its rate itself.
      JaxpropError: the configuration cannot be built.

    Reference:
      Smith, Cyclical Learning Rates for Training Neural Networks, 2017, section 3.3. https://arxiv.org/abs/1506.01186
    """
    if config.optimizer.lr is None:
        raise UsageError(
            f"the optimizer {config.optimizer.name} chooses its learning rate itself, so there is none to search for; "
            "set optimizer.name to another optimizer"
        )
    experiment = compose.compose(_sweeping(config, lowest, highest, steps))
    sweeps = [sweep(experiment, seed) for seed in range(2)]
    first, second = (found.suggestion.rate for found in sweeps)
    if (first is None) != (second is None) or (first and second and not 1 / AGREE <= first / second <= AGREE):
        sweeps.append(sweep(experiment, 2))
    return conclude(sweeps)


def _steady(group: Group, schedule: schedules.Schedule) -> Group:
    if group.optimizer is None or group.optimizer.schedule is not None or group.optimizer.lr is None:
        return group
    return group.model_copy(update={"optimizer": group.optimizer.model_copy(update={"schedule": schedule})})


def _sweeping(config: Config, lowest: float, highest: float, steps: int) -> Config:
    """The configuration with the schedule of a sweep, and without what a sweep does not need."""
    section, growth = config.optimizer, highest / lowest
    # The checks of a config refuse an exponential schedule that grows, so they are bypassed here.
    schedule = schedules.Exponential.model_construct(
        name="exponential", decay_rate=growth, decay_steps=steps - 1, staircase=False, end_scale=growth
    )
    changes: dict[str, Any] = {"lr": lowest, "schedule": schedule}
    second = getattr(section, "adam_learning_rate", None)
    if second is not None and section.lr:  # muon's rate for other parameters than matrices
        changes["adam_learning_rate"] = second * lowest / section.lr
    # A group's optimizer keeps its rate, and would follow the schedule of the sweep if it stated none.
    changes["groups"] = tuple(_steady(group, section.schedule) for group in section.groups)
    run = {"steps": steps, "epochs": None, "ema_decay": None, "steps_per_call": 1, "grow_batch": None}
    return config.model_copy(
        update={
            "optimizer": section.model_copy(update=changes),
            "run": config.run.model_copy(update=run),
            "health": config.health.model_copy(update={"layers": False}),
        }
    )


def sweep(experiment: compose.Experiment, seed: int) -> Sweep:
    """Takes the steps of one sweep, up to where its loss has clearly risen.

    Args:
      experiment: of a configuration whose schedule is the sweep's.
      seed: added to the run's own; of the parameters, the data's order and dropout.

    Returns:
      The losses, and the rate that they suggest.
    """
    config, step = experiment.config, experiment.step
    own = config.model_copy(update={"run": config.run.model_copy(update={"seed": config.run.seed + seed})})
    state, stream = begin(experiment, own.run.seed)[0], compose.open_stream(own, experiment.sources["train"])
    rates: list[float] = []
    losses: list[float] = []
    for _ in range(experiment.total_steps):
        state, m = step(state, place(experiment, next(stream))[0], "lean")
        measured = m.host()
        rates.append(float(measured.learning_rate))
        losses.append(float(measured.loss))
        if is_over(losses):
            break
    return Sweep(tuple(rates), tuple(losses), tuple(smooth(losses).tolist()), suggest(rates, losses))


# -- the curve --------------------------------------------------------------------------------------


def smooth(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """Mean of a forward and a backward moving average of the losses, so that their lags cancel; bias-corrected.

        s_i = b s_(i-1) + (1 - b) l_i,   s_i / (1 - b^(i+1))

    Example:
      >>> smooth([2.0, 2.0, 2.0]).round(9).tolist()
      [2.0, 2.0, 2.0]
    """
    values = np.asarray(losses, np.float64)
    finite = np.where(
        np.isfinite(values), values, np.nanmax(np.where(np.isfinite(values), values, -np.inf), initial=0.0)
    )
    return (_average(finite) + _average(finite[::-1])[::-1]) / 2


def _average(values: np.ndarray) -> np.ndarray:
    averages, total = [], 0.0
    for i, value in enumerate(values.tolist(), 1):
        total = SMOOTHING * total + (1 - SMOOTHING) * value
        averages.append(total / (1 - SMOOTHING**i))
    return np.asarray(averages)


def is_over(losses: Sequence[float]) -> bool:
    """Whether a sweep has clearly diverged: its loss is not finite, or has risen by half of what it had fallen before.

    A loss that has not fallen must rise by `SURE` times its noise instead.

    Example:
      >>> is_over([2.0] * 20), is_over([2.0] * 20 + [float("nan")])
      (False, True)
    """
    if not math.isfinite(losses[-1]):
        return True
    if len(losses) < 2 * FIRST:
        return False
    first = float(np.mean(losses[:FIRST]))
    noise = float(np.std(losses[:FIRST])) + 1e-6 * abs(first)
    averages = _average(np.asarray(losses))
    lowest, now = float(averages[FIRST:].min()), float(averages[-1])
    return now - lowest > max(LOST * (first - lowest), SURE * noise)


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """Suggests a rate, from where the loss falls fastest and where it is lowest.

    The slope is that of a straight line fitted to each window of `WINDOW` steps.

    Args:
      rates: increasing.
      losses: one for each rate; the last may be infinite or NaN.

    Returns:
      The suggestion; slopes within `SURE` standard errors of zero do not count.

    Example:
      >>> rates = np.geomspace(1e-6, 10, 150)
      >>> losses = 2 - 1.5 / (1 + (1e-3 / rates) ** 2) + np.random.default_rng(0).normal(0, 0.05, 150)
      >>> 3e-4 < suggest(rates, losses).rate < 1e-2
      True
    """
    over = rates[-1] if is_over(losses) else None
    known = [(math.log10(rate), loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)]
    none = Suggestion(None, None, 0.0, 0.0, None, over)
    if len(known) < WINDOW:
        return none
    x, y = np.asarray(known).T
    best = _floor(y)
    fits = [_line(x[i : i + WINDOW], y[i : i + WINDOW]) for i in range(len(x) - WINDOW + 1)]
    falling = [(slope, error, i) for i, (slope, error) in enumerate(fits) if slope < -SURE * error and i <= best]
    if not falling:
        return none
    slope, error, i = min(falling)
    fastest, lowest = float(np.mean(x[i : i + WINDOW])), float(x[best])
    return Suggestion(10 ** ((fastest + lowest) / 2), 10**fastest, slope, error, 10**lowest, over)


def _floor(losses: np.ndarray) -> int:
    """The first index at which the smoothed loss is within one standard error of its minimum.

    Reference: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3 (the one-standard-error rule).
    """
    smoothed = smooth(losses)
    best = int(np.argmin(smoothed))
    near = slice(max(best - WINDOW // 2, 0), best + WINDOW // 2 + 1)
    noise = float(np.std(losses[near] - smoothed[near])) * SMOOTHED_NOISE
    return int(np.argmax(smoothed <= smoothed[best] + noise))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of the least-squares line through points, and its standard error."""
    centred = x - x.mean()
    square = float(centred @ centred)
    slope = float(centred @ y) / square
    rest = y - y.mean() - slope * centred
    # An exact line would have an error of 0, but the losses are rounded to float32.
    variance = float(rest @ rest) / (len(x) - 2) + (1e-6 * float(np.abs(y).max())) ** 2
    return slope, (variance / square) ** 0.5


def conclude(sweeps: Sequence[Sweep]) -> Found:
    """Combines the sweeps: the median of the rates that they suggest, and the reason for it.

    Args:
      sweeps: two or three.

    Returns:
      What was found.
    """
    suggested = [found.suggestion.rate for found in sweeps]
    some = sorted(rate for rate in suggested if rate is not None)
    if 2 * len(some) <= len(sweeps):
        first = sweeps[0]
        diverged = any(found.suggestion.diverged is not None for found in sweeps)
        return Found(first.lr, first.loss, first.smoothed, None, _why_not(sweeps), not diverged, tuple(suggested))
    rate = math.exp(float(np.median(np.log(some))))
    shown = min((found for found in sweeps if found.suggestion.rate), key=lambda s: abs(math.log(_rate(s) / rate)))
    rounded = float(f"{rate:.2g}")
    return Found(shown.lr, shown.loss, shown.smoothed, rounded, _why(shown, some), False, tuple(suggested))


def _rate(found: Sweep) -> float:
    return found.suggestion.rate or math.nan


def _why(shown: Sweep, some: Sequence[float]) -> str:
    suggestion = shown.suggestion
    end = (
        f"the sweep ended at {suggestion.diverged:.2g}, where the loss had risen"
        if suggestion.diverged is not None
        else "no rate of the sweep made it diverge"
    )
    slope = f"{-suggestion.slope:.2g} a decade of the rate, standard error {suggestion.error:.1g}"
    return (
        f"it is the geometric mean of the rates at which the loss falls fastest and is lowest, in the curve shown "
        f"{suggestion.fastest:.2g} ({slope}) and {suggestion.best:.2g}; {end}; {len(some)} sweeps say "
        f"{', '.join(f'{rate:.2g}' for rate in some)}"
    )


def _why_not(sweeps: Sequence[Sweep]) -> str:
    diverged = [found.suggestion.diverged for found in sweeps if found.suggestion.diverged is not None]
    if diverged:
        return (
            f"the loss never falls by more than its noise, and then rises: the sweeps ended at {min(diverged):.2g}; "
            "before changing the rate, look for a fault in the model or the data with jaxprop gradcheck"
        )
    return (
        "the loss is flat: it neither falls nor rises by more than its noise at any rate; a larger data.batch_size "
        "makes it less noisy, and jaxprop explain shows whether gradients reach the parameters"
    )


# -- the folder -------------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Raises UsageError where a folder holds a run, and RunFolderError where it cannot be made."""
    if (folder / "checkpoints").exists():
        raise UsageError(
            f"{folder} holds the checkpoints of a run, so a sweep is not written there; choose another folder with "
            "--run DIR"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be made ({error.strerror}); choose another folder with --run") from error


def write(found: Found, config: Config, folder: Path) -> None:
    """Writes `lr_find.json` and the `config.yaml` that it belongs to.

    Args:
      found: the result.
      config: the configuration as it was given.
      folder: the folder to write to; it exists.
    """
    write_text(folder / "config.yaml", dump(with_absolute_paths(config), folder))
    write_text(folder / "lr_find.json", encode(found._asdict()) + "\n")
