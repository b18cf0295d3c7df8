"""Spikes: the curves around each, and the layers that are farthest above their own median. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprop.report.fields import text, whole
from jaxprop.report.read import RunData, Series
from jaxprop.report.reduce import decimate
from jaxprop.report.verdict import short

KINDS = ("gradient_spike", "layer_spike", "loss_jump")
WINDOW = 50  # steps shown before and after a spike
MOST = 10
LAYERS = 5


class Spike(NamedTuple):
    """One spike.

    Args:
      step: the step of its alert.
      title: kind and layer of its alert.
      curves: `loss` and `grad_norm` in the window.
      at: the step whose rows are compared, or None if the window has no rows.
      layers: name, gradient norm (None if not finite), its median over the run, and the ratio of the two.
    """

    step: int
    title: str
    curves: dict[str, dict[str, Any]]
    at: int | None
    layers: list[tuple[str, float | None, float, float | None]]


def spikes(run: RunData) -> tuple[list[Spike], int]:
    """Returns the first spikes of a run, at most `MOST`, and the number of the others."""
    alerts = [alert for alert in run.alerts if alert.get("kind") in KINDS and whole(alert.get("step")) is not None]
    return [_spike(run, alert) for alert in alerts[:MOST]], max(len(alerts) - MOST, 0)


def _spike(run: RunData, alert: dict[str, Any]) -> Spike:
    step = alert["step"]
    layer = text(alert.get("layer"))
    title = short(alert["kind"]) + (f" in {layer}" if layer else "")
    drawn: tuple[str, ...] = ("loss", "grad_norm")
    curves = {name: _window(run.train[name], step) for name in drawn if name in run.train}
    at, layers = _highest(run, step)
    return Spike(step, title[:1].upper() + title[1:], curves, at, layers)


def _window(series: Series, step: int) -> dict[str, Any]:
    first, end = np.searchsorted(series.step, [step - WINDOW, step + WINDOW + 1])
    return decimate(series.step[first:end], series.value[first:end])._asdict()


def _highest(run: RunData, step: int) -> tuple[int | None, list[tuple[str, float | None, float, float | None]]]:
    grid = run.layers
    table = None if grid is None else grid.values.get("grad_norm")
    if grid is None or table is None:
        return None, []
    near = np.flatnonzero(np.abs(grid.steps - step) <= WINDOW)
    if not len(near):
        return None, []
    at = near[np.argmin(np.abs(grid.steps[near] - step))]
    finite = np.where(np.isfinite(table), table, np.nan)
    known = ~np.isnan(finite).all(axis=1) & ~np.isnan(table[:, at])
    median = np.full(len(table), np.nan)
    median[known] = np.nanmedian(finite[known], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.where(median > 0, table[:, at] / median, np.nan)
    order = sorted(np.flatnonzero(known), key=lambda i: -np.nan_to_num(times[i], nan=0.0, posinf=np.inf))
    return int(grid.steps[at]), [
        (grid.names[i], _finite(table[i, at]), float(median[i]), _finite(times[i])) for i in order[:LAYERS]
    ]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
