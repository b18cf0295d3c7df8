"""What a run's folder holds from before, and whether a configuration may go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxprop.checkpoint import Checkpoints, stored_config
from jaxprop.config.build import build
from jaxprop.config.diff import mathematical
from jaxprop.config.load import load
from jaxprop.config.schema.config import Config
from jaxprop.errors import CheckpointError, UsageError
from jaxprop.run.folder import read_summary
from jaxprop.run.status import Status


def finished(config: Config, folder: Path) -> dict[str, Any] | None:
    """Returns the summary of the completed run in a folder, if there is one.

    Raises:
      UsageError: the folder holds a run that cannot be continued with this configuration.
    """
    summary = read_summary(folder)
    completed = summary is not None and summary.get("status") == Status.COMPLETED
    checkpoints = folder / "checkpoints"
    saved = checkpoints.is_dir() and bool(Checkpoints(checkpoints).steps())
    if saved:
        _refuse_another(build(stored_config(checkpoints)), config, folder)
    elif completed and (folder / "config.yaml").is_file():
        before = load(folder / "config.yaml").config
        _refuse_another(before, config, folder)
        if (before.run.steps, before.run.epochs) != (config.run.steps, config.run.epochs):
            raise UsageError(
                f"{folder} holds a completed run that was not saved, so it cannot be made longer; "
                "use --run DIR for a new run, or --fresh to start this one over"
            )
    return summary if completed else None


def _refuse_another(before: Config, config: Config, folder: Path) -> None:
    changes = mathematical(before, config)
    if changes:
        lines = "".join(f"\n  {change}" for change in changes)
        raise UsageError(
            f"{folder} holds a run with another configuration, and going on with this one would change what it "
            f"computes:{lines}\nuse --run DIR for a new run, --fresh to start this one over, or the old values"
        )


def refuse_unreadable(checkpoints: Path) -> None:
    """Raises CheckpointError where checkpoints lie that cannot be read: starting over would take their records away."""
    lost = sorted(path.parent.name for path in checkpoints.glob("*/state") if path.parent.name.isdigit())
    if lost:
        raise CheckpointError(
            f"the checkpoints of step {', '.join(lost)} in {checkpoints} cannot be read; restore their run/run.json, "
            "use --run DIR for a new run, or --fresh to start this one over"
        )


def resume_note(step: int, total: int) -> str:
    """What to tell a person whose run goes on, or has nothing left to do."""
    if step == total:
        return (
            f"all {total} steps are done already; raise run.steps or run.epochs for more, which a constant schedule "
            "allows, or start over with --fresh"
        )
    return f"resumed from step {step}"
