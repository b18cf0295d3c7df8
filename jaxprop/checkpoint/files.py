"""The files of a checkpoint folder: which steps are complete, and the manifest saved with each."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxprop.errors import CheckpointError

MANIFEST = "run.json"


def read_manifests(folder: Path) -> dict[int, dict[str, Any]]:
    """Returns the manifest of every complete checkpoint, by ascending step; other folders are ignored.

    Args:
      folder: the folder of checkpoints; it need not exist.

    Returns:
      The contents of each step's `run.json`.

    Example:
      >>> read_manifests(Path("runs/nowhere/checkpoints"))
      {}
    """
    if not folder.is_dir():
        return {}
    names = [p.name for p in folder.iterdir() if p.name.isdecimal() and str(int(p.name)) == p.name]
    manifests = {int(name): _read_manifest(folder / name) for name in names}
    return {step: manifest for step, manifest in sorted(manifests.items()) if manifest is not None}


def unreadable(folder: Path) -> list[int]:
    """Returns the steps, ascending, whose checkpoint has arrays but no manifest that can be read."""
    manifests = read_manifests(folder)
    there = {int(path.parent.name) for path in folder.glob("*/state") if path.parent.name.isdecimal()}
    return sorted(there - set(manifests))


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """Returns the manifest of a complete checkpoint: Orbax writes the commit time last, just before the final name."""
    try:
        stamp = json.loads((path / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))
        manifest = json.loads((path / "run" / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    committed = isinstance(stamp, dict) and stamp.get("commit_timestamp_nsecs") is not None
    return manifest if committed and isinstance(manifest, dict) else None


def stored_config(folder: str | Path, step: int | None = None) -> dict[str, Any]:
    """Returns the config saved with a checkpoint, without reading its arrays.

    Args:
      folder: the folder of checkpoints.
      step: the step, or None for the newest.

    Returns:
      The config as it was handed to `Checkpoints.save`.

    Raises:
      CheckpointError: there is no such checkpoint.

    Example:
      >>> stored_config("runs/nowhere/checkpoints")
      Traceback (most recent call last):
      jaxprop.errors.CheckpointError: there is no checkpoint in runs/nowhere/checkpoints; train the run first
    """
    manifests = read_manifests(Path(folder))
    if not manifests:
        raise CheckpointError(f"there is no checkpoint in {folder}; train the run first")
    if step is not None and step not in manifests:
        raise no_such_step(folder, step, list(manifests))
    return manifests[max(manifests) if step is None else step]["config"]


def no_such_step(folder: str | Path, step: int, saved: list[int]) -> CheckpointError:
    """Returns the error for a step that was never saved, listing those that were."""
    known = ", ".join(map(str, saved)) or "none"
    return CheckpointError(f"there is no checkpoint of step {step} in {folder}; saved steps: {known}")


def plain_json(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy made through JSON, which later changes by the caller cannot affect while it is being saved.

    Raises:
      CheckpointError: a value is not JSON.

    Example:
      >>> plain_json({"sizes": (1, 2)})
      {'sizes': [1, 2]}
    """
    try:
        return json.loads(json.dumps(manifest))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the stream's state, the config and the metrics must be plain JSON values: {error}"
        ) from error


@contextlib.contextmanager
def reporting(step: int, folder: Path) -> Iterator[None]:
    """Turns any error while saving `step` into one `CheckpointError` that contains the fix."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {folder} ({reason(error)}); "
            "make that folder writable, free space on its disk, or choose another with --run DIR"
        ) from error


def reason(error: BaseException) -> str:
    """Returns the cause of an error in a few words: the text of an operating-system code in it, or its first line.

    Example:
      >>> reason(ValueError("Error writing 5/0.0 in database at ... [os_error_code='28']"))
      'No space left on device'
    """
    text = str(error).strip()
    code = re.search(r"os_error_code='(\d+)'", text)
    return os.strerror(int(code[1])) if code else text.split("\n")[0][:200] or type(error).__name__
