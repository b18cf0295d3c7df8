"""Compares runs that exist: in what they differ, how they rank over seeds, and whether the best is surely better.

Imports no jax.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.config.tasks import better, main_metric
from jaxprop.config.yaml_loader import parse
from jaxprop.errors import JaxpropError, UsageError, one_of
from jaxprop.run.folder import find_run, read_summary, status_of
from jaxprop.run.status import Status
from jaxprop.run.swept import OWN, Ended, Results, on_other_data, read_sweep, sweep_named
from jaxprop.tools.sweep.ranking import rank, verdict
from jaxprop.untrusted.files import read_bytes

REPEATED = "repeated"  # status of a run with the setting and the seed of another one
APART = ("sinks", "base")  # sections in which a difference is none of the runs


class _Run(NamedTuple):
    """A run as it is on disk: its folder, its configuration as dotted keys, and its summary."""

    folder: Path
    values: dict[str, Any]
    summary: Mapping[str, Any] | None


def compare(folders: Sequence[Path], metric: str | None = None) -> Results:
    """Ranks runs by their settings, which are the keys in which their configurations differ, besides the seed.

    Args:
      folders: of runs, or names of runs in `runs/`; a sweep stands for all of its runs.
      metric: of the evaluations; default: that of the task.

    Returns:
      What `jaxprop sweep` returns of its runs; `folder` of each run is the path of its folder.

    Raises:
      UsageError: there are fewer than two runs, they have different tasks, or none has such a metric.
    """
    runs = [_read(folder) for folder in dict.fromkeys(_expanded(folders))]
    if len(runs) < 2:
        raise UsageError("expected two runs or more to compare; 'jaxprop runs' lists those in runs/")
    _check_alike(runs)
    keys = _differing(runs)
    ended = _once([_ended(run, keys) for run in runs])
    known = {name for one in ended for name in one.metrics}
    if metric is not None and known and metric not in known:
        raise UsageError(f"--metric: {one_of(metric, known, 'metric of these runs')}")
    first = runs[0].values
    wanted = {run.values.get("checkpoint.best") for run in runs}
    best = wanted.pop() if len(wanted) == 1 else None
    name = metric or main_metric(first.get("task.name"), sorted(known), best)
    mode = first.get("checkpoint.mode") if name == best else None
    mode = mode if mode in ("min", "max") else better(name, first.get("task.name"))
    ranked = rank([one for one in ended if one.status != REPEATED], name, mode) if known else []
    good = [one for one in ranked if one.values]
    left = sum(one.status in (Status.INTERRUPTED, Status.RUNNING, "unfinished") for one in ended)
    seconds = sum(one.seconds or 0.0 for one in ended)
    return Results(
        metric=name, better=mode, keys=_telling(runs, keys), settings=ranked, runs=ended,
        verdict=verdict(good[0], good[1]) if len(good) > 1 else None, left=left, seconds=seconds,
        warning=on_other_data(ended),
    )  # fmt: skip


def _expanded(folders: Sequence[Path]) -> Iterator[Path]:
    """The folders of runs, those of sweeps in place of the sweeps."""
    for folder in folders:
        sweep = sweep_named(folder)
        if sweep is None:
            yield find_run(folder)
            continue
        about = read_sweep(sweep) or {}
        names = [one.get("folder") for one in about.get("runs", []) if isinstance(one, dict)]
        for name in names:
            if isinstance(name, str) and Path(name).name == name and (sweep / name / "config.yaml").is_file():
                yield sweep / name


def _read(folder: Path) -> _Run:
    try:
        tree = parse(read_bytes(folder / "config.yaml").decode(), "config.yaml").value
    except (OSError, UnicodeDecodeError, JaxpropError) as error:
        raise UsageError(f"{folder}: its config.yaml cannot be read, so it cannot be compared ({error})") from None
    return _Run(folder, dict(_flat(tree)), read_summary(folder))


def _flat(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a list is a value."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, (*path, str(key)))
    else:
        yield ".".join(path), tree


def _check_alike(runs: Sequence[_Run]) -> None:
    tasks = {run.values.get("task.name"): run for run in runs}
    if len(tasks) > 1:
        (one, a), (other, b), *_ = tasks.items()
        raise UsageError(f"{a.folder} is a run of {one}, and {b.folder} one of {other}; compare runs of one task")


def _differing(runs: Sequence[_Run]) -> tuple[str, ...]:
    missing = object()
    keys = dict.fromkeys(key for run in runs for key in run.values)
    return tuple(
        key
        for key in keys
        if key not in OWN
        and key.partition(".")[0] not in APART
        and any(run.values.get(key, missing) != runs[0].values.get(key, missing) for run in runs)
    )


def _telling(runs: Sequence[_Run], keys: Sequence[str]) -> tuple[str, ...]:
    """The keys without those that come with the name of a section, all with one value: the name says which runs."""
    having = {key: [run.values[key] for run in runs if key in run.values] for key in keys}

    def is_told(key: str, values: Sequence[Any]) -> bool:
        by_name = f"{key.rpartition('.')[0]}.name" in keys and not key.endswith(".name")
        return not by_name or len(values) == len(runs) or any(value != values[0] for value in values)

    return tuple(key for key, values in having.items() if is_told(key, values))


def _once(ended: Sequence[Ended]) -> list[Ended]:
    """The runs, of which those that repeat another one do not count as one more seed; one with figures counts."""
    kept: dict[str, Ended] = {}
    for one in sorted(ended, key=lambda one: not one.metrics):  # stable, so otherwise the first one
        kept.setdefault(repr((sorted(one.setting.items()), one.seed)), one)
    found = []
    for one in ended:
        first = kept[repr((sorted(one.setting.items()), one.seed))]
        problem = f"repeats {first.folder} and counts once"
        found.append(one if one is first else one._replace(status=REPEATED, metrics={}, problem=problem))
    return found


def _ended(run: _Run, keys: Sequence[str]) -> Ended:
    setting = {key: run.values[key] for key in keys if key in run.values}
    summary = run.summary or {}
    seed, seconds = run.values.get("run.seed", 0), summary.get("seconds")
    status = str(summary.get("status") or status_of(run.folder, run.summary))
    found = summary.get("best") or summary.get("metrics") or {}
    good = status == Status.COMPLETED and isinstance(found, Mapping)
    metrics = {
        name: float(value)
        for name, value in (found.items() if good else ())
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }
    problem = "" if metrics else str(summary.get("error") or summary.get("outcome") or status)
    took = float(seconds) if isinstance(seconds, int | float) else None
    return Ended(setting, seed if isinstance(seed, int) else 0, str(run.folder), status, metrics, problem, took)
