"""Several runs side by side, the best one first, and the keys in which their configs differ. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.tasks import better, main_metric
from jaxprop.report.card import flat
from jaxprop.report.fields import nested, number, text, whole
from jaxprop.report.read import RunData, Series
from jaxprop.report.verdict import ENDED, worst_layers
from jaxprop.sinks.console import duration

# The order in which differing keys are listed, the most important sections first.
SECTIONS = ("model", "optimizer", "data", "task", "precision", "run", "parallel", "health", "checkpoint", "sinks")
MOST_KEYS = 24
MOST_COLUMNS = 4  # of keys that are columns of the table; where more differ, they have a table of their own, too
MOST_METRICS = 3  # that have a column
LONGEST = 40  # characters of a value in the table
NO_VALUE = "-"


class Comparison(NamedTuple):
    """Several runs side by side.

    Args:
      headers: headers of the table.
      rows: lines of the table, one for each run, the best one first.
      order: the run of each line, as an index into the runs.
      metric: the metric that they are ranked by; empty where none of them has been evaluated.
      keys: keys whose values differ between the configs, the most important first, with each run's value, in the order
        of the lines.
      more: number of further keys that differ.
      note: a sentence if the runs have different layers, otherwise empty.
    """

    headers: list[str]
    rows: list[list[str]]
    order: list[int]
    metric: str
    keys: list[tuple[str, list[str]]]
    more: int
    note: str


def labels(paths: Sequence[tuple[str, str]]) -> list[str]:
    """Returns a unique name for each run.

    Args:
      paths: the name of each run's folder, and of its parent folder.

    Example:
      >>> labels([("a", "x"), ("b", "x"), ("a", "y"), ("a", "y")])
      ['x/a', 'b', 'y/a', 'y/a (2)']
    """
    names = [name for name, _ in paths]
    long = [name if names.count(name) == 1 else f"{parent}/{name}" for name, parent in paths]
    return [name if (n := long[:i].count(name)) == 0 else f"{name} ({n + 1})" for i, name in enumerate(long)]


def compare(runs: Sequence[RunData], names: Sequence[str]) -> Comparison:
    """Compares runs.

    Args:
      runs: two or more runs.
      names: their names.
    """
    metrics = list(dict.fromkeys(name for run in runs for name in run.evaluation))
    main = main_metric(text(nested(runs[0].config, "task", "name")) or None, metrics, _kept_by(runs[0]))
    metrics.sort(key=lambda name: (name != main, name != "loss"))
    order = sorted(range(len(runs)), key=lambda i: _rank(runs[i], main))
    keys = differences([runs[i].config for i in order])
    shown, columns = metrics[:MOST_METRICS], keys[:MOST_COLUMNS]
    headers = ["run", *(key for key, _ in columns), *(f"best eval {name}" for name in shown), "final train loss"]
    headers += ["steps", "time", "parameters", "status", "alerts", "worst layer"]
    rows = [
        [names[i], *(_cut(values[place]) for _, values in columns), *_row(runs[i], shown)]
        for place, i in enumerate(order)
    ]
    ranked = main if any(_best_at(run, main) is not None for run in runs) else ""
    return Comparison(headers, rows, order, ranked, keys[:MOST_KEYS], max(len(keys) - MOST_KEYS, 0), _note(runs))


def _row(run: RunData, metrics: Sequence[str]) -> list[str]:
    summary = run.summary or {}
    seconds, parameters = number(summary.get("seconds")), whole(summary.get("parameters"))
    cells = [*(_best(run, metric) for metric in metrics), _last(run.train.get("loss")), f"{run.last_step:,}"]
    cells.append(NO_VALUE if seconds is None else duration(seconds))
    cells.append(NO_VALUE if parameters is None else f"{parameters:,}")
    cells.append(ENDED.get(run.status, run.status).partition(";")[0].partition(":")[0])
    acts = sum(alert.get("severity") == "act" for alert in run.alerts)
    cells.append(f"{acts} to act on, {len(run.alerts) - acts} advice" if run.alerts else "none")
    worst = worst_layers(run, 1)
    return [*cells, f"{worst[0][0]}: {worst[0][1]}" if worst else NO_VALUE]


def _last(series: Series | None) -> str:
    if series is None:
        return NO_VALUE
    return f"{series.value[-1]:.4g}" if np.isfinite(series.value[-1]) else "not finite"


def _kept_by(run: RunData) -> str | None:
    """The metric that the run keeps its best checkpoint by, where its config says."""
    return text(nested(run.config, "checkpoint", "best")) or None


def _rank(run: RunData, metric: str) -> tuple[bool, float]:
    """What sorts the best run first; runs without a value are last, in the order in which they were given."""
    at = _best_at(run, metric)
    if at is None:
        return True, 0.0
    value = float(run.evaluation[metric].value[at])
    return False, value if _is_lowest(run, metric) else -value


def _is_lowest(run: RunData, metric: str) -> bool:
    if _kept_by(run) == metric:
        mode = nested(run.config, "checkpoint", "mode")
        if mode is not None:
            return mode == "min"
    return better(metric, text(nested(run.config, "task", "name"))) == "min"


def _best_at(run: RunData, metric: str) -> int | None:
    series = run.evaluation.get(metric)
    if series is None or not np.isfinite(series.value).any():
        return None
    values = np.where(np.isfinite(series.value), series.value, np.nan)
    return int(np.nanargmin(values) if _is_lowest(run, metric) else np.nanargmax(values))


def _best(run: RunData, metric: str) -> str:
    at = _best_at(run, metric)
    if at is None:
        return NO_VALUE
    series = run.evaluation[metric]
    return f"{series.value[at]:.4g} at {int(series.step[at]):,}"


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"


def differences(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns the dotted keys whose values differ, with each config's value.

    Example:
      >>> differences([{"data": {"n": 1}, "optimizer": {"lr": 0.1}}, {"data": {"n": 1}, "optimizer": {"lr": 0.2}}])
      [('optimizer.lr', ['0.1', '0.2'])]
    """
    tables = [dict(flat(config)) for config in configs]
    keys = dict.fromkeys(key for config in tables for key in config)
    found = [(key, [config.get(key, NO_VALUE) for config in tables]) for key in keys]
    found = [(key, values) for key, values in found if len(set(values)) > 1]
    rank = {section: i for i, section in enumerate(SECTIONS)}
    return sorted(found, key=lambda pair: rank.get(pair[0].partition(".")[0], len(rank)))


def _note(runs: Sequence[RunData]) -> str:
    sets = [set(run.layers.names) for run in runs if run.layers is not None]
    if len(sets) < 2 or all(names == sets[0] for names in sets):
        return ""
    return (
        "These runs have different layers: their curves are compared, and their depth profiles by relative position, "
        "from 0 at the input to 1 at the output."
    )
