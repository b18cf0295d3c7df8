"""What a run's folder holds from before, and whether a configuration may go on with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from jaxprop.checkpoint import Checkpoints, stored_config
from jaxprop.checkpoint.manifest import read_manifests
from jaxprop.config.build import build
from jaxprop.config.checks import known_steps
from jaxprop.config.diff import LENGTH, Change, diff, mathematical
from jaxprop.config.dump import to_builtins, with_absolute_paths
from jaxprop.config.load import load
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.data import PATHS
from jaxprop.config.schema.optimizer import schedules_of
from jaxprop.config.tree import Path as KeyPath
from jaxprop.config.tree import dotted
from jaxprop.data import Stream
from jaxprop.errors import CheckpointError, JaxpropError, UsageError
from jaxprop.run.blackbox import boxes
from jaxprop.run.folder import read_summary
from jaxprop.run.status import Status

TRAINING_DATA = tuple(("data", key) for key in PATHS if key.startswith("train"))


def finished(config: Config, folder: Path) -> dict[str, Any] | None:
    """Returns the summary of the completed run in a folder, if there is one.

    Raises:
      UsageError: the folder holds a run that cannot be continued with this configuration, or records of another.
    """
    summary = read_summary(folder)
    completed = summary is not None and summary.get("status") == Status.COMPLETED
    checkpoints = folder / "checkpoints"
    saved = Checkpoints(checkpoints).steps() if checkpoints.is_dir() else []
    if saved:
        before = build(stored_config(checkpoints))
        # What an earlier, shorter run has written may still lie there.
        steps = saved[-1] if completed and summary is not None and summary.get("step") == saved[-1] else None
        changes = mathematical(before, config, steps)
        refuse_another(changes, folder, _how_longer(changes, before, steps))
    elif completed or has_records(folder):
        before = _config_of_records(folder)
        moved = [change for change in _changes(before, config) if change.path in TRAINING_DATA]
        changes = mathematical(before, config) + moved
        refuse_another(changes, folder, _how_longer(changes, before, None))
        if completed and _reach(before) != _reach(config):
            raise UsageError(
                f"{folder} holds a completed run that was not saved, so it cannot be made longer; "
                "use --run DIR for a new run, or --fresh to start this one over"
            )
    return summary if completed else None


def _reach(config: Config) -> tuple[Any, ...]:
    return config.run.steps, config.run.epochs, config.run.stop


def has_records(folder: Path) -> bool:
    """Whether a folder holds records or black boxes, which a run that starts over would take away."""
    try:
        recorded = (folder / "metrics.jsonl").stat().st_size > 0
    except OSError:
        recorded = False
    return recorded or bool(boxes(folder))


def _config_of_records(folder: Path) -> Config:
    try:
        return load(folder / "config.yaml").config
    except JaxpropError as error:
        raise UsageError(
            f"{folder} holds records of another run, whose config.yaml is missing or cannot be read; "
            "use --run DIR for a new run, or --fresh to take its place"
        ) from error


def _changes(before: Config, config: Config) -> list[Change]:
    return diff(with_absolute_paths(before), with_absolute_paths(config))


class ChangedError(UsageError):
    """A folder holds a run that another configuration computes."""


def refuse_another(changes: list[Change], folder: Path, longer: str = "") -> None:
    """Raises ChangedError where there are changes that would alter what the run in a folder computes.

    Args:
      changes: the keys that differ.
      folder: of the run.
      longer: how the run could be made longer all the same.
    """
    if changes:
        lines = "".join(f"\n  {change}" for change in changes)
        raise ChangedError(
            f"{folder} holds a run with another configuration, and going on with this one would change what it "
            f"computes:{lines}{longer}\n"
            "use --run DIR for a new run, --fresh to start this one over, or the old values"
        )


def _how_longer(changes: list[Change], before: Config, steps: int | None) -> str:
    """How a run can be made longer whose schedule is as long as itself; empty where something else has changed."""
    known, keys = steps or known_steps(before), length_keys(before)
    if not keys or any(change.path not in LENGTH for change in changes):
        return ""
    schedule = schedules_of(before.optimizer)[keys[0][:-1]]
    why = f"\nthe schedule {schedule.name} is as long as the run, so another length changes the rates of all steps"
    if known is None:
        return f"{why}; a run with {' and '.join(map(dotted, keys))} of its own can be made longer"
    end = ", where the rate is 0" if getattr(schedule, "end_scale", None) == 0 and keys[0][-1] == "steps" else ""
    lengths = " ".join(f"{dotted(key)}={known}" for key in keys)
    return f"{why}; add {lengths} to keep them and go on from where the schedule ends{end}, or"


def length_keys(config: Config) -> list[KeyPath]:
    """Returns the keys that would fix the lengths of schedules which are as long as the run, of the run's first."""
    found = {path: schedule.length_key for path, schedule in schedules_of(config.optimizer).items()}
    return [(*path, key) for path, key in found.items() if key is not None]


def check_data(stream: Stream, checkpoints: Path) -> None:
    """Raises DataError where the data are not those that the newest checkpoint was trained on, wherever they lie."""
    manifests = read_manifests(checkpoints)
    if manifests:
        stream.restore(manifests[max(manifests)]["stream"]["data"])


def start_over(folder: Path) -> list[str]:
    """Makes room for a run of which records are there but no checkpoint; returns notes on what is replaced."""
    if not has_records(folder):
        return []
    shutil.rmtree(folder / "blackbox", ignore_errors=True)  # its steps will be taken, and fail, again
    return ["starting over from step 0: this run has records here, but no checkpoint was saved of it"]


def still_stopped(summary: dict[str, Any], config: Any, folder: Path) -> bool:
    """Whether a completed run ended early, by the same `run.stop` that it has now.

    Args:
      summary: of the run.
      config: the configuration, or the settings of `jaxprop.fit`, to go on with.
      folder: of the run.
    """
    if not summary.get("stopped") or config.run.stop is None:
        return False
    try:
        before = stored_config(folder / "checkpoints")
    except CheckpointError:
        before = to_builtins(_config_of_records(folder))
    return before["run"].get("stop") == to_builtins(config.run.stop)


def stopped_note(summary: dict[str, Any], total: int) -> str | None:
    """What to tell a person whose run has ended early and goes no further; None of any other.

    Args:
      summary: of the run.
      total: steps that it would have taken.
    """
    if not summary.get("stopped"):
        return None
    return (
        f"the run has ended early after step {summary['step']} of {total}: {summary['stopped']}; remove or loosen "
        "run.stop to go on, or start over with --fresh"
    )


def resume_note(step: int, total: int, config: Any) -> str:
    """What to tell a person whose run goes on, or has nothing left to do."""
    if step < total:
        return f"resumed from step {step}"
    if not isinstance(config, Config):  # the settings of `jaxprop.fit`, which has no schedule of its own
        return f"all {total} steps are done already; give fit more steps, or fresh=True to start over"
    lengths = " ".join(f"{dotted(key)}={total}" for key in length_keys(config))
    also = f" together with {lengths}, since the schedule ends with the run" if lengths else ""
    return (
        f"all {total} steps are done already; raise run.steps or run.epochs for more{also}, or start over with --fresh"
    )
