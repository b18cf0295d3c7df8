"""The run that `--fresh` replaces: set aside until the new one has a checkpoint, and brought back if it never gets one.

The run in a folder is the old one until the new one has a checkpoint or has ended. Each move is a rename, and from what
is there the next process sees how far an earlier one has come, however that one ended:

    .before-fresh.moving/   the old run on its way out or back: what is in it goes back
    .before-fresh/          the old run, whole, while the new one is in its place
    .before-fresh.dropped/  the old run on its way to being removed
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from jaxprop.checkpoint.manifest import read_manifests
from jaxprop.errors import RunFolderError
from jaxprop.run.folder import read_summary, refuse_links
from jaxprop.run.status import Status

ASIDE, MOVING, DROPPED = ".before-fresh", ".before-fresh.moving", ".before-fresh.dropped"
FILES = (
    "config.yaml", "code.json", "metrics.jsonl", "layers.jsonl", "alerts.jsonl", "summary.json", "panels.json",
    "prepared.json", "tracker.json",
)  # fmt: skip
FOLDERS = ("checkpoints", "blackbox", "tensorboard")
BACK = "the run from before --fresh is back in its place"


class Replaced:
    """The old run of a folder, while a new one takes its place.

    Args:
      folder: the run's folder, which this process holds.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = Path(folder, "metrics.jsonl").write_text("old")
      ...     replaced = Replaced(Path(folder))
      ...     replaced.set_aside()
      ...     _ = Path(folder, "metrics.jsonl").write_text("new")
      ...     replaced.pending, replaced.bring_back(), Path(folder, "metrics.jsonl").read_text()
      (True, True, 'old')
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.pending = False  # whether an old run lies aside

    def set_aside(self) -> None:
        """Moves the old run's files aside, if there are any; what is not as a run leaves it stays where it is."""
        with _reporting(self._folder):
            found = list(_entries(self._folder))
            if not found:
                return
            moving = self._folder / MOVING
            moving.mkdir()
            for name in found:
                os.rename(self._folder / name, moving / name)
            os.rename(moving, self._folder / ASIDE)
            self.pending = True

    def drop(self) -> None:
        """Removes the old run: the new one stands."""
        if self.pending:
            self.pending = False
            _drop(self._folder)

    def drop_if_saved(self) -> None:
        """Removes the old run once the new one has a checkpoint that holds more than its start."""
        if self.pending and _has_progress(self._folder):
            self.drop()

    def bring_back(self) -> bool:
        """Puts the old run back in the place of the new one; returns whether there was one."""
        if not self.pending:
            return False
        self.pending = False
        with _reporting(self._folder):
            _bring_back(self._folder)
        return True


def recover(folder: Path) -> str | None:
    """Finishes what a process that was killed has begun in a folder; returns what to tell a person.

    Args:
      folder: the run's folder, which this process holds.

    Raises:
      RunFolderError: the old run cannot be moved, or something in the folder is a link.
    """
    refuse_links(folder)
    with _reporting(folder):
        for name in (ASIDE, MOVING, DROPPED):
            if (folder / name).is_symlink():
                raise RunFolderError(f"{folder / name} is a link, and jaxprop writes through none; remove it")
        shutil.rmtree(folder / DROPPED, ignore_errors=True)
        if (folder / MOVING).is_dir():
            _move_back(folder)
            return BACK
        if not (folder / ASIDE).is_dir():
            return None
        summary = read_summary(folder)
        if _has_progress(folder) or (summary is not None and summary.get("status") == Status.COMPLETED):
            _drop(folder)
            return None
        _bring_back(folder)
        return f"{BACK}: the one that was to replace it has no checkpoint"


def _has_progress(folder: Path) -> bool:
    return any(step > 0 for step in read_manifests(folder / "checkpoints"))


def _entries(folder: Path) -> Iterator[str]:
    """What a run leaves in its folder, as it leaves it: neither links nor folders in the place of files."""
    for names, kind in ((FILES, stat.S_ISREG), (FOLDERS, stat.S_ISDIR)):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if kind(os.lstat(folder / name).st_mode):
                    yield name


def _drop(folder: Path) -> None:
    with contextlib.suppress(OSError):  # what is left of it is removed by the next run
        os.rename(folder / ASIDE, folder / DROPPED)
        shutil.rmtree(folder / DROPPED, ignore_errors=True)


def _bring_back(folder: Path) -> None:
    for name in list(_entries(folder)):  # of the new run
        path = folder / name
        if name in FOLDERS:
            shutil.rmtree(path)
        else:
            path.unlink()
    os.rename(folder / ASIDE, folder / MOVING)
    _move_back(folder)


def _move_back(folder: Path) -> None:
    for path in sorted((folder / MOVING).iterdir()):
        os.rename(path, folder / path.name)
    (folder / MOVING).rmdir()


@contextlib.contextmanager
def _reporting(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"the earlier run in {folder} cannot be moved ({error.strerror}: {error.filename}); nothing of it is "
            f"removed, and {folder / ASIDE} or {folder / MOVING} may hold a part of it; use --run DIR for a new run"
        ) from error
