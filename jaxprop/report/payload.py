"""The data that the page draws, as one tree of JSON values. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprop.report import panels, profile
from jaxprop.report.card import card
from jaxprop.report.compare import compare
from jaxprop.report.fields import nested, number, numbers, text, whole
from jaxprop.report.grid import Grid
from jaxprop.report.read import RunData, Series
from jaxprop.report.reduce import BINS, band, decimate, heat_map
from jaxprop.report.spikes import spikes
from jaxprop.report.verdict import gradient_signal, judge, short
from jaxprop.run.status import OPEN

CURVES = ("loss", "grad_norm", "lr", "loss_scale")
TROUBLES = ("infeasible",)  # figures that have no curve where there is nothing to count
ALERTS = 200  # largest number of alerts shown of a run; the rest are counted
PATH = 60  # largest number of operations shown of a NaN's path
SMOOTH = 0.9  # decay of the moving averages whose ratio is the noise scale
FEWER = 3  # with more runs than this, each curve has fewer points


def payload(runs: Sequence[RunData], names: Sequence[str]) -> dict[str, Any]:
    """Returns the data that the page draws.

    Args:
      runs: one or more runs.
      names: their names.

    Returns:
      Dicts, lists, strings, finite numbers and None.
    """
    bins = BINS if len(runs) <= FEWER else max(BINS * FEWER // len(runs), 100)
    drawn = [run_payload(run, name, bins) for run, name in zip(runs, names, strict=True)]
    return {
        "title": ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
        "runs": drawn,
        "compare": compare(runs, names)._asdict() if len(runs) > 1 else None,
    }


def run_payload(run: RunData, name: str, bins: int = BINS) -> dict[str, Any]:
    """Returns the data that the page draws of one run.

    Args:
      run: the run.
      name: its name.
      bins: number of bins of each curve.
    """
    verdict = judge(run)
    found, more = spikes(run)
    return {
        "name": name,
        "status": run.status,
        "step": run.last_step,
        "live": run.status in OPEN,
        "verdict": verdict._asdict(),
        "card": card(run)._asdict(),
        "metrics": run.metrics,
        "notes": list(run.notes),
        "alerts": [_alert(alert) for alert in run.alerts[:ALERTS]],
        "alerts_more": max(len(run.alerts) - ALERTS, 0),
        "actions": [_action(action) for action in run.actions[:ALERTS]],
        "curves": {key: decimate(*series, bins)._asdict() for key, series in _curves(run).items()},
        "ranges": {name: drawn for name in CURVES if (drawn := _range(run, name, bins)) is not None},
        "batch_size": number(nested(run.config, "data", "batch_size")),
        "scale_told": _scale_told(run),
        "maps": _maps(run),
        "profiles": [profile.as_json(drawn) for drawn in profile.profiles(run)],
        "spikes": [spike._asdict() for spike in found],
        "spikes_more": more,
        "findings": [_finding(finding) for finding in run.findings[:5]],
        "lr_find": _lr_find(run.lr_find),
        "panels": panels.as_json(run.panels, whole(nested(run.summary, "test", "step"))),
    }


def _curves(run: RunData) -> dict[str, Series]:
    found = {name: run.with_peaks(name) for name in CURVES if name in run.train and name != "loss_scale"}
    scale = loss_scale(run)
    found |= {} if scale is None else {"loss_scale": scale}
    found |= {name: run.train[name] for name in run.metrics if name in run.train}
    found |= {f"eval_{name}": run.evaluation[name] for name in ("loss", *run.metrics) if name in run.evaluation}
    for name in [name for name in found if name.removeprefix("eval_") in TROUBLES and not found[name].value.any()]:
        del found[name]
    noise = noise_scale(run)
    return found if noise is None else {**found, "noise_scale": noise}


def loss_scale(run: RunData) -> Series | None:
    """Returns the loss scale in each record of a step; None where it is 1 throughout, as where there is none."""
    found, loss = run.train.get("loss_scale"), run.train.get("loss")
    if found is None or bool(np.all(found.value == 1)):
        return None
    if loss is None:
        return found
    scale = np.ones(len(loss.step))  # a record that does not say it has that of 1
    scale[np.isin(loss.step, found.step)] = found.value[np.isin(found.step, loss.step)]
    return Series(loss.step, scale)


def _scale_told(run: RunData) -> str:
    """What has become of the loss scale, in words."""
    scale, skips = loss_scale(run), run.train.get("skips")
    if scale is None:
        return ""
    first, last, lowest = (f"{x:,.0f}" for x in (scale.value[0], scale.value[-1], scale.value.min()))
    skipped = 0 if skips is None else int(np.nanmax(skips.value, initial=0))
    return (
        f"{first} at first, {lowest} at the lowest, {last} at last; halved by each of {skipped} skipped steps, doubled "
        "after many finite ones"
    )


def _range(run: RunData, name: str, bins: int) -> dict[str, Any] | None:
    """The lowest and highest value of the steps between records; None where each step has one of its own."""
    low, high = run.train.get(f"{name}_min"), run.train.get(f"{name}_max")
    if low is None or high is None:
        return None
    step, i, j = np.intersect1d(low.step, high.step, return_indices=True)
    drawn = band(step, low.value[i], high.value[j], bins)
    return drawn._asdict() if drawn.step else None


def noise_scale(run: RunData) -> Series | None:
    """Returns the gradient noise scale, tr(S) / |G|^2 in examples, or None if it is not measured.

    Both terms are moving averages, because single estimates are noisy and that of |G|^2 may be negative.

    Reference:
      McCandlish et al., An Empirical Model of Large-Batch Training, 2018, appendix A.1.
    """
    trace, signal = run.train.get("noise_trace"), run.train.get("noise_signal")
    if trace is None or signal is None:
        return None
    steps, a, b = np.intersect1d(trace.step, signal.step, return_indices=True)
    known = np.isfinite(trace.value[a]) & np.isfinite(signal.value[b])
    steps, top, bottom = steps[known], _mean(trace.value[a][known]), _mean(signal.value[b][known])
    kept = (bottom > 0) & (top > 0)
    return Series(steps[kept], top[kept] / bottom[kept]) if kept.any() else None


def _mean(values: np.ndarray) -> np.ndarray:
    found, total, weight = np.empty(len(values)), 0.0, 0.0
    for i, value in enumerate(values.tolist()):
        total, weight = SMOOTH * total + (1 - SMOOTH) * value, SMOOTH * weight + 1 - SMOOTH
        found[i] = total / weight
    return found


def _maps(run: RunData) -> list[dict[str, Any]]:
    signal = gradient_signal(run)
    gradient = "Gradient RMS of the parameters" if signal == "grad_rms" else "Gradient norm of the parameters"
    drawn: list[tuple[str, str, Grid | None, str | None, str]] = [
        ("gradient", gradient, run.layers, signal, "log"),
        ("ratio", "Update ratio ‖Δw‖ / ‖w‖", run.layers, "update_ratio", "log"),
        ("activation", "Activation RMS", run.taps, "rms", "log"),
        ("dead", "Dead units, share", run.taps, "dead", "linear"),
        ("saturated", "Saturated values, share", run.taps, "saturated", "linear"),
    ]
    found = []
    for key, title, grid, name, scale in drawn:
        drawn_map = None if grid is None or name is None else heat_map(grid, name, scale)
        if drawn_map is not None:
            found.append({"key": key, "title": title, **drawn_map._asdict()})
    return found


def _alert(alert: dict[str, Any]) -> dict[str, Any]:
    step = whole(alert.get("step")) or 0
    since = whole(alert.get("since"))
    return {
        "step": step,
        "since": step if since is None else min(since, step),
        "severity": "act" if alert.get("severity") == "act" else "advice",
        "kind": short(text(alert.get("kind"), "alert")),
        "layer": text(alert.get("layer")),
        "message": text(alert.get("message")),
    }


def _action(action: dict[str, Any]) -> dict[str, Any]:
    step, due = whole(action.get("step")) or 0, whole(action.get("due"))
    name = text(action.get("action"), "action")
    return {"step": step, "due": step if due is None else due, "action": name, "message": text(action.get("message"))}


def _finding(finding: dict[str, Any]) -> dict[str, Any]:
    given = finding.get("path")
    path = [_operation(item) for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    hidden = max(len(path) - PATH, 0)
    affected = finding.get("affected")
    examples, index = numbers(finding.get("examples")), numbers(finding.get("index"))
    return {
        **_operation(finding),
        "step": whole(finding.get("step")),
        "message": text(finding.get("message")),
        "index": ", ".join(f"{i:.0f}" for i in index if i is not None),
        "examples": ", ".join(f"{i:.0f}" for i in examples[:20] if i is not None),
        "affected": [text(name) for name in affected[:20]] if isinstance(affected, list) else [],
        "affected_more": max(len(affected) - 20, 0) if isinstance(affected, list) else 0,
        "path": [*path[: PATH // 2], *path[-PATH // 2 :]] if hidden else path,
        "hidden": hidden,
        "hidden_after": PATH // 2,
    }


def _operation(item: dict[str, Any]) -> dict[str, Any]:
    names = {key: text(item.get(key)) for key in ("primitive", "layer", "file", "phase")}
    return names | {key: whole(item.get(key)) for key in ("line", "bad", "size")}


def _lr_find(found: dict[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    rates, losses = numbers(found.get("lr")), numbers(found.get("loss"))
    smoothed = numbers(found.get("smoothed"))
    order = sorted(range(len(rates)), key=lambda i: rates[i] or math.inf)
    return {
        "lr": [rates[i] for i in order],
        "loss": [losses[i] for i in order],
        "smoothed": [smoothed[i] for i in order] if len(smoothed) == len(rates) else [],
        "suggested": number(found.get("suggested")),
        "why": text(found.get("why")),
        "flat": found.get("flat") is True,
    }
