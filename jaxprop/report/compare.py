"""Comparison of several runs: their results, and the keys in which their configs differ. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.report.fields import nested
from jaxprop.report.read import RunData, Series
from jaxprop.report.verdict import ENDED, worst_layers

# The order in which differing keys are listed, the most important sections first.
SECTIONS = ("model", "optimizer", "data", "task", "precision", "run", "parallel", "health", "checkpoint", "sinks")
MOST_KEYS = 24
NO_VALUE = "-"
HIGHER_IS_BETTER = re.compile(r"accuracy|precision|recall|score|f1|auc|bleu|iou|r2|top_?\d")


class Comparison(NamedTuple):
    """Several runs side by side.

    Args:
      headers: headers of the table.
      rows: lines of the table, one for each run.
      keys: keys whose values differ between the configs, the most important first, with each run's value.
      more: number of further keys that differ.
      note: a sentence if the runs have different layers, otherwise empty.
    """

    headers: list[str]
    rows: list[list[str]]
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
    metrics.sort(key=lambda name: name != "loss")
    headers = ["run", "status", "steps", "final train loss", *(f"best eval {name}" for name in metrics[:3])]
    headers += ["alerts", "worst layer"]
    rows = [_row(run, name, metrics[:3]) for run, name in zip(runs, names, strict=True)]
    keys = differences([run.config for run in runs])
    return Comparison(headers, rows, keys[:MOST_KEYS], max(len(keys) - MOST_KEYS, 0), _note(runs))


def _row(run: RunData, name: str, metrics: Sequence[str]) -> list[str]:
    cells = [name, ENDED.get(run.status, run.status).partition(";")[0].partition(":")[0], f"{run.last_step:,}"]
    cells.append(_last(run.train.get("loss")))
    cells += [_best(run, metric) for metric in metrics]
    acts = sum(alert.get("severity") == "act" for alert in run.alerts)
    cells.append(f"{acts} to act on, {len(run.alerts) - acts} advice" if run.alerts else "none")
    worst = worst_layers(run, 1)
    return [*cells, f"{worst[0][0]}: {worst[0][1]}" if worst else NO_VALUE]


def _last(series: Series | None) -> str:
    if series is None:
        return NO_VALUE
    return f"{series.value[-1]:.4g}" if np.isfinite(series.value[-1]) else "not finite"


def _best(run: RunData, metric: str) -> str:
    series = run.evaluation.get(metric)
    if series is None or not np.isfinite(series.value).any():
        return NO_VALUE
    best, mode = nested(run.config, "checkpoint", "best"), nested(run.config, "checkpoint", "mode")
    lowest = (mode == "min") if best == metric else not HIGHER_IS_BETTER.search(metric)
    at = int(np.nanargmin(series.value) if lowest else np.nanargmax(series.value))
    return f"{series.value[at]:.4g} at {int(series.step[at]):,}"


def differences(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns the dotted keys whose values differ, with each config's value.

    Example:
      >>> differences([{"data": {"n": 1}, "optimizer": {"lr": 0.1}}, {"data": {"n": 1}, "optimizer": {"lr": 0.2}}])
      [('optimizer.lr', ['0.1', '0.2'])]
    """
    flat = [dict(_flat(config, "")) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    found = [(key, [config.get(key, NO_VALUE) for config in flat]) for key in keys]
    found = [(key, values) for key, values in found if len(set(values)) > 1]
    rank = {section: i for i, section in enumerate(SECTIONS)}
    return sorted(found, key=lambda pair: rank.get(pair[0].partition(".")[0], len(rank)))


def _flat(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [pair for key, item in value.items() for pair in _flat(item, f"{path}.{key}" if path else str(key))]
    return [(path, value if isinstance(value, str) else json.dumps(value, default=str))]


def _note(runs: Sequence[RunData]) -> str:
    sets = [set(run.layers.names) for run in runs if run.layers is not None]
    if len(sets) < 2 or all(names == sets[0] for names in sets):
        return ""
    return (
        "These runs have different layers: their curves are compared, and their depth profiles by relative position, "
        "from 0 at the input to 1 at the output."
    )
