"""Lists the runs and sweeps in a folder: how each stands, and what has come of it. Imports no jax."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxprop.config.tasks import better, main_metric
from jaxprop.config.yaml_loader import parse
from jaxprop.errors import JaxpropError, RunFolderError, UsageError
from jaxprop.run.folder import RUN_FILES, is_run, status_of
from jaxprop.run.status import Status
from jaxprop.run.swept import FILE, RESULTS, is_sweep, read_results
from jaxprop.sinks.lines import Tail
from jaxprop.untrusted.files import read_bytes, read_json

OF_RUNS = (*RUN_FILES, "summary.json")  # one of which lies in whatever was a run
RECORDS = (
    "summary.json",
    "metrics.jsonl",
    "lr_find.json",
    "config.yaml",
)  # whose time is that of the run, in this order


class Listed(NamedTuple):
    """A run in a list, or a sweep, whose best figure is the mean of its best setting.

    Args:
      name: of its folder.
      run: its folder.
      status: as in `summary.json`; `running` or `unfinished` without one; `lr-find` for a search of the learning rate;
        `sweep`, and `sweep running` while a process holds its folder.
      step: the last one taken.
      metric: the metric by which the run is ranked.
      best: its best value, that of the checkpoint which is kept as the best.
      last: its last value.
      seconds: that the run has taken; None until it has ended.
      when: time of its last record, in seconds since 1970.
      problem: what of it cannot be read, one sentence; empty for a run that is whole. Of a sweep also what is left
        or lost.
    """

    name: str
    run: Path
    status: str
    step: int | None
    metric: str
    best: float | None
    last: float | None
    seconds: float | None
    when: float
    problem: str

    @property
    def better(self) -> Literal["min", "max"]:
        """Whether a smaller or a larger value of `metric` is better."""
        return better(self.metric)


def list_runs(folder: Path, sort: str = "when") -> list[Listed]:
    """Lists the runs and sweeps in a folder, or the run that a folder is; whatever else lies there is passed over.

    Of a folder that is itself a sweep, its runs are listed.

    Args:
      folder: such as `runs`.
      sort: `when` the newest first, `metric` the best first, `time` and `step` the longest first, or `name`.

    Raises:
      UsageError: there is no such folder, or it cannot be read.

    Example:
      >>> import json, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for name, loss in (("a", 0.5), ("b", 0.25)):
      ...         Path(folder, name).mkdir()
      ...         _ = Path(folder, name, "config.yaml").write_text("task: {name: classify}")
      ...         summary = {"status": "completed", "step": 10, "metrics": {"loss": loss}}
      ...         _ = Path(folder, name, "summary.json").write_text(json.dumps(summary))
      ...     [(run.name, run.status, run.last) for run in list_runs(Path(folder), "metric")]
      [('b', 'completed', 0.25), ('a', 'completed', 0.5)]
    """
    try:
        if not folder.is_dir():
            what = "is a file, not a folder of runs" if folder.exists() else "there is no such folder"
            raise UsageError(f"{folder}: {what}; 'jaxprop runs' lists those in runs/")
        folders = [folder] if is_run(folder) else sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error.strerror}); name a folder of runs") from None
    found = [
        _swept(path) if _is_sweep(path) else _listed(path) for path in folders if _is_sweep(path) or _was_run(path)
    ]
    return sorted(found, key=KEYS[sort])


def _was_run(folder: Path) -> bool:
    try:
        return any((folder / name).is_file() for name in OF_RUNS) or (folder / "checkpoints").is_dir()
    except OSError:  # a folder that may not be entered
        return False


def _is_sweep(folder: Path) -> bool:
    try:
        return is_sweep(folder) and not is_run(folder)
    except OSError:
        return False


def _swept(folder: Path) -> Listed:
    """A sweep, in one line."""
    path = next((folder / name for name in (RESULTS, FILE) if (folder / name).is_file()), folder)
    status = "sweep running" if status_of(folder, None) == Status.RUNNING else "sweep"
    empty = Listed(folder.name, folder, status, None, "", None, None, None, path.stat().st_mtime, "")
    try:
        found = read_results(folder)
    except RunFolderError as error:
        return empty._replace(
            problem=str(error).removeprefix(f"{folder} ").removeprefix(f"{folder}/").partition(";")[0]
        )
    lost = sum(one.lost for one in found.settings)
    notes = [f"runs left: {found.left:,}"] * (found.left > 0) + [f"runs lost: {lost:,}"] * (lost > 0)
    best = _number(found.good[0].mean) if found.good else None
    return empty._replace(
        metric=found.metric, best=best, seconds=_number(found.seconds), problem=", ".join(notes)
    )  # fmt: skip


def _by_metric(run: Listed) -> tuple[Any, ...]:
    value = run.best if run.best is not None else run.last
    # Runs of other metrics cannot be compared, and stand apart; those without a value come last.
    return value is None, run.metric, 0.0 if value is None else -value if run.better == "max" else value, run.name


KEYS: dict[str, Callable[[Listed], tuple[Any, ...]]] = {
    "when": lambda run: (-run.when, run.name),
    "metric": _by_metric,
    "time": lambda run: (-(run.seconds or 0.0), run.name),
    "step": lambda run: (-(run.step or 0), run.name),
    "name": lambda run: (run.name,),
}


def _listed(folder: Path) -> Listed:
    problems: list[str] = []
    config, summary = _config(folder, problems), _summary(folder, problems)
    times = [path.stat().st_mtime for name in RECORDS if (path := folder / name).is_file()]
    when = times[0] if times else folder.stat().st_mtime
    search = _search(folder) if summary is None and not (folder / "metrics.jsonl").exists() else None
    if search is not None:
        return Listed(folder.name, folder, "lr-find", None, "suggested lr", None, search, None, when, "")
    status = status_of(folder, summary)
    evaluations, step = _records(folder, status, problems) if summary is None else ([], None)
    measured = _mapping(summary, "metrics") or (evaluations[-1] if evaluations else {})
    checkpoint = _mapping(config, "checkpoint")
    task, wanted = _mapping(config, "task").get("name"), checkpoint.get("best")
    metric = main_metric(
        task if isinstance(task, str) else None, list(measured), wanted if isinstance(wanted, str) else None
    )
    kept = wanted if isinstance(wanted, str) else "loss"  # what the best checkpoint is chosen by
    best = _mapping(summary, "best") or _best(evaluations, kept)
    return Listed(
        name=folder.name, run=folder, status=status, step=_whole((summary or {}).get("step"), step),
        metric=metric, best=_number(best.get(metric)), last=_number(measured.get(metric)),
        seconds=_number((summary or {}).get("seconds")), when=when, problem="; ".join(problems),
    )  # fmt: skip


def _config(folder: Path, problems: list[str]) -> dict[str, Any]:
    try:
        value = parse(read_bytes(folder / "config.yaml").decode(), "config.yaml").value
    except FileNotFoundError:
        problems.append("config.yaml is missing")
    except (OSError, UnicodeDecodeError, JaxpropError):
        problems.append("config.yaml cannot be read")
    else:
        return value if isinstance(value, dict) else {}
    return {}


def _summary(folder: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        value = read_json(folder / "summary.json")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        problems.append("summary.json is damaged")
        return None
    return value


def _search(folder: Path) -> float | None:
    """The rate that `jaxprop lr-find` has suggested, NaN where it suggests none; None where this is no search."""
    try:
        found = read_json(folder / "lr_find.json")
    except (OSError, ValueError):
        return None
    suggested = _number(found.get("suggested")) if isinstance(found, dict) else None
    return math.nan if suggested is None else suggested


def _records(folder: Path, status: str, problems: list[str]) -> tuple[list[dict[str, Any]], int | None]:
    """The evaluations in `metrics.jsonl`, and its last step."""
    try:
        tail = Tail(folder / "metrics.jsonl")
        tail.path.lstat()
        records = [record for block in tail.more()[1] for record in block]
    except FileNotFoundError:
        if status != Status.RUNNING:  # which may not have logged anything yet
            problems.append("metrics.jsonl is missing")
        return [], None
    except OSError:
        problems.append("metrics.jsonl cannot be read")
        return [], None
    steps = [step for record in records if (step := _whole(record.get("step"))) is not None]
    names = ("step", "split")
    return [
        {name: value for name, value in record.items() if name not in names}
        for record in records
        if record.get("split") == "eval"
    ], max(steps, default=None)


def _best(evaluations: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    known = [(value, record) for record in evaluations if (value := _number(record.get(metric))) is not None]
    if not known:
        return {}
    choose = max if better(metric) == "max" else min
    return choose(known, key=lambda pair: pair[0])[1]


def _mapping(tree: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    found = (tree or {}).get(name)
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _whole(value: Any, default: int | None = None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
