"""How many steps one call of the compiled step takes where `run.steps_per_call` is `auto`: measured, once a run.

A scan over steps gives other bits than a loop over calls, so the number is part of what a run computes. It is chosen
before the first step and stored with the run's configuration; a run that goes on takes the stored one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import yaml

from jaxprop import data
from jaxprop.checkpoint import stored_config
from jaxprop.config.schema.config import Config
from jaxprop.errors import CheckpointError
from jaxprop.parallel.hosts import process_count
from jaxprop.run.clock import timed
from jaxprop.run.compose import Experiment, place
from jaxprop.types import Source

AUTO = "auto"
ROW, ROWS = 10, 5  # calls in a row that are timed together, and how often
LOOP_SECONDS = 3e-4  # of the host, for what the loop does around a call
SHARE = 0.1  # of the time, that this may take
MOST = 100  # steps in a call: records come out once a call, and alerts and stops are met there
STRAY = 0.1  # of an epoch, by which whole calls may move what is due at its end
BATCH_BYTES = 2**26  # of the batches of one call
GAIN = 0.95  # of the time by single calls, that calls of several have to keep below


class Composed(NamedTuple):
    """An experiment whose configuration says how many steps a call takes, and what a person is told of the choice."""

    experiment: Experiment
    notes: list[str]


def as_before(config: Config, folder: Path) -> Config:
    """Returns a configuration with the number of steps a call that the folder's run has chosen, where it has one.

    Args:
      config: with or without `auto`.
      folder: of the run; it need not exist.
    """
    if config.run.steps_per_call != AUTO:
        return config
    stored = _stored(folder)
    return config if stored is None else _with(config, stored)


def composed(config: Config, compose: Callable[[Config, Mapping[str, Source] | None], Experiment]) -> Composed:
    """Composes an experiment, and chooses how many steps a call takes if the configuration leaves that open.

    Where the steps are short, the same steps are timed one by one and in calls of several, and calls of several are
    taken if they are faster. What is compiled for it is what the run then uses.

    Args:
      config: the configuration.
      compose: makes an experiment of one, with sources that are open already or None.
    """
    experiment = compose(config, None)
    if config.run.steps_per_call != AUTO:
        return Composed(experiment, [])
    single = experiment._replace(config=_with(experiment.config, 1))
    if process_count() > 1 or experiment.sources["train"].buckets is not None:
        return Composed(single, [])  # processes would choose differently; batches of several lengths are not stacked
    batch = next(data.one_pass(experiment.sources["train"], config.data.batch_size))
    one = _seconds_a_step(single, batch)
    chosen = wanted(experiment, one, sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(batch)))
    if chosen == 1:
        return Composed(single, [_said(1, one)])
    several = compose(_with(config, chosen), experiment.sources)
    each = _seconds_a_step(several, jax.tree.map(lambda leaf: np.stack([leaf] * chosen), batch))
    if each > GAIN * (one + LOOP_SECONDS):
        return Composed(single, [_said(1, one)])
    return Composed(several, [_said(chosen, each, one)])


def wanted(experiment: Experiment, seconds: float, batch_bytes: int) -> int:
    """Returns the smallest number of steps a call with which the cost of a call is small, of those that fit the run.

    Args:
      experiment: whose intervals have to be multiples of the number.
      seconds: that a step takes.
      batch_bytes: size of a batch.
    """
    config, total = experiment.config, experiment.total_steps
    counts = (config.run.log_every, config.run.eval_every, config.checkpoint.every_steps, config.run.steps)
    common = math.gcd(*(count for count in counts if count is not None))
    epoch = experiment.stream.batches_per_epoch or total
    by_epochs = config.run.eval_every is None if experiment.validation else config.checkpoint.every_steps is None
    fit = [
        size
        for size in range(1, min(MOST, total) + 1)
        if common % size == 0
        and (size == 1 or size * batch_bytes <= BATCH_BYTES)
        and (not by_epochs or abs(max(1, round(epoch / size)) * size - epoch) <= STRAY * epoch)
    ]
    return next((size for size in fit if SHARE * size * seconds >= LOOP_SECONDS), fit[-1])


def _seconds_a_step(experiment: Experiment, batch: Any) -> float:
    """Seconds of a step among many, measuring what most steps do, of a state that nobody needs afterwards."""
    step, held = experiment.step, [experiment.init(experiment.config.run.seed)]
    detail = "rows" if experiment.config.health.layers else "lean"

    def call() -> Any:
        held[0], measurements = step(held[0], place(experiment, batch)[0], detail)
        return measurements.packed

    jax.block_until_ready(call())
    # The least: what else the machine does only makes steps longer, and calls of several in their favour.
    rows = [timed(lambda: [call() for _ in range(ROW)])[1] for _ in range(ROWS)]
    return min(rows) / ROW / experiment.config.run.per_call


def _with(config: Config, per_call: int) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update={"steps_per_call": per_call})})


def _said(chosen: int, seconds: float, one: float | None = None) -> str:
    how = "one step a call" if chosen == 1 else f"{chosen} steps a call"
    instead = "" if one is None else f", {1e3 * (one + LOOP_SECONDS):.3g} ms one by one"
    return f"run.steps_per_call: auto has chosen {how}: {1e3 * seconds:.3g} ms a step{instead}; config.yaml stores it"


def _stored(folder: Path) -> int | None:
    try:
        found = stored_config(folder / "checkpoints")
    except CheckpointError:
        try:
            found = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return None
    run = found.get("run") if isinstance(found, dict) else None
    size = run.get("steps_per_call", 1) if isinstance(run, dict) else None
    return size if isinstance(size, int) and size > 0 else None
