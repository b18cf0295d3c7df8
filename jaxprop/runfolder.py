"""Files of a run's folder that are written whole: the configuration and the summary."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxprop
from jaxprop.errors import RunFolderError, UsageError

VERSIONED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a run's numbers depend on."""
    known = {"python": platform.python_version(), "jaxprop": jaxprop.__version__}
    return known | {name: importlib.metadata.version(name) for name in VERSIONED}


def check_run(folder: Path) -> None:
    """Raises UsageError where there is no run's folder, naming the runs nearby."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such run folder{_others(folder.parent)}")
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder} is not a run's folder: it has no config.yaml{_others(folder)}")


def _others(parent: Path) -> str:
    runs = sorted(path.parent.name for path in parent.glob("*/config.yaml"))
    return f" (runs in {parent}: {', '.join(runs)})" if runs else "; 'jaxprop train CONFIG' makes one"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Returns a run's summary, or None where there is none that can be read."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes `summary.json`; raises RunFolderError where that cannot be."""
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all; raises RunFolderError where it cannot be written."""
    # Renamed into place, so that a reader, or a crash, never meets half a file.
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror}); choose another folder with --run DIR"
        ) from error
