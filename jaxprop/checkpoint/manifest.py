"""The manifest of a checkpoint: what was saved, with a digest of every leaf, of what made it, and of itself."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxprop.checkpoint.failures import DamagedError, no_such_step
from jaxprop.checkpoint.folder import steps_in
from jaxprop.errors import CheckpointError
from jaxprop.untrusted.files import read_json
from jaxprop.untrusted.writes import write_whole

NAME = "manifest.json"
FIRST_NAME = "run/run.json"  # of checkpoints that were saved without digests
FORMAT = 2
_OWN = "sha256"


def path_of(checkpoint: Path) -> Path:
    """Returns the manifest's path in a checkpoint: that of its first format where it has no other."""
    first = checkpoint / FIRST_NAME
    return first if first.exists() and not (checkpoint / NAME).exists() else checkpoint / NAME


def read(checkpoint: Path) -> dict[str, Any]:
    """Returns the manifest of a checkpoint, which is what was written or nothing.

    Args:
      checkpoint: its folder.

    Returns:
      `format`, `leaves`, `key_impls`, `digests`, `stream`, `config`, `metrics` and `made`; of the first format, those
      that it has.

    Raises:
      DamagedError: there is none, or it is not what was written.
    """
    path = path_of(checkpoint)
    name = str(path.relative_to(checkpoint))
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise DamagedError(checkpoint, f"its {name} is missing") from None
    except (OSError, ValueError) as error:
        raise DamagedError(checkpoint, f"its {name} cannot be read") from error
    if not isinstance(content, dict):
        raise DamagedError(checkpoint, f"its {name} cannot be read")
    if path.name != NAME:
        if not _is_committed(checkpoint):
            raise DamagedError(checkpoint, "it was not saved to its end")
        return content
    if content.pop(_OWN, None) != _digest(content):
        raise DamagedError(checkpoint, f"its {name} differs from its own digest")
    if content["format"] != FORMAT:
        later = f"its {name} is of format {content['format']}, and this version of jaxprop reads {FORMAT}"
        raise CheckpointError(f"the checkpoint {checkpoint} cannot be read: {later}; use the version that saved it")
    return content


def _is_committed(checkpoint: Path) -> bool:
    """Whether a checkpoint of the first format is whole: Orbax wrote the commit time last, before the final name."""
    try:
        stamp = read_json(checkpoint / "_CHECKPOINT_METADATA")
    except (OSError, ValueError):
        return False
    return isinstance(stamp, dict) and stamp.get("commit_timestamp_nsecs") is not None


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a manifest, with its own digest where its format has one, so that it survives a loss of power.

    Args:
      path: of the manifest, as `path_of` returns it.
      content: plain JSON values.

    Raises:
      OSError: it cannot be written.
    """
    own = {_OWN: _digest(content)} if path.name == NAME else {}
    write_whole(path, json.dumps({**own, **content}), durable=True)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifests(folder: Path) -> dict[int, dict[str, Any]]:
    """Returns the manifest of every checkpoint that has one, by ascending step; other folders are ignored.

    Args:
      folder: the folder of checkpoints; it need not exist.

    Example:
      >>> read_manifests(Path("runs/nowhere/checkpoints"))
      {}
    """
    return {step: found for step, found in _read_all(folder) if isinstance(found, dict)}


def best_of(manifests: Mapping[int, Mapping[str, Any]], metric: str | None, mode: str) -> int | None:
    """Returns the step with the best finite value of a metric, the earliest among equals, or None where none has one.

    Args:
      manifests: by step, as `read_manifests` returns them.
      metric: its name.
      mode: `min` or `max`, which values are better.

    Example:
      >>> best_of({1: {"metrics": {"loss": 2.0}}, 2: {"metrics": {"loss": 1.0}}, 3: {"metrics": None}}, "loss", "min")
      2
    """
    values = {step: (one.get("metrics") or {}).get(metric, math.nan) for step, one in manifests.items()}
    sign = 1 if mode == "min" else -1
    finite = [(sign * value, step) for step, value in values.items() if math.isfinite(value)]
    return min(finite)[1] if finite else None


def unreadable(folder: Path) -> dict[int, str]:
    """Returns, by ascending step, why a checkpoint is damaged that has no manifest which can be read.

    Args:
      folder: the folder of checkpoints; it need not exist.
    """
    return {step: found.why for step, found in _read_all(folder) if isinstance(found, DamagedError)}


def _read_all(folder: Path) -> Iterator[tuple[int, dict[str, Any] | DamagedError]]:
    for step in steps_in(folder):
        try:
            yield step, read(folder / str(step))
        except DamagedError as damaged:
            # One that was removed while it was being read was no longer kept, and is not damaged.
            if step in steps_in(folder):
                yield step, damaged


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


def plain_json(content: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy made through JSON, which later changes by the caller cannot affect while it is being saved.

    Raises:
      CheckpointError: a value is not JSON.

    Example:
      >>> plain_json({"sizes": (1, 2)})
      {'sizes': [1, 2]}
    """
    try:
        return json.loads(json.dumps(content))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the stream's state, the config and the metrics must be plain JSON values: {error}"
        ) from error
