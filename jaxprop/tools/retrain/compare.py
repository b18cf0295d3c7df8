"""Champion and challenger side by side: every example of both test sets, measured by both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop.config.tasks import best_mode, better, main_metric
from jaxprop.run.opened import Opened
from jaxprop.run.precision import policy_of
from jaxprop.tasks.words import number
from jaxprop.tools.retrain.bootstrap import DRAWS, paired_interval
from jaxprop.tools.retrain.challenger import champion_within
from jaxprop.tools.retrain.decide import Compared
from jaxprop.tools.retrain.measure import Measured, each_example, figure_of, figures_of, measure
from jaxprop.tools.retrain.suspects import given_of, places, with_decoder
from jaxprop.types import Source

WHICH = 5  # examples of each direction that are told


class Sides(NamedTuple):
    """What both models measured of one test set, and the figures of each."""

    champion: Measured
    challenger: Measured
    champion_figures: dict[str, float]
    challenger_figures: dict[str, float]
    source: Source


def side_by_side(champion: Opened, challenger: Opened, tests: Mapping[str, Source]) -> dict[str, Sides]:
    """Measures every example of test sets by both models, in the challenger's precision and with its classes.

    Args:
      champion, challenger: the runs.
      tests: the test sets, by name.
    """
    experiment, config = challenger.experiment, challenger.config
    each = each_example(experiment.task.objective, policy_of(config))
    size = config.data.eval_batch_size or config.data.batch_size
    step, state = experiment.step, challenger.state
    weights = {
        "champion": champion_within(champion, challenger),
        "challenger": jax.device_get((step.eval_params(state), step.eval_extras(state))),
    }
    found = {}
    for name, source in tests.items():
        both = {who: measure(each, params, extras, source, size) for who, (params, extras) in weights.items()}
        figures = {who: figures_of(measured, experiment.task) for who, measured in both.items()}
        found[name] = Sides(both["champion"], both["challenger"], figures["champion"], figures["challenger"], source)
    return found


def headline(opened: Opened, measured: Mapping[str, float]) -> tuple[str, str]:
    """Returns the figure that a run is judged by, and whether smaller (min) or larger (max) is better.

    Args:
      opened: the run.
      measured: its figures.
    """
    config = opened.config
    task, best = config.task.name, config.checkpoint.best
    name = main_metric(task, measured, best)
    return name, best_mode(config) if name == best else better(name, task)


def compared(sides: Sides, opened: Opened, metric: str, mode: str, *, seed: int, draws: int = DRAWS) -> Compared:
    """Returns the figure of both models with the paired bootstrap interval of the difference.

    Args:
      sides: of one test set.
      opened: the challenger.
      metric: name of the figure.
      mode: whether smaller (min) or larger (max) is better.
      seed: of the resamples.
      draws: largest number of resamples.
    """
    task = opened.experiment.task
    first, second = (figure_of(one, task, metric) for one in (sides.champion, sides.challenger))
    interval = paired_interval(first, second, sign=1.0 if mode == "max" else -1.0, seed=seed, draws=draws)
    return Compared(
        sides.champion_figures[metric], sides.challenger_figures[metric], interval, len(sides.champion.indices)
    )


def deciding(sides: Sides, task: str, otherwise: str, count: int = WHICH) -> dict[str, list[dict[str, Any]]]:
    """Returns the examples whose loss differs most between the two models: `improved` and `worsened`.

    Args:
      sides: of one test set.
      task: the task's name.
      otherwise: what examples without a name of their own are called.
      count: number of examples of each.
    """
    change = sides.challenger.losses - sides.champion.losses
    order = np.argsort(np.nan_to_num(change, nan=0.0, posinf=np.inf, neginf=-np.inf), kind="stable")
    chosen = {
        "improved": [i for i in order[:count].tolist() if change[i] < 0],
        "worsened": [i for i in order[::-1][:count].tolist() if change[i] > 0],
    }
    return {name: _told(sides, np.array(which, np.int64), task, otherwise) for name, which in chosen.items()}


def _told(sides: Sides, which: np.ndarray, task: str, otherwise: str) -> list[dict[str, Any]]:
    if not len(which):
        return []
    indices = sides.champion.indices[which]
    batch, names = sides.source.take(indices), places(sides.source, indices, otherwise)
    info = with_decoder(sides.source)
    return [
        {
            "name": names[i],
            "given": given_of(batch, i, info, task),
            "champion_loss": number(sides.champion.losses[at]),
            "challenger_loss": number(sides.challenger.losses[at]),
        }
        for i, at in enumerate(which.tolist())
    ]
