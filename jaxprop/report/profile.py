"""Profiles of gradients and activations over depth, at a few selected steps. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprop.health.watch.alerts import OF_THE_LOOP
from jaxprop.report.fields import whole
from jaxprop.report.grid import Grid
from jaxprop.report.read import RunData
from jaxprop.report.reduce import rounded
from jaxprop.report.verdict import gradient_signal, main_alert


class Line(NamedTuple):
    """The values of one step.

    Args:
      label: why the step is shown, such as `start` or `first alert`.
      step: its number.
      values: one for each layer; None where it is not finite or missing.
      broken: indices of the layers whose value is not finite.
    """

    label: str
    step: int
    values: list[float | None]
    broken: list[int]


class Profile(NamedTuple):
    """One signal over depth.

    Args:
      title, unit: title of the diagram, and unit of its values.
      names: names of the layers in the order of the forward pass.
      lines: one for each step shown.
    """

    title: str
    unit: str
    names: list[str]
    lines: list[Line]


def profiles(run: RunData) -> list[Profile]:
    """Returns the profiles of a run: gradients of the layers, and gradients and activations of the taps."""
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
    """Chooses the steps to show: the start, the last before the first alert, that one, and the first to act on.

    Without an alert, start, middle and end.

    Args:
      run: the run.
      steps: `[n]`, the steps with rows, ascending.

    Returns:
      For each a label and an index into `steps`, without duplicates.
    """
    main, earliest = main_alert(run), _earliest(run)
    if main is None or earliest is None:
        wanted = [("start", 0), ("end", len(steps) - 1), ("middle", len(steps) // 2)]
    else:
        step, since = earliest
        acted = whole(main.get("step"))
        wanted = [("start", 0), _at("first alert", steps, step)]
        if main.get("severity") == "act" and acted is not None and acted > step:
            wanted.append(_at("first alert to act on", steps, acted))
        wanted.append(("before the first alert", int(np.searchsorted(steps, min(since, step))) - 1))
        wanted = [(label, at) for label, at in wanted if 0 <= at < len(steps)]
    newest = {at: label for label, at in reversed(wanted)}  # the first label of a step is the one that it keeps
    return sorted(((label, at) for at, label in newest.items()), key=lambda pair: pair[1])


def _earliest(run: RunData) -> tuple[int, int] | None:
    """Step and first sign of the first alert on the training; of any where there are no others."""
    training = [alert for alert in run.alerts if alert.get("kind") not in OF_THE_LOOP] or run.alerts
    found = [(step, whole(alert.get("since")) or step) for alert in training if (step := whole(alert.get("step")))]
    return min(found, default=None)


def _at(label: str, steps: np.ndarray, step: int) -> tuple[str, int]:
    """The record of a step; it is written only where the step falls on a log interval, and else the next one is."""
    at = int(np.searchsorted(steps, step))
    exact = at < len(steps) and steps[at] == step
    return (label if exact else f"after the {label}"), at


def _line(label: str, step: int, values: np.ndarray) -> Line:
    return Line(label, step, rounded(values.astype(np.float64)), np.flatnonzero(np.isinf(values)).tolist())


def as_json(profile: Profile) -> dict[str, Any]:
    """Returns a profile as dicts and lists."""
    return {**profile._asdict(), "lines": [line._asdict() for line in profile.lines]}
