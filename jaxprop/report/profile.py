"""Gradients and activations against depth, at the steps that matter. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprop.report.fields import whole
from jaxprop.report.grid import Grid
from jaxprop.report.read import RunData
from jaxprop.report.reduce import rounded
from jaxprop.report.verdict import gradient_signal, main_alert


class Line(NamedTuple):
    """One step's values: `label` of the moment, the step, a value a layer, and the rows that are not finite."""

    label: str
    step: int
    values: list[float | None]
    broken: list[int]


class Profile(NamedTuple):
    """One signal against depth.

    Args:
      title, unit: of the picture.
      names: in the order of the forward pass.
      lines: one a moment.
    """

    title: str
    unit: str
    names: list[str]
    lines: list[Line]


def profiles(run: RunData) -> list[Profile]:
    """Returns the profiles of a run: of the parameters' gradient, and of every tap's gradient and activation."""
    signal = gradient_signal(run)
    drawn: list[tuple[Grid | None, str | None, str, str]] = [
        (run.layers, signal, "Gradient of the parameters", "RMS" if signal == "grad_rms" else "L2 norm"),
        (run.taps, "grad_rms", "Gradient of the activations", "RMS of ∂loss/∂activation"),
        (run.taps, "rms", "Activations", "RMS"),
    ]
    found = []
    for grid, name, title, unit in drawn:
        table = None if grid is None or name is None else grid.values.get(name)
        if grid is None or table is None:
            continue
        known = ~np.isnan(table).all(axis=0)
        columns, steps = table[:, known], grid.steps[known]
        lines = [_line(label, int(steps[at]), columns[:, at]) for label, at in moments(run, steps)]
        found.append(Profile(title, unit, list(grid.names), lines))
    return found


def moments(run: RunData, steps: np.ndarray) -> list[tuple[str, int]]:
    """Returns which of the recorded steps to show: the start, then the last good one and the first alert, or the end.

    Args:
      run: what it has recorded.
      steps: `[n]`, the steps with rows, ascending.

    Returns:
      A label and an index into `steps` each, none of them twice.
    """
    main = main_alert(run)
    step = None if main is None else whole(main.get("step"))
    if main is None or step is None:
        wanted = [("start", 0), ("middle", len(steps) // 2), ("end", len(steps) - 1)]
    else:
        since = min(whole(main.get("since")) or step, step)
        good = int(np.searchsorted(steps, since)) - 1
        bad = int(np.searchsorted(steps, step))
        wanted = [("start", 0), ("last good step", good), ("first alert", bad)]
        wanted = [(label, at) for label, at in wanted if 0 <= at < len(steps)]
    newest = {at: label for label, at in reversed(wanted)}
    return sorted(((label, at) for at, label in newest.items()), key=lambda pair: pair[1])


def _line(label: str, step: int, values: np.ndarray) -> Line:
    return Line(label, step, rounded(values.astype(np.float64)), np.flatnonzero(np.isinf(values)).tolist())


def as_json(profile: Profile) -> dict[str, Any]:
    """Returns a profile as dicts and lists."""
    return {**profile._asdict(), "lines": [line._asdict() for line in profile.lines]}
