"""Reads a sweep's folder: how its settings rank, and of its runs what a page of all of them shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.errors import RunFolderError
from jaxprop.report.fields import text, whole
from jaxprop.report.read import Series, columns, stamps
from jaxprop.run.swept import FILE, RESULTS, Ended, Results, read_results, read_sweep
from jaxprop.sinks.lines import Tail

MOST_CURVES = 400  # runs whose records are read, those of the best settings first
MOST_ALERTS = 2000  # runs whose alerts are read


class SweptRun(NamedTuple):
    """One run of a sweep.

    Args:
      ended: how it has ended.
      train, evaluation: name of a value -> its series; empty where they are not read, or where there are none.
      alerts: kind and severity of each.
    """

    ended: Ended
    train: dict[str, Series]
    evaluation: dict[str, Series]
    alerts: list[tuple[str, str]]


class SweepData(NamedTuple):
    """The contents of a sweep's folder.

    Args:
      folder: of the sweep.
      name: of the folder.
      results: how the settings rank.
      about: `sweep.json`, which anyone may have written.
      runs: of each setting, in the order of the ranking, and by seed.
      notes: sentences on what is left out.
    """

    folder: Path
    name: str
    results: Results
    about: dict[str, Any]
    runs: list[list[SweptRun]]
    notes: tuple[str, ...]


class SweepReader:
    """Reads a sweep's folder.

    Args:
      folder: of the sweep.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def signature(self) -> tuple[tuple[str, int, int], ...]:
        """Returns names, times and sizes of the files that change while runs are trained."""
        paths = [self.folder / FILE, self.folder / RESULTS, *sorted(self.folder.glob("*/metrics.jsonl"))]
        return tuple(stamps(paths, self.folder))

    def read(self) -> SweepData:
        """Returns the current contents of the folder.

        Raises:
          RunFolderError: no run has ended yet, or a file cannot be read.
        """
        results = read_results(self.folder)
        groups: dict[str, list[Ended]] = {}
        for run in results.runs:
            groups.setdefault(_key(run.setting), []).append(run)
        by_setting = [sorted(groups.get(_key(one.setting), []), key=lambda run: run.seed) for one in results.settings]
        runs, count = [], 0
        for ended in by_setting:
            runs.append([self._read(run, count + i) for i, run in enumerate(ended)])
            count += len(ended)
        notes = [] if results.warning is None else [results.warning]
        if count > MOST_CURVES:
            notes.append(f"curves are of the {MOST_CURVES:,} runs that rank best, of {count:,}")
        if count > MOST_ALERTS:
            notes.append(f"alerts are of the {MOST_ALERTS:,} runs that rank best, of {count:,}")
        return SweepData(
            self.folder, self.folder.resolve().name, results, read_sweep(self.folder) or {}, runs, tuple(notes)
        )

    def _read(self, ended: Ended, place: int) -> SweptRun:
        folder = self.folder / ended.folder
        records = self._lines(folder / "metrics.jsonl") if place < MOST_CURVES else []
        records = [record for record in records if whole(record.get("step")) is not None]
        events = self._lines(folder / "alerts.jsonl") if place < MOST_ALERTS else []
        alerts = [
            (text(event.get("kind"), "alert"), "act" if event.get("severity") == "act" else "advice")
            for event in events
            if event.get("kind") != "action"
        ]
        return SweptRun(ended, columns(records, "train"), columns(records, "eval"), alerts)

    def _lines(self, path: Path) -> list[dict[str, Any]]:
        try:
            return [line for block in Tail(path).more()[1] for line in block]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read: {error.strerror}") from error


def _key(setting: Mapping[str, Any]) -> str:
    return json.dumps(setting, sort_keys=True)
