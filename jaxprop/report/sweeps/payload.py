"""The data that a sweep's page draws, as one tree of JSON values."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from jaxprop.report.read import Series
from jaxprop.report.reduce import decimate, rounded
from jaxprop.report.sweeps.read import SweepData, SweptRun
from jaxprop.report.sweeps.scales import Absent, Level, axis, distinct, level
from jaxprop.report.verdict import short
from jaxprop.run.status import Status
from jaxprop.run.swept import HALVED, LEVEL, Ranked, label, sure, written

BEST = 8  # settings with a colour, and with their seeds
OTHERS = 100  # whose means are drawn in grey
BINS = 300  # of a curve
ROWS = 200  # settings in the table, and lost runs in theirs
LINES = 500  # settings in the parallel coordinates
LONGEST = 60  # characters of a setting where it names a curve; the whole is in the table
MOST_CELLS, FULL = 40, 0.5  # values of a key in a map, and the share of its cells that has to be filled
TICKS = 5  # of the metric


def payload(sweep: SweepData, page: Path | None, use: str = "") -> dict[str, Any]:
    """Returns the data that the page draws.

    Args:
      sweep: the contents of its folder, with `folder` that of the runs.
      page: the folder in which the page will lie, below which links are relative; None for a page without links.
      use: the command that trains the best setting.

    Returns:
      Dicts, lists, strings, finite numbers and None.
    """
    results = sweep.results
    colours = level([one.mean for one in results.settings], results.better)
    lost, alerts = lost_runs(sweep), alerts_by_setting(sweep)
    return {
        "title": sweep.name,
        "runs": [],
        "compare": None,
        "sweep": {
            "metric": results.metric,
            "keys": list(results.keys),
            "verdict": _verdict(sweep, use),
            "notes": list(sweep.notes),
            "colours": None if colours is None else colours._asdict(),
            "settings": [_setting(one, i, sweep, page) for i, one in enumerate(results.settings[:ROWS])],
            "settings_more": max(len(results.settings) - ROWS, 0),
            "charts": list(_charts(sweep)),
            "coordinates": _coordinates(sweep, colours),
            "map": _map(sweep, colours),
            "lost": [_lost(run, page, sweep) for run in lost[:ROWS]],
            "lost_more": max(len(lost) - ROWS, 0),
            "alerts": alerts[:ROWS],
            "alerts_more": max(len(alerts) - ROWS, 0),
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _figure(one: Ranked) -> str:
    margin = f" ± {one.margin:.2g}" if math.isfinite(one.margin) else ""
    return f"{one.mean:.4g}{margin}"


def _verdict(sweep: SweepData, use: str) -> dict[str, Any]:
    """What a person wants to know first."""
    results = sweep.results
    good, lost = results.good, len(lost_runs(sweep))
    if not good:
        problem = next((one.problem for one in results.runs if one.problem), "no run has ended")
        return {"tone": "bad", "headline": f"No setting can be recommended: {problem}", "facts": []}
    best, said = good[0], results.verdict
    over = f"over {len(best.values)} seeds" if len(best.values) > 1 else "with one seed"
    named = label(best.setting) or "the only setting"
    facts = [("how sure", sure(results) or ""), ("use it with", use)]
    tried = {label(run.setting) for run in results.runs}
    runs = f"{_counted(len(results.runs), 'run')} of {_counted(len(tried), 'setting')}"
    halved = sum(run.status == HALVED for run in results.runs)
    counts = [f"{lost:,} lost"] * (lost > 0) + [f"{halved:,} ended early, since other settings were better"] * (
        halved > 0
    )
    facts.append(("runs", f"{runs}; {', '.join(counts)}" if counts else runs))
    if results.left:
        facts.append(("left", f"{_counted(results.left, 'run')}, with which the same command goes on"))
    certain = said is not None and said.p < LEVEL
    return {
        "tone": "open" if results.left else "good" if certain else "watch",
        "headline": f"Best of {len(tried)}: {named}, with {results.metric} {_figure(best)} {over}.",
        "facts": [[name, fact] for name, fact in facts if fact],
    }


def _setting(one: Ranked, place: int, sweep: SweepData, page: Path | None) -> dict[str, Any]:
    runs = sweep.runs[place]
    return {
        "label": label(one.setting),
        "values": [written(one.setting[key]) if key in one.setting else None for key in sweep.results.keys],
        "mean": _finite(one.mean),
        "margin": _finite(one.margin),
        "seeds": len(one.values),
        "lost": one.lost,
        "alerts": sum(len(run.alerts) for run in runs),
        "runs": [[run.ended.seed, _link(run, page, sweep), run.ended.status] for run in runs],
    }


def _link(run: SweptRun, page: Path | None, sweep: SweepData) -> str | None:
    """The address of a run's folder, or of its own page where it has one, relative to the page."""
    if page is None:
        return None
    folder = sweep.folder / run.ended.folder
    target = folder / "report.html" if (folder / "report.html").is_file() else folder
    try:
        way = os.path.relpath(target.resolve(), page.resolve())
    except ValueError:  # on another drive
        return None
    # Quoted, a name cannot become another scheme than that of the page.
    return quote(Path(way).as_posix()) + ("/" if target == folder else "")


# -- curves -------------------------------------------------------------------------------------------


def _charts(sweep: SweepData) -> Iterator[dict[str, Any]]:
    """The metric and the losses over the steps, each setting with a mean, and the best ones with their seeds."""
    metric = sweep.results.metric
    wanted = [(metric, "evaluation")] + [("loss", split) for split in ("evaluation", "train")]
    for name, split in dict.fromkeys(wanted):
        lines = [line for i, runs in enumerate(sweep.runs[: BEST + OTHERS]) for line in _lines(runs, i, name, split)]
        if lines:
            yield {"name": name, "split": split, "lines": lines}


def _lines(runs: Sequence[SweptRun], place: int, name: str, split: str) -> Iterator[dict[str, Any]]:
    series = [(run, run.evaluation if split == "evaluation" else run.train) for run in runs]
    drawn = [(run, found[name]) for run, found in series if name in found]
    if place < BEST and len(drawn) > 1:
        for run, one in drawn:
            yield {"setting": place, "seed": run.ended.seed} | decimate(*one, BINS)._asdict()
    whole = [one for run, one in drawn if run.ended.metrics] or [one for _, one in drawn]
    if (mean := mean_of(whole)) is not None:
        yield {"setting": place, "seed": None} | decimate(*mean, BINS)._asdict()


def mean_of(series: Sequence[Series]) -> Series | None:
    """Returns the mean of some series at the steps that all of them have; None where there are none.

    Example:
      >>> one, two = Series(np.array([1, 2]), np.array([1.0, 2.0])), Series(np.array([2, 3]), np.array([4.0, 5.0]))
      >>> mean_of([one, two])
      Series(step=array([2]), value=array([3.]))
    """
    if not series:
        return None
    steps = reduce(np.intersect1d, [one.step for one in series])
    if not len(steps):
        return None
    return Series(steps, np.mean([one.value[np.isin(one.step, steps)] for one in series], axis=0))


# -- settings against each other ----------------------------------------------------------------------


def _coordinates(sweep: SweepData, colours: Level | None) -> dict[str, Any] | None:
    """One axis for each key and one for the metric, and a line for each setting."""
    results = sweep.results
    shown = results.settings[:LINES]
    if not results.keys or colours is None or len(shown) < 2:
        return None
    axes = [axis([one.setting.get(key, Absent()) for one in shown], _given(sweep, key)) for key in results.keys]
    levels = [colours.at(one.mean) for one in shown]
    lines = [
        {"label": label(one.setting), "mean": _finite(one.mean), "at": [drawn.at[i] for drawn in axes], "level": found}
        for i, (one, found) in enumerate(zip(shown, levels, strict=True))
    ]
    marks = [i / (TICKS - 1) for i in range(TICKS)]
    return {
        "axes": [
            {"key": key, "kind": drawn.kind, "ticks": drawn.ticks}
            for key, drawn in zip(results.keys, axes, strict=True)
        ],
        "metric": [[mark, value] for mark, value in zip(marks, _along(colours, marks), strict=True)],
        "lines": lines,
        "more": max(len(results.settings) - LINES, 0),
    }


def _given(sweep: SweepData, key: str) -> list[str]:
    """The values of a key as words: numbers ascending, others in the order in which the sweep has them."""
    return distinct([run.setting[key] for run in sweep.results.runs if key in run.setting])


def _along(colours: Level, marks: Sequence[float]) -> list[float | None]:
    """The values of the metric at some levels."""
    if colours.log:
        return rounded(np.array([colours.worst * (colours.best / colours.worst) ** mark for mark in marks]), 3)
    return rounded(np.array([colours.worst + mark * (colours.best - colours.worst) for mark in marks]), 4)


def _map(sweep: SweepData, colours: Level | None) -> dict[str, Any] | None:
    """The means by two keys; None where it is not these two that every setting has, or hardly any cell is filled."""
    results, keys = sweep.results, sweep.results.keys
    whole = all(key in one.setting for one in results.settings for key in keys)
    if len(keys) != 2 or colours is None or not whole:
        return None
    places = [[written(one.setting[key]) for key in keys] for one in results.settings]
    words = [{place[i] for place in places} for i in range(2)]
    rows, columns = ([name for name in _given(sweep, key) if name in words[i]] for i, key in enumerate(keys))
    if max(len(rows), len(columns)) > MOST_CELLS or len(places) < FULL * len(rows) * len(columns):
        return None
    cells: list[list[dict[str, Any] | None]] = [[None] * len(columns) for _ in rows]
    for one, (row, column) in zip(results.settings, places, strict=True):
        found = {"mean": _finite(one.mean), "level": colours.at(one.mean), "lost": one.lost, "seeds": len(one.values)}
        cells[rows.index(row)][columns.index(column)] = found
    best = [rows.index(places[0][0]), columns.index(places[0][1])]
    return {
        "rows": keys[0], "columns": keys[1], "row_names": rows, "column_names": columns, "cells": cells,
        "best": best,
    }  # fmt: skip


# -- what went wrong ----------------------------------------------------------------------------------


def lost_runs(sweep: SweepData) -> list[SweptRun]:
    """Returns the runs that diverged or failed, by the order of their settings."""
    other = (Status.INTERRUPTED, HALVED)  # which have a problem, but can be gone on with or were given up for others
    return [run for runs in sweep.runs for run in runs if run.ended.problem and run.ended.status not in other]


def _lost(run: SweptRun, page: Path | None, sweep: SweepData) -> list[Any]:
    ended = run.ended
    return [label(ended.setting), ended.seed, ended.status, ended.problem, _link(run, page, sweep)]


def alerts_by_setting(sweep: SweepData) -> list[dict[str, Any]]:
    """Returns of each setting that has alerts how many are to act on and how many advice, and their kinds."""
    rows: list[dict[str, Any]] = []
    for one, runs in zip(sweep.results.settings, sweep.runs, strict=True):
        alerts = [alert for run in runs for alert in run.alerts]
        acts = [kind for kind, severity in alerts if severity == "act"]
        others = [kind for kind, severity in alerts if severity != "act"]
        kinds = Counter(short(kind) for kind in (*acts, *others))
        if alerts:
            listed = [list(item) for item in kinds.items()]
            rows.append({"label": label(one.setting), "act": len(acts), "advice": len(others), "kinds": listed})
    return rows
