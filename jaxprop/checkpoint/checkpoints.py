"""Saving and restoring one run's checkpoints through Orbax."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxprop.checkpoint import files, leaves
from jaxprop.errors import CheckpointError
from jaxprop.types import TrainState

_TRASH = "todelete"
_PATTERN = "[]*?\\"  # characters that Orbax takes for a pattern of names
_CHECK_SECONDS = 1.0


class Restored(NamedTuple):
    """What `Checkpoints.restore` gives back.

    Args:
      step: the step the checkpoint was saved at.
      state: the train state, in the structure and on the devices of the abstract state it was restored into.
      stream: the data stream's state.
      config: the run's config.
      metrics: the evaluation metrics saved with it, or None.
    """

    step: int
    state: Any
    stream: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, float] | None


class Checkpoints:
    """Saves and restores the checkpoints of one run; keeps the newest ones and the best one.

    Saving is asynchronous and atomic: if the process is killed, every listed step is still complete. Nothing in the
    folder changes before the first `save`, so that a finished run, or one in progress, can be opened for reading.

    Args:
      folder: the folder of the checkpoints, with one folder for each step; it is created by the first save.
      keep: number of newest checkpoints to keep, besides the best and `pinned`. There may be one more until the next
        save.
      best: the metric whose best checkpoint is kept, or None.
      mode: whether the smallest or the largest value of `best` is the best one; among equals, it is the earliest.

    Raises:
      CheckpointError: `folder` is not a folder; on leaving the context, the save in the background failed.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> state = TrainState(jnp.int32(3), {"w": jnp.ones(2)}, {}, (), jax.random.key(0), (), {}, ())
      >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, best="loss") as checkpoints:
      ...     saved = checkpoints.save(3, state, stream={"epoch": 1}, config={}, metrics={"loss": 0.5})
      ...     restored = checkpoints.restore(state)
      >>> restored.step, restored.stream, restored.state.params["w"].tolist()
      (3, {'epoch': 1}, [1.0, 1.0])
    """

    def __init__(
        self, folder: str | Path, *, keep: int = 2, best: str | None = None, mode: Literal["min", "max"] = "min"
    ):
        assert keep >= 1, keep
        self.folder = Path(folder).absolute()
        self._keep, self._metric, self._mode = keep, best, mode
        self._checkpointer: Any = None
        self._saving: int | None = None  # the step last handed to the background
        self._checked = time.monotonic()
        self._alias: Path | None = None
        self.pinned: frozenset[int] = frozenset()  # steps that are never removed
        self.when_whole: Callable[[], None] = _nothing  # called once a save is known to be whole on disk
        if self.folder.exists() and not self.folder.is_dir():
            raise CheckpointError(f"expected a folder for checkpoints at {self.folder}, got a file; move it away")

    def steps(self) -> list[int]:
        """Returns the steps with a complete checkpoint, ascending; other folders are ignored."""
        return list(files.read_manifests(self.folder))

    def latest(self) -> int | None:
        """Returns the newest step with a complete checkpoint, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Returns the step with the best finite value of the metric, or None where none was saved."""
        values = {
            step: (manifest["metrics"] or {}).get(self._metric, math.nan)
            for step, manifest in files.read_manifests(self.folder).items()
        }
        sign = 1 if self._mode == "min" else -1
        finite = [(sign * value, step) for step, value in values.items() if math.isfinite(value)]
        return min(finite)[1] if finite else None

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        stream: Mapping[str, Any],
        config: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Starts saving a checkpoint and returns once the state is copied to the host, so that it may be donated.

        A step that already has a complete checkpoint is not written again; to repeat steps after an older checkpoint,
        call `clear(after=...)` first.

        Args:
          step: number of steps taken.
          state: the train state, any pytree of arrays.
          stream: the data stream's state, as JSON values.
          config: the run's config, as JSON values.
          metrics: evaluation metrics at this step, for choosing the best.

        Returns:
          Whether the step is being saved; False if it already has a complete checkpoint.

        Raises:
          CheckpointError: the folder cannot be written, or the save before this one failed.
        """
        self._finish()
        with files.reporting(step, self.folder):
            if step in self.steps():
                return False
            self._make_room(step)
            arrays, manifest = leaves.pack(state)
            run = files.plain_json({**manifest, "stream": stream, "config": config, "metrics": metrics})
            ocp, checkpointer = _import_orbax(), self._open()
            items = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), run=ocp.args.JsonSave(run))
            checkpointer.save(self._plain_folder() / str(step), args=items)
            self._saving = step
        return True

    def check(self) -> None:
        """Finds out, about once a second, whether the save in the background has failed; never waits for it.

        Raises:
          CheckpointError: that save failed.
        """
        now = time.monotonic()
        if self._saving is None or now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        with files.reporting(self._saving, self.folder):
            self._checkpointer.check_for_errors()

    def amended(self, step: int, *, metrics: Mapping[str, float], stream: Mapping[str, Any]) -> tuple[Path, str]:
        """Returns the manifest of a checkpoint with the metrics of an evaluation that came after it.

        Args:
          step: a step with a complete checkpoint.
          metrics: of the evaluation at that step.
          stream: values that replace those of the same name in the stream's state.

        Returns:
          The manifest's file, and the text to write into it.
        """
        self._finish()
        manifest = files.read_manifests(self.folder)[step]
        manifest |= {"metrics": metrics, "stream": {**manifest["stream"], **stream}}
        return self.folder / str(step) / "run" / files.MANIFEST, json.dumps(files.plain_json(manifest))

    def wait(self) -> None:
        """Waits for the save in the background, then removes checkpoints that are no longer kept.

        Raises:
          CheckpointError: that save failed.
        """
        step = self._finish()
        if step is not None:
            with files.reporting(step, self.folder):
                self.retire()

    def retire(self) -> None:
        """Removes checkpoints that are no longer kept."""
        self._retire()
        self._empty_trash()

    def clear(self, after: int = -1) -> None:
        """Removes the checkpoints of all steps later than `after`, by default of every step."""
        self._finish()
        for step in self.steps():
            if step > after:
                self._move_to_trash(step)
        self._empty_trash()

    def close(self) -> None:
        """Waits for the save in the background and closes the writer.

        Raises:
          CheckpointError: that save failed.
        """
        try:
            self.wait()
        finally:
            if self._checkpointer is not None:
                self._checkpointer.close()
                self._checkpointer = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except CheckpointError as failed:
            # The first error stays in front, with the failed save as a note. No notes are shown for an interrupt, so
            # there the failed save is raised instead.
            if not isinstance(error, Exception):
                raise
            error.add_note(str(failed))

    def restore(self, abstract_state: TrainState, step: int | Literal["best"] | None = None) -> Restored | None:
        """Restores a checkpoint bit for bit into the structure and onto the devices of `abstract_state`.

        Args:
          abstract_state: a state of this run's structure, shapes and dtypes; arrays or `jax.ShapeDtypeStruct`s.
            A leaf is put on the devices that its abstract leaf is committed to, or else on the default device.
          step: the step to restore, `"best"`, or None for the newest.

        Returns:
          The checkpoint, or None where there is none.

        Raises:
          CheckpointError: no such step, a state that does not fit, or files that cannot be read.
        """
        self._finish()
        manifests = files.read_manifests(self.folder)
        chosen = self.best() if step == "best" else max(manifests, default=None) if step is None else step
        if chosen is None:
            return None
        if chosen not in manifests:
            raise files.no_such_step(self.folder, chosen, list(manifests))
        manifest, path = manifests[chosen], self.folder / str(chosen)
        places = leaves.check_fit(manifest["leaves"], abstract_state, str(path))
        try:
            arrays = _read_arrays(self._plain_folder() / str(chosen), abstract_state, places)
        except Exception as error:
            older = [s for s in manifests if s < chosen]
            before = f"step {older[-1]}" if older else "the start"
            raise CheckpointError(
                f"the checkpoint {path} is damaged ({files.reason(error)}); remove it to go on from {before}"
            ) from error
        state = leaves.unpack(arrays, manifest["key_impls"], abstract_state, places)
        return Restored(chosen, state, manifest["stream"], manifest["config"], manifest["metrics"])

    def _finish(self) -> int | None:
        """Waits for the save in the background and returns its step, or None where there was none."""
        step, self._saving = self._saving, None
        if step is not None:
            with files.reporting(step, self.folder):
                self._checkpointer.wait_until_finished()
                if step not in self.steps():
                    raise OSError("it is not there after saving")
            self.when_whole()
        return step

    def _open(self) -> Any:
        if self._checkpointer is None:
            ocp = _import_orbax()
            handler = ocp.CompositeCheckpointHandler(
                state=ocp.PyTreeCheckpointHandler(), run=ocp.JsonCheckpointHandler(filename=files.MANIFEST)
            )
            # The trash is emptied in the background too, because deleting a large checkpoint takes seconds.
            options = ocp.options.AsyncOptions(post_finalization_callback=self._empty_trash)
            self._checkpointer = ocp.AsyncCheckpointer(handler, async_options=options)
        return self._checkpointer

    def _plain_folder(self) -> Path:
        """The folder by a name that Orbax can read back: it takes brackets for a pattern, and turns backslashes."""
        if not set(self.folder.as_posix()) & set(_PATTERN):
            return self.folder
        if self._alias is None:
            room = tempfile.mkdtemp(prefix="jaxprop-")
            weakref.finalize(self, shutil.rmtree, room, ignore_errors=True)
            self._alias = Path(room) / "checkpoints"
            os.symlink(self.folder, self._alias, target_is_directory=True)
        return self._alias

    def _make_room(self, step: int) -> None:
        """Prepares the folder for a save and removes unfinished checkpoints, as nothing else is being written now."""
        if jax.process_index() != 0:
            return
        if self.folder.is_symlink():
            raise OSError("it is a link, and jaxprop writes through none; remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.orbax-checkpoint-tmp*"):
            _remove(leftover)  # a failed save may still be writing arrays
        self._retire()
        path = self.folder / str(step)
        if os.path.lexists(path):  # not a checkpoint of this run, so it is renamed instead of deleted
            path.rename(self.folder / f"{step}.not-a-checkpoint-{time.time_ns()}")

    def _retire(self) -> None:
        steps, best = self.steps(), self.best()
        for step in steps[: -self._keep]:
            if step != best and step not in self.pinned and jax.process_index() == 0:
                self._move_to_trash(step)

    def _move_to_trash(self, step: int) -> None:
        trash = self.folder / _TRASH
        if trash.is_symlink():
            trash.unlink()
        trash.mkdir(exist_ok=True)
        (self.folder / str(step)).rename(trash / f"{step}-{time.time_ns()}")

    def _empty_trash(self) -> None:
        _remove(self.folder / _TRASH)


def _remove(path: Path) -> None:
    """Removes a folder with what is in it, or a link and not what it points at."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _nothing() -> None:
    """What is called where nobody wants to know."""


def _read_arrays(path: Path, abstract_state: TrainState, places: list[int]) -> dict[str, Any]:
    ocp = _import_orbax()
    numbered = zip(places, jax.tree.leaves(abstract_state), strict=True)
    abstract = {str(i): leaf for i, leaf in numbered if np.size(leaf)}
    how = {i: _restore_args(ocp, leaf) for i, leaf in abstract.items()}
    state = ocp.args.PyTreeRestore(item=dict.fromkeys(abstract, 0), restore_args=how)
    with contextlib.closing(ocp.Checkpointer(ocp.CompositeCheckpointHandler())) as reader:
        return reader.restore(path, args=ocp.args.Composite(state=state))["state"]


def _restore_args(ocp: Any, abstract: Any) -> Any:
    sharding = getattr(abstract, "sharding", None)
    if sharding is None or not getattr(abstract, "committed", True):
        # An uncommitted array moves to the device of the arrays it is used with; a sharding would commit it to one.
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding)


@functools.cache
def _import_orbax() -> Any:
    """Imported at the first save or restore only: it takes most of a second."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(_is_not_orbax)
    logging.getLogger("asyncio").addFilter(_is_no_write)
    sys.unraisablehook = functools.partial(_pass_on, sys.unraisablehook)
    return ocp


# Every failure is raised as a `CheckpointError`, and what Orbax, TensorStore and asyncio print besides only repeats it:
# the traceback, a "closed event loop" for each array that was being written when the first one failed, and a warning
# for each array that failed after it.


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def _is_no_write(record: logging.LogRecord) -> bool:
    return "orbax-checkpoint-tmp" not in record.getMessage()


def _pass_on(shown: Callable[[Any], object], unraisable: Any) -> None:
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
        shown(unraisable)
