"""Reads a run's folder into arrays, with a note on everything that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.tasks import TASK_TABLE
from jaxprop.config.yaml_loader import parse
from jaxprop.errors import JaxpropError, RunFolderError
from jaxprop.report.fields import LARGEST_STEP, number, numbers, whole
from jaxprop.report.grid import LAYER_SIGNALS, TAP_SIGNALS, Grid, RowBuffer
from jaxprop.report.order import forward_order
from jaxprop.run.folder import find_run, status_of
from jaxprop.run.status import OPEN, Status
from jaxprop.sinks.lines import Tail
from jaxprop.untrusted.files import read_bytes, read_json

FILES = ("config.yaml", "metrics.jsonl", "layers.jsonl", "alerts.jsonl", "summary.json", "lr_find.json", "panels.json")
NO_COLUMN = ("step", "split")
FIGURES = frozenset(name for entry in TASK_TABLE.values() for name in entry.figures)
MOST_METRICS = 12  # of a run that are shown


def stamps(paths: Iterable[Path], root: Path) -> list[tuple[str, int, int]]:
    """Returns names below a folder, times and sizes of those files that are there, to detect changes.

    Args:
      paths: files.
      root: the folder.
    """
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path.relative_to(root)), stat.st_mtime_ns, stat.st_size))
    return found


class Series(NamedTuple):
    """One value over the steps: steps int64 `[n]`, ascending, and values float64 `[n]`, NaN if not finite."""

    step: np.ndarray
    value: np.ndarray


class RunData(NamedTuple):
    """The contents of a run's folder.

    Args:
      name: name of the folder.
      config: the resolved configuration, or an empty dict.
      train, evaluation: name of a value in the records of `metrics.jsonl` -> its series.
      layers, taps: rows of `layers.jsonl`, or None if there are none.
      alerts, actions: lines of `alerts.jsonl`, by step.
      summary: contents of `summary.json`, or None.
      findings: `finding.json` of each black box, by step.
      lr_find: contents of `lr_find.json`, or None.
      panels: contents of `panels.json`, or None.
      status: the summary's status; without one, `running` if a process holds the folder, otherwise `unfinished`.
      notes: sentences on what could not be read.
    """

    name: str
    config: dict[str, Any]
    train: dict[str, Series]
    evaluation: dict[str, Series]
    layers: Grid | None
    taps: Grid | None
    alerts: list[dict[str, Any]]
    actions: list[dict[str, Any]]
    summary: dict[str, Any] | None
    findings: list[dict[str, Any]]
    lr_find: dict[str, Any] | None
    panels: dict[str, Any] | None
    status: str
    notes: tuple[str, ...]

    @property
    def last_step(self) -> int:
        """The last step that was taken: that of the summary, or of a later record; 0 without records."""
        columns = [series.step for series in (*self.train.values(), *self.evaluation.values()) if len(series.step)]
        if not columns:
            return 0
        return max(*(int(step[-1]) for step in columns), whole((self.summary or {}).get("step")) or 0)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics besides the loss: those of evaluations, and those of tasks that training records."""
        found = [*self.evaluation, *(name for name in self.train if name in FIGURES)]
        return [name for name in dict.fromkeys(found) if name != "loss"][:MOST_METRICS]

    def with_peaks(self, name: str) -> Series:
        """A value of the train records, with the peaks between them at the steps where they were."""
        series, peak, at = self.train[name], self.train.get(f"{name}_max"), self.train.get(f"{name}_max_step")
        if peak is None or at is None:
            return series
        _, i, j = np.intersect1d(peak.step, at.step, return_indices=True)
        known = np.isfinite(at.value[j]) & (at.value[j] >= 0) & (at.value[j] < LARGEST_STEP)
        steps, values = at.value[j][known].astype(np.int64), peak.value[i][known]
        between = ~np.isin(steps, series.step)
        steps, first = np.unique(np.concatenate([series.step, steps[between]]), return_index=True)
        return Series(steps, np.concatenate([series.value, values[between]])[first])


class Reader:
    """Reads a run's folder; a second reading takes in only what has been added.

    Args:
      folder: the run's folder.

    Raises:
      UsageError: this is not the folder of a run.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = Path(folder, "metrics.jsonl").write_text('{"step": 5, "split": "train", "loss": 0.5}\\n')
      ...     run = Reader(Path(folder)).read()
      >>> run.last_step, run.train["loss"].value.tolist(), run.layers
      (5, [0.5], None)
    """

    def __init__(self, folder: Path):
        self.folder = find_run(folder)
        self._metrics, self._layers, self._alerts = (
            Tail(self.folder / f"{name}.jsonl") for name in ("metrics", "layers", "alerts")
        )
        self._reset_layers()
        self._records: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []

    def signature(self) -> tuple[tuple[str, int, int], ...]:
        """Returns names, times and sizes of the files, and whether a process holds the folder, to detect changes."""
        paths = [self.folder / name for name in (*FILES, ".lock")]
        paths += sorted(self.folder.glob("blackbox/*/finding.json"))
        found = stamps(paths, self.folder)
        # A process that is killed changes no file.
        held = not (self.folder / "summary.json").exists() and status_of(self.folder, None) == Status.RUNNING
        return (*found, ("held", int(held), 0))

    def read(self) -> RunData:
        """Returns the current contents of the folder.

        Raises:
          RunFolderError: nothing has been recorded yet, or a file cannot be read.
        """
        try:
            return self._read()
        except OSError as error:
            raise RunFolderError(f"{error.filename or self.folder} cannot be read: {error.strerror}") from error

    def _read(self) -> RunData:
        notes: list[str] = []
        self._take_in()
        config = _config(self.folder / "config.yaml", notes)
        summary = _object(self.folder / "summary.json", notes)
        status = status_of(self.folder, summary)
        for tail in (self._metrics, self._layers, self._alerts):
            notes += _damage(tail, status, self._misfits if tail is self._layers else 0)
        train, evaluation = columns(self._records, "train"), columns(self._records, "eval")
        lr_find = _lr_find(self.folder / "lr_find.json", notes)
        if not train and not evaluation and lr_find is None:
            raise self._nothing()
        taps, layers = self._grids(notes)
        if layers is None and lr_find is None:
            notes.append(_no_layers(self.folder, config))
        events = sorted(self._events, key=lambda event: whole(event.get("step")) or 0)
        return RunData(
            self.folder.resolve().name, config, train, evaluation, layers, taps,
            [event for event in events if event.get("kind") != "action"],
            [event for event in events if event.get("kind") == "action"],
            summary, list(_findings(self.folder, notes)), lr_find, _object(self.folder / "panels.json", notes),
            status, tuple(notes),
        )  # fmt: skip

    def _grids(self, notes: list[str]) -> tuple[Grid | None, Grid | None]:
        sparse = [rows for rows in (self._taps, self._rows) if rows.sparse]
        if sparse:
            notes.append(
                f"the rows of layers.jsonl, of {sparse[0].extent}, are more than can be drawn and are left out"
            )
            return None, None
        taps = self._taps.grid()
        return taps, self._rows.grid(forward_order(self._rows.names, taps.names if taps else ()))

    def _take_in(self) -> None:
        again, blocks = self._metrics.more()
        self._records = [] if again else self._records
        for block in blocks:
            self._records += [record for record in block if whole(record.get("step")) is not None]
        again, blocks = self._alerts.more()
        self._events = [] if again else self._events
        for block in blocks:
            self._events += block
        again, blocks = self._layers.more()
        if again:
            self._reset_layers()
        for block in blocks:
            self._misfits += self._rows.add(block) + self._taps.add(block)

    def _reset_layers(self) -> None:
        self._rows, self._taps, self._misfits = RowBuffer("layer", LAYER_SIGNALS), RowBuffer("tap", TAP_SIGNALS), 0

    def _nothing(self) -> JaxpropError:
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            why = "has no metrics.jsonl: the run has not logged anything yet, or sinks.jsonl is false in its config"
        elif self._metrics.damaged:
            why = f"has a metrics.jsonl without one record that can be read ({self._metrics.damaged} damaged lines)"
        else:
            why = "has an empty metrics.jsonl; the first record is written after run.log_every steps"
        return RunFolderError(f"{self.folder} {why}")


def columns(records: list[dict[str, Any]], split: str) -> dict[str, Series]:
    """Returns the values in the records of a split, each as a series over the steps.

    Args:
      records: lines of `metrics.jsonl`, whose `step` is a whole number.
      split: `train` or `eval`.

    Example:
      >>> records = [{"step": 2, "split": "eval", "loss": 1.0}, {"step": 1, "split": "eval", "loss": None}]
      >>> found = columns(records, "eval")
      >>> found["loss"].step.tolist(), found["loss"].value.tolist()
      ([1, 2], [nan, 1.0])
    """
    newest = {record["step"]: record for record in records if record.get("split") == split}
    steps = sorted(newest)
    columns: dict[str, tuple[list[int], list[float]]] = {}
    for step in steps:
        for name, value in newest[step].items():
            # null stands for a number that was not finite; texts and lists are ignored
            if name not in NO_COLUMN and isinstance(value, int | float | None):
                at, cells = columns.setdefault(name, ([], []))
                cell = number(value)
                at.append(step)
                cells.append(np.nan if cell is None else cell)
    return {name: Series(np.array(at, np.int64), np.array(cells)) for name, (at, cells) in columns.items()}


def _damage(tail: Tail, status: str, misfits: int) -> Iterator[str]:
    count = tail.damaged + misfits
    if count:
        yield f"{count:,} damaged {'line' if count == 1 else 'lines'} of {tail.path.name} left out"
    if tail.cut and status not in OPEN:
        yield f"the last line of {tail.path.name} is cut short and left out"


def _config(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        value = parse(read_bytes(path).decode(), path.name).value
    except FileNotFoundError:
        notes.append("config.yaml is missing, so the batch size is not known")
        return {}
    except (JaxpropError, UnicodeDecodeError):
        notes.append("config.yaml cannot be read as YAML and is left out")
        return {}
    return value if isinstance(value, dict) else {}


def _object(path: Path, notes: list[str]) -> dict[str, Any] | None:
    try:
        value = read_json(path)
    except FileNotFoundError:
        return None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        notes.append(f"{path.name} is damaged and left out")
        return None
    return value


def _findings(folder: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    paths = folder.glob("blackbox/*/finding.json")
    for path in sorted(paths, key=lambda path: (len(path.parent.name), path.parent.name)):
        finding = _object(path, notes)
        if finding is not None:
            yield finding


def _lr_find(path: Path, notes: list[str]) -> dict[str, Any] | None:
    found = _object(path, notes)
    if found is None:
        return None
    rates, losses = numbers(found.get("lr")), numbers(found.get("loss"))
    if not rates or len(rates) != len(losses) or not all(rate is not None and rate > 0 for rate in rates):
        notes.append("lr_find.json holds no curve of losses against learning rates and is left out")
        return None
    return found


def _no_layers(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "layers.jsonl"
    if not path.is_file():
        why = "layers.jsonl is missing"
    elif path.stat().st_size == 0:
        why = "layers.jsonl is empty"
    else:
        why = "layers.jsonl holds no row that can be read"
    health = config.get("health")
    off = isinstance(health, dict) and health.get("layers") is False
    return f"{why}{', since health.layers is false' if off else ''}, so there are no maps of the layers"
