"""Evaluations of a run that keeps several averages of its parameters: each is evaluated, and the best is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxprop.config.tasks import best_mode
from jaxprop.run.evaluate import evaluate
from jaxprop.run.experiment import Experiment
from jaxprop.types import TrainState


def evaluate_averages(
    experiment: Experiment, state: TrainState, evaluation: Callable[..., dict[str, float] | None] = evaluate, **how: Any
) -> dict[str, float] | None:
    """Evaluates a state by the average of its parameters that is best, or that `run.average` names.

    Args:
      experiment: the run.
      state: of the run.
      evaluation: `(experiment, state, **how) -> figures`, or None where a stop cut it short.
      **how: passed on.

    Returns:
      The figures of that average; of several, also `NAME/AVERAGE` for each, where NAME is what the best is chosen by.
    """
    names = _candidates(experiment)
    if len(names) < 2:
        return evaluation(experiment, for_evaluation(experiment, state, {}), **how)
    found: dict[str, dict[str, float]] = {}
    for name in names:
        figures = evaluation(experiment, experiment.step.picked(state, name), **how)
        if figures is None:
            return None
        found[name] = figures
    metric = _metric(experiment)
    each = {f"{metric}/{name}": figures[metric] for name, figures in found.items() if metric in figures}
    return found[_best(experiment, each) or names[0]] | each


def for_evaluation(experiment: Experiment, state: TrainState, metrics: Mapping[str, float | None]) -> TrainState:
    """Returns a state with that of its averages alone that evaluations use; without several, the state itself.

    Args:
      experiment: the run.
      state: of the run.
      metrics: of the evaluation that the state was saved with.
    """
    return experiment.step.picked(state, average_for_evaluation(experiment, metrics))


def average_for_evaluation(experiment: Experiment, metrics: Mapping[str, float | None]) -> str | None:
    """Returns which of several averages evaluations use; None where a run keeps one or none.

    Args:
      experiment: the run.
      metrics: of the evaluation that a checkpoint was saved with.
    """
    names = _candidates(experiment)
    if len(experiment.step.averages) < 2:
        return None
    return names[0] if len(names) == 1 else _best(experiment, metrics) or names[0]


def _candidates(experiment: Experiment) -> tuple[str, ...]:
    """The averages among which an evaluation chooses."""
    named = getattr(experiment.config.run, "average", None)
    return experiment.step.averages if named is None else (named,)


def _metric(experiment: Experiment) -> str:
    return experiment.config.checkpoint.best or "loss"


def _best(experiment: Experiment, metrics: Mapping[str, float | None]) -> str | None:
    """The average whose figure is best; None where no figure is known."""
    sign, metric = 1 if best_mode(experiment.config) == "min" else -1, _metric(experiment)
    values = {name: metrics.get(f"{metric}/{name}") for name in experiment.step.averages}
    known = {name: sign * value for name, value in values.items() if value is not None and math.isfinite(value)}
    return min(known, key=lambda name: known[name], default=None)
