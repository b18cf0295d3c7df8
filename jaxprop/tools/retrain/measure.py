"""What a model measures of each example by itself, so that two models can be compared on any choice of examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop import data
from jaxprop.core.examples import row_weights
from jaxprop.core.precision import Policy
from jaxprop.metrics.totals import finished, mean
from jaxprop.tasks.task import Task
from jaxprop.tools.retrain.bootstrap import FEWEST, Figure, Quotient, Weighted, gathered
from jaxprop.types import Metric, Objective, PyTree, Rows, Source

Each = Callable[[PyTree, PyTree, Any], Any]


class Measured(NamedTuple):
    """What was measured of the examples of a source.

    Args:
      indices: of the examples that count, in their order, int `[n]`.
      totals: by metric, what each example adds, arrays `[n, ...]`; or, for those in `gathered`, its rows.
      gathered: names of metrics that do not add up.
    """

    indices: np.ndarray
    totals: dict[str, Any]
    gathered: frozenset[str]

    @property
    def losses(self) -> np.ndarray:
        """The loss of each example, float64 `[n]`."""
        total, weight = self.totals["loss"]
        return total / np.where(weight != 0, weight, 1)


def each_example(objective: Objective, policy: Policy) -> Each:
    """Returns `(params, extras, batch) -> totals` of every example of a batch by itself, compiled.

    Args:
      objective: loss and metrics.
      policy: of the precision.
    """

    def alone(params: PyTree, extras: PyTree, example: Any) -> Any:
        return objective.sums(params, extras, jax.tree.map(lambda x: x[None], example), policy)

    return jax.jit(jax.vmap(alone, in_axes=(None, None, 0)))


def measure(each: Each, params: PyTree, extras: PyTree, source: Source, batch_size: int) -> Measured:
    """Measures every example of a source by itself; padding, and examples of weight 0, are left out.

    Args:
      each: from `each_example`.
      params, extras: of the model.
      source: the examples.
      batch_size: number of examples at a time.
    """
    indices: list[np.ndarray] = []
    parts: list[dict[str, Any]] = []
    gathered: set[str] = set()
    for number, batch in enumerate(data.one_pass(source, batch_size)):
        weight = row_weights(batch)
        kept = np.flatnonzero(np.asarray(weight) != 0)
        totals = jax.device_get(each(params, extras, batch))
        gathered |= {name for name, total in totals.items() if isinstance(total, Rows)}
        indices.append(number * batch_size + kept)
        parts.append({name: _kept(total, kept) for name, total in totals.items()})
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    return Measured(np.concatenate(indices), joined, frozenset(gathered))


def _kept(total: Any, kept: np.ndarray) -> Any:
    """What is measured of the examples that count, without the axis of one example; sums in 64 bits."""
    if isinstance(total, Rows):
        return jax.tree.map(lambda x: np.asarray(x)[kept, 0], total.values)
    return jax.tree.map(
        lambda x: np.asarray(x)[kept].astype(np.float64 if np.asarray(x).dtype.kind == "f" else np.int64), total
    )


def figures_of(measured: Measured, task: Task) -> dict[str, float]:
    """Returns every figure of a source, those that a task derives among them.

    Args:
      measured: of all its examples.
      task: says how the totals are finished.
    """
    totals = {
        name: [total] if name in measured.gathered else jax.tree.map(lambda x: x.sum(0), total)
        for name, total in measured.totals.items()
    }
    figures = finished(totals, task.objective.metrics)
    return figures | task.derived(figures)


def figure_of(measured: Measured, task: Task, name: str) -> Figure:
    """Returns one figure of a source as the bootstrap takes it, computed of sums over examples where that can be.

    Args:
      measured: of all its examples.
      task: says how totals are finished.
      name: of the figure.
    """
    metrics, length = task.objective.metrics, len(measured.indices)
    for key, total in measured.totals.items():
        metric = metrics.get(key)
        if key in measured.gathered:
            assert metric is not None
            found = _of_rows(metric, total, name, length)
            if found is not None:
                return found
        elif metric is None or metric.finish is mean:
            if key == name:
                return Quotient(*total)
        elif name in _finished(key, metric, total, np.ones(length, np.int64)):
            return Weighted(length, partial(_one_of, name, key, metric, total))

    def derived(weights: np.ndarray) -> float:
        chosen = np.repeat(np.arange(length), weights)
        totals = jax.tree.map(lambda x: x[chosen], measured.totals)
        return figures_of(Measured(measured.indices[chosen], totals, measured.gathered), task)[name]

    return Weighted(length, derived, FEWEST)


def _of_rows(metric: Metric, rows: Any, name: str, length: int) -> Figure | None:
    if metric.weighted is not None:
        figures = metric.weighted(rows)
        if name in figures(np.ones(length, np.int64)):
            return Weighted(length, lambda weights: figures(weights)[name])
    reported = metric.finish(rows)
    if isinstance(reported, Mapping) and name in reported:
        return gathered(rows, lambda chosen: metric.finish(chosen)[name])
    return None


def _one_of(name: str, key: str, metric: Metric, total: Any, weights: np.ndarray) -> float:
    return _finished(key, metric, total, weights)[name]


def _finished(key: str, metric: Metric, total: Any, weights: np.ndarray) -> Mapping[str, float]:
    reported = metric.finish(jax.tree.map(lambda x: np.tensordot(weights, x, 1), total))
    return reported if isinstance(reported, Mapping) else {key: reported}
