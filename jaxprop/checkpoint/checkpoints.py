"""Saving and restoring one run's checkpoints through Orbax."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import shutil
import sys
import time
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

    Saving is asynchronous and atomic: a process killed at any moment leaves every listed step whole. Nothing in the
    folder changes before the first `save`, so that a finished or running run can be opened to read from.

    Args:
      folder: where the checkpoints lie, one folder a step; made at the first save.
      keep: number of newest checkpoints to keep, besides the best and `pinned`. One more may lie there until the next
        save.
      best: the metric whose best checkpoint is kept, or None.
      mode: whether the smallest or the largest value of `best` wins; of equals, the earliest.

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
        self.pinned: frozenset[int] = frozenset()  # steps that are kept whatever newer ones there are
        if self.folder.exists() and not self.folder.is_dir():
            raise CheckpointError(f"expected a folder for checkpoints at {self.folder}, got a file; move it away")

    def steps(self) -> list[int]:
        """Returns the steps with a complete checkpoint, ascending; other folders are passed over."""
        return list(files.read_records(self.folder))

    def latest(self) -> int | None:
        """Returns the newest step with a complete checkpoint, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Returns the step with the best finite value of the metric, or None where none was saved."""
        values = {
            step: (record["metrics"] or {}).get(self._metric, math.nan)
            for step, record in files.read_records(self.folder).items()
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
        """Starts saving a checkpoint and returns once the state is copied to the host: it may be donated at once.

        A step that already has a complete checkpoint is left as it is; to take other steps from an older one,
        `clear(after=...)` first.

        Args:
          step: number of steps taken.
          state: the train state, any pytree of arrays.
          stream: the data stream's state, of what JSON can hold.
          config: the run's config, of what JSON can hold.
          metrics: evaluation metrics at this step, for choosing the best.

        Returns:
          Whether this step is now being saved; False where it already was.

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
            checkpointer.save(self.folder / str(step), args=items)
            self._saving = step
        return True

    def wait(self) -> None:
        """Waits for the save in the background, then removes what is no longer to be kept.

        Raises:
          CheckpointError: that save failed.
        """
        step = self._finish()
        if step is not None:
            with files.reporting(step, self.folder):
                self._retire()
                self._empty_trash()

    def clear(self, after: int = -1) -> None:
        """Removes the checkpoints of all steps later than `after`; of every step if not given."""
        self._finish()
        for step in self.steps():
            if step > after:
                self._move_to_trash(step)
        self._empty_trash()

    def close(self) -> None:
        """Waits for the save in the background and lets go of the writer.

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
            # An interrupt prints no notes, so there the failed save takes over; else the first error stays in front.
            if not isinstance(error, Exception):
                raise
            error.add_note(str(failed))

    def restore(self, abstract_state: TrainState, step: int | Literal["best"] | None = None) -> Restored | None:
        """Restores a checkpoint bit for bit into the structure and onto the devices of `abstract_state`.

        Args:
          abstract_state: a state of this run's structure, shapes and dtypes; arrays or `jax.ShapeDtypeStruct`s.
            A leaf goes where the abstract leaf is committed to, and else to the default device.
          step: the step to restore, `"best"`, or None for the newest.

        Returns:
          The checkpoint, or None where there is none.

        Raises:
          CheckpointError: no such step, a state that does not fit, or files that cannot be read.
        """
        self._finish()
        records = files.read_records(self.folder)
        chosen = self.best() if step == "best" else max(records, default=None) if step is None else step
        if chosen is None:
            return None
        if chosen not in records:
            raise files.no_such_step(self.folder, chosen, list(records))
        record, path = records[chosen], self.folder / str(chosen)
        leaves.check_fit(record["leaves"], abstract_state, str(path))
        try:
            arrays = _read_arrays(path, abstract_state)
        except Exception as error:
            older = [s for s in records if s < chosen]
            before = f"step {older[-1]}" if older else "the start"
            raise CheckpointError(
                f"the checkpoint {path} is damaged ({files.reason(error)}); remove it to go on from {before}"
            ) from error
        state = leaves.unpack(arrays, record["key_impls"], abstract_state)
        return Restored(chosen, state, record["stream"], record["config"], record["metrics"])

    def _finish(self) -> int | None:
        """Waits for the save in the background and returns its step, or None where there was none."""
        step, self._saving = self._saving, None
        if step is not None:
            with files.reporting(step, self.folder):
                self._checkpointer.wait_until_finished()
                if step not in self.steps():
                    raise OSError("it is not there after saving")
        return step

    def _open(self) -> Any:
        if self._checkpointer is None:
            ocp = _import_orbax()
            handler = ocp.CompositeCheckpointHandler(
                state=ocp.PyTreeCheckpointHandler(), run=ocp.JsonCheckpointHandler(filename=files.RECORD)
            )
            # Emptying the trash rides along in the background: deleting a large checkpoint takes seconds.
            options = ocp.options.AsyncOptions(post_finalization_callback=self._empty_trash)
            self._checkpointer = ocp.AsyncCheckpointer(handler, async_options=options)
        return self._checkpointer

    def _make_room(self, step: int) -> None:
        """Readies the folder for a save: nothing is being written now, so whatever is unfinished is a leftover."""
        if jax.process_index() != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)  # arrays of a failed save may still be coming
        self._retire()
        path = self.folder / str(step)
        if path.exists():  # not a checkpoint of ours, so it is moved and not deleted
            path.rename(self.folder / f"{step}.not-a-checkpoint-{time.time_ns()}")

    def _retire(self) -> None:
        steps, best = self.steps(), self.best()
        for step in steps[: -self._keep]:
            if step != best and step not in self.pinned and jax.process_index() == 0:
                self._move_to_trash(step)

    def _move_to_trash(self, step: int) -> None:
        trash = self.folder / _TRASH
        trash.mkdir(exist_ok=True)
        (self.folder / str(step)).rename(trash / f"{step}-{time.time_ns()}")

    def _empty_trash(self) -> None:
        shutil.rmtree(self.folder / _TRASH, ignore_errors=True)


def _read_arrays(path: Path, abstract_state: TrainState) -> dict[str, Any]:
    ocp = _import_orbax()
    abstract = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(abstract_state)) if np.size(leaf)}
    how = {i: _restore_args(ocp, leaf) for i, leaf in abstract.items()}
    state = ocp.args.PyTreeRestore(item=dict.fromkeys(abstract, 0), restore_args=how)
    with contextlib.closing(ocp.Checkpointer(ocp.CompositeCheckpointHandler())) as reader:
        return reader.restore(path, args=ocp.args.Composite(state=state))["state"]


def _restore_args(ocp: Any, abstract: Any) -> Any:
    sharding = getattr(abstract, "sharding", None)
    if sharding is None or not getattr(abstract, "committed", True):
        # An uncommitted array follows the arrays it meets; a sharding would tie it to one device.
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


# Whatever fails is raised as a `CheckpointError`. What Orbax and TensorStore print besides only repeats it: their log
# has the traceback, every array still under way when the first one fails reports a closed event loop, and asyncio tells
# of those that failed after it, whenever they are collected.


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def _is_no_write(record: logging.LogRecord) -> bool:
    return "orbax-checkpoint-tmp" not in record.getMessage()


def _pass_on(shown: Callable[[Any], object], unraisable: Any) -> None:
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
        shown(unraisable)
