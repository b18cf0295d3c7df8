"""The learning-rate range test: one short run in which the rate grows exponentially, and what its losses say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxprop.config.dump import dump
from jaxprop.config.schema import optimizer as sections
from jaxprop.config.schema.config import Config
from jaxprop.errors import RunFolderError, UsageError
from jaxprop.run import compose
from jaxprop.run.compose import place
from jaxprop.run.folder import write_text
from jaxprop.sinks.jsonl import encode

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 150
WINDOW = 15  # steps over which a slope is taken, 0.7 decades
SMOOTHING = 0.8  # of the moving average of losses
SMOOTHED_NOISE = ((1 - SMOOTHING) / (1 + SMOOTHING) / 2) ** 0.5  # of a mean of two averages, as a share of a loss's
SURE = 5.0  # standard errors that make a slope one
LOST = 0.5  # share of what the loss had fallen by that ends the sweep once it is given back
FIRST = 10  # steps that show where the loss begins
AGREE = 2.0  # factor within which two sweeps say the same


class Verdict(NamedTuple):
    """What one sweep says.

    Args:
      suggested: halfway, in decades, between the two rates below; None where the loss does not fall.
      fastest: rate at which the loss falls fastest; None where it does not fall.
      slope: of the loss there, by decade of the rate.
      error: standard error of the slope.
      best: rate from which on the loss is lowest, but for its noise; None where nothing falls.
      diverged: rate at which the sweep ended because its loss rose; None where it went to the end.
    """

    suggested: float | None
    fastest: float | None
    slope: float
    error: float
    best: float | None
    diverged: float | None


class Sweep(NamedTuple):
    """Losses of one sweep, and what they say."""

    lr: tuple[float, ...]
    loss: tuple[float, ...]
    smoothed: tuple[float, ...]
    verdict: Verdict


class Found(NamedTuple):
    """What `find_rate` returns.

    Args:
      lr, loss, smoothed: of the sweep that the suggestion is of.
      suggested: the rate; None where the curve gives none.
      why: in a sentence or two.
      flat: the loss neither falls nor rises anywhere.
      sweeps: what each sweep suggests.
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

    The suggestion lies halfway, in decades, between the rate at which the loss falls fastest and the one from which on
    it is lowest. Below the first, steps are shorter than they could be; from the second on they overshoot as much as
    they gain. The first is too low where a loss has an easy part that any rate learns (how frequent each word is, say),
    the second too high for a whole run, and a wrong rate costs much the same a decade to either side.
    Two sweeps with different seeds; where they do not agree within a factor of two, a third, and the median.

    Args:
      config: the configuration; its schedule is replaced, and its moving average left out.
      lowest, highest: rates at both ends.
      steps: of a sweep that does not diverge.

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
            f"the optimizer {config.optimizer.name} chooses its rate itself, so there is none to look for; name "
            "another with optimizer.name"
        )
    experiment = compose.compose(_sweeping(config, lowest, highest, steps))
    sweeps = [sweep(experiment, seed) for seed in range(2)]
    first, second = (found.verdict.suggested for found in sweeps)
    if (first is None) != (second is None) or (first and second and not 1 / AGREE <= first / second <= AGREE):
        sweeps.append(sweep(experiment, 2))
    return conclude(sweeps)


def _sweeping(config: Config, lowest: float, highest: float, steps: int) -> Config:
    """The configuration with the schedule of a sweep, and nothing that is not part of it."""
    section, growth = config.optimizer, highest / lowest
    # A schedule of a config only ever falls, so this one is made past its check.
    schedule = sections.Exponential.model_construct(
        name="exponential", decay_rate=growth, decay_steps=steps - 1, staircase=False, end_scale=growth
    )
    changes = {"lr": lowest, "schedule": schedule}
    second = getattr(section, "adam_learning_rate", None)
    if second is not None and section.lr:  # muon's rate for what is no matrix keeps its proportion
        changes["adam_learning_rate"] = second * lowest / section.lr
    run = {"steps": steps, "epochs": None, "ema_decay": None, "steps_per_call": 1}
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
      The losses, and what they say.
    """
    config, step = experiment.config, experiment.step
    own = config.model_copy(update={"run": config.run.model_copy(update={"seed": config.run.seed + seed})})
    state, stream = experiment.init(own.run.seed), compose.open_stream(own, experiment.sources["train"])
    rates: list[float] = []
    losses: list[float] = []
    for _ in range(experiment.total_steps):
        state, m = step(state, place(experiment, next(stream))[0], "lean")
        measured = m.host()
        rates.append(float(measured.learning_rate))
        losses.append(float(measured.loss))
        if is_over(losses):
            break
    return Sweep(tuple(rates), tuple(losses), tuple(smooth(losses).tolist()), judge(rates, losses))


# -- the curve --------------------------------------------------------------------------------------


def smooth(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """Moving average of losses in both directions, so that it lags behind in neither; bias-corrected.

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
    """Whether a sweep has clearly diverged: a loss that is not finite, or half of what it had fallen by given back.

    Where it has not fallen, whether it has risen far above its own noise.

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


def judge(rates: Sequence[float], losses: Sequence[float]) -> Verdict:
    """Says where the loss falls fastest, by straight lines through a window of steps, and where it is lowest.

    Args:
      rates: rising.
      losses: one a rate; the last may be infinite or NaN.

    Returns:
      The verdict; a slope that its own error may explain is none.

    Example:
      >>> rates = np.geomspace(1e-6, 10, 150)
      >>> losses = 2 - 1.5 / (1 + (1e-3 / rates) ** 2) + np.random.default_rng(0).normal(0, 0.05, 150)
      >>> 3e-4 < judge(rates, losses).suggested < 1e-2
      True
    """
    over = rates[-1] if is_over(losses) else None
    known = [(math.log10(rate), loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)]
    none = Verdict(None, None, 0.0, 0.0, None, over)
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
    return Verdict(10 ** ((fastest + lowest) / 2), 10**fastest, slope, error, 10**lowest, over)


def _floor(losses: np.ndarray) -> int:
    """Where the smoothed loss first is as low as it gets, within one standard error: of a flat floor, the low end.

    Reference: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3 (the one-standard-error rule).
    """
    smoothed = smooth(losses)
    best = int(np.argmin(smoothed))
    near = slice(max(best - WINDOW // 2, 0), best + WINDOW // 2 + 1)
    noise = float(np.std(losses[near] - smoothed[near])) * SMOOTHED_NOISE
    return int(np.argmax(smoothed <= smoothed[best] + noise))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of the straight line through points, and its standard error."""
    centred = x - x.mean()
    square = float(centred @ centred)
    slope = float(centred @ y) / square
    rest = y - y.mean() - slope * centred
    # A perfect line has no error, but the losses are float32.
    variance = float(rest @ rest) / (len(x) - 2) + (1e-6 * float(np.abs(y).max())) ** 2
    return slope, (variance / square) ** 0.5


def conclude(sweeps: Sequence[Sweep]) -> Found:
    """Puts the sweeps together: the median of what they suggest, and why.

    Args:
      sweeps: two or three.

    Returns:
      What was found.
    """
    suggested = [found.verdict.suggested for found in sweeps]
    some = sorted(rate for rate in suggested if rate is not None)
    if 2 * len(some) <= len(sweeps):
        first = sweeps[0]
        diverged = any(found.verdict.diverged is not None for found in sweeps)
        return Found(first.lr, first.loss, first.smoothed, None, _why_not(sweeps), not diverged, tuple(suggested))
    rate = math.exp(float(np.median(np.log(some))))
    shown = min((found for found in sweeps if found.verdict.suggested), key=lambda s: abs(math.log(_rate(s) / rate)))
    rounded = float(f"{rate:.2g}")
    return Found(shown.lr, shown.loss, shown.smoothed, rounded, _why(shown, some), False, tuple(suggested))


def _rate(found: Sweep) -> float:
    return found.verdict.suggested or math.nan


def _why(shown: Sweep, some: Sequence[float]) -> str:
    verdict = shown.verdict
    end = (
        f"the sweep ended at {verdict.diverged:.2g}, where the loss had risen"
        if verdict.diverged is not None
        else "no rate of the sweep made it diverge"
    )
    slope = f"{-verdict.slope:.2g} a decade of the rate, standard error {verdict.error:.1g}"
    return (
        f"it lies halfway between where the loss falls fastest and where it is lowest: in the curve shown at "
        f"{verdict.fastest:.2g} ({slope}) and {verdict.best:.2g}; {end}; {len(some)} sweeps say "
        f"{', '.join(f'{rate:.2g}' for rate in some)}"
    )


def _why_not(sweeps: Sequence[Sweep]) -> str:
    diverged = [found.verdict.diverged for found in sweeps if found.verdict.diverged is not None]
    if diverged:
        return (
            f"the loss never falls beyond its noise, and then rises: the sweeps ended at {min(diverged):.2g}; look "
            "for a fault in the model or the data, with jaxprop gradcheck, before the rate"
        )
    return (
        "the loss is flat: at no rate does it fall, or rise, by more than its noise; a larger data.batch_size makes it "
        "less noisy, and jaxprop explain shows whether gradients reach the parameters"
    )


# -- the folder -------------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Raises UsageError where a folder holds a run, and RunFolderError where it cannot be made."""
    if (folder / "checkpoints").exists():
        raise UsageError(
            f"{folder} holds a run's checkpoints, and a sweep does not mix with them; use --run DIR for another"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be made ({error.strerror}); choose another folder with --run") from error


def write(found: Found, config: Config, folder: Path) -> None:
    """Writes `lr_find.json` and the `config.yaml` it is of.

    Args:
      found: what to write.
      config: the configuration as it was given.
      folder: where.
    """
    write_text(folder / "config.yaml", dump(config, folder))
    write_text(folder / "lr_find.json", encode(found._asdict()) + "\n")
