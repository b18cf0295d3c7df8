"""Files of a run's folder that are written whole: the configuration and the summary."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprop.errors import RunFolderError, UsageError, did_you_mean
from jaxprop.run.served import PREFIX, resolve
from jaxprop.run.status import Status
from jaxprop.untrusted.files import links_in, open_to_read, read_json
from jaxprop.untrusted.writes import write_whole

RUN_FILES = ("config.yaml", "metrics.jsonl", "lr_find.json")  # one of which a run's folder has
OWNED = (
    "config.yaml", "code.json", "metrics.jsonl", "layers.jsonl", "alerts.jsonl", "summary.json", "prepared.json",
    "panels.json", "linear.json", "lr_find.json", "promotion.json", "tracker.json", "checkpoints", "blackbox",
    "tensorboard",
)  # fmt: skip
ABOUT_FIT = "# The settings of a run of jaxprop.fit: a record, and no configuration that 'jaxprop train' could run.\n"


def find_run(folder: Path) -> Path:
    """Returns the run's folder that is meant: the path, the run of that name in `runs/`, or a version of a champion.

    Args:
      folder: a path, a name, or `champion:NAME` and `champion:NAME@VERSION`.

    Raises:
      UsageError: there is none; names those that are near.
      JaxpropError: the champion is damaged.
    """
    if str(folder).startswith(PREFIX):
        return resolve(str(folder))
    folder = expanded(folder)
    folder = folder.parent if folder.name == "config.yaml" and folder.is_file() else folder
    # A folder of that name may lie here too, such as the data that the run was trained on.
    if len(folder.parts) == 1 and not is_run(folder) and is_run(Path("runs") / folder):
        return Path("runs") / folder
    if not folder.is_dir():
        what = "is a file, not a run's folder" if folder.exists() else "there is no such run folder"
        raise UsageError(f"{folder}: {what}{_others(folder.parent, folder.name)}")
    if not is_run(folder):
        held = f"it has no {', '.join(RUN_FILES[:-1])} or {RUN_FILES[-1]}"
        raise UsageError(f"{folder} is not a run's folder: {held}{_others(folder, '')}")
    return folder


def refuse_links(folder: Path, names: Sequence[str] = OWNED) -> None:
    """Refuses a run's folder in which something of the run is a link, which may lead to any file of the user's.

    Args:
      folder: of the run; it may itself be behind a link.
      names: of the files and folders in it that are looked through.

    Raises:
      RunFolderError: one is, or holds, a link.
    """
    for link in links_in(folder, names):
        raise RunFolderError(
            f"{link} is a link, and nothing in a run's folder is read or written through one; put what it stands for "
            "in its place, or remove it"
        )


def shown(path: Path) -> str:
    """Returns a path as a command typed here may name it: relative where it is below the working directory.

    Example:
      >>> shown(Path.cwd() / "runs" / "a"), shown(Path("/nowhere/runs/a"))
      ('runs/a', '/nowhere/runs/a')
    """
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def is_of_fit(folder: Path) -> bool:
    """Whether a run's folder is that of a run of `jaxprop.fit`, whose `config.yaml` is no configuration."""
    path = folder / "config.yaml"
    try:
        with open_to_read(path) as file:
            return file.read(len(ABOUT_FIT)).startswith(ABOUT_FIT.encode())
    except OSError:
        return False


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return any((folder / name).is_file() for name in RUN_FILES)


def _others(parent: Path, name: str) -> str:
    """The runs in a folder, and in `runs/` where there are none, with the likeliest one first."""
    for place in dict.fromkeys((parent, Path("runs"))):
        try:
            runs = sorted(path.parent.name for path in place.glob("*/config.yaml"))
        except OSError:
            continue
        if runs:
            listed = ", ".join(runs[:20]) + (f" and {len(runs) - 20} more" if len(runs) > 20 else "")
            return f"{did_you_mean(name, runs)} (runs in {place}: {listed})"
    return "; 'jaxprop train CONFIG' makes one"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Returns a run's summary, or None where there is none that can be read."""
    try:
        summary = read_json(folder / "summary.json")
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def status_of(folder: Path, summary: Mapping[str, Any] | None) -> str:
    """Returns how a run stands.

    Args:
      folder: of the run; anyone may have written what is in it.
      summary: its `summary.json`, or None where there is none.

    Returns:
      The status in the summary; without one, `running` if a process holds the folder, otherwise `unfinished`.
    """
    if summary is not None:
        status = summary.get("status")
        return status if isinstance(status, str) else "ended"
    for name in (".lock", ".lock.claim"):
        try:
            owner = read_json(folder / name)
            if owner["host"] != socket.gethostname() or os.name == "nt":
                return Status.RUNNING  # nobody can tell; on Windows, asking the process would stop it
            os.kill(int(owner["pid"]), 0)
        except PermissionError:
            return Status.RUNNING  # somebody else's process
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue
        return Status.RUNNING
    return Status.UNFINISHED


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes `summary.json`; raises RunFolderError where that cannot be."""
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all, and through no link; raises RunFolderError where it cannot be written."""
    try:
        write_whole(path, text)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror}); choose another folder with --run DIR"
        ) from error


def expanded(path: str | os.PathLike[str]) -> Path:
    """Returns a path with the home folder in place of a leading `~`, which not every shell expands.

    Raises:
      UsageError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no home folder of that name; write the path out") from error
