"""Saving and restoring one run's checkpoints: whole, verified, and never in silence another one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from jaxprop.checkpoint import arrays as files
from jaxprop.checkpoint import folder as places
from jaxprop.checkpoint import leaves, manifest, peers, space
from jaxprop.checkpoint.background import Background, StuckError
from jaxprop.checkpoint.copies import Copies
from jaxprop.checkpoint.digests import digest
from jaxprop.checkpoint.environment import environment
from jaxprop.checkpoint.failures import DamagedError, no_such_step, reporting
from jaxprop.checkpoint.verify import read_verified
from jaxprop.errors import CheckpointError, UsageError, one_of
from jaxprop.types import TrainState
from jaxprop.untrusted.writes import sync

_PATTERN = "[]*?\\"  # characters that Orbax takes for a pattern of names


class Restored(NamedTuple):
    """What `Checkpoints.restore` gives back.

    Args:
      step: the step the checkpoint was saved at.
      state: the train state, in the structure and on the devices of the abstract state it was restored into.
      stream: the data stream's state.
      config: the run's config.
      metrics: the evaluation metrics saved with it, or None.
      made: the `environment` that it was saved in; None where it was saved without.
    """

    step: int
    state: Any
    stream: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, float] | None
    made: dict[str, Any] | None = None


class Checkpoints:
    """Saves and restores the checkpoints of one run; keeps the newest ones and the best one.

    Saving is asynchronous and atomic: a step is prepared beside the others and gets its name once it is whole, on the
    disk, and has a manifest with a digest of every leaf. If the process is killed, every listed step is complete.
    What is restored is compared with its digests. Nothing in the folder changes before the first `save` or
    `take_over`, so that a finished run, or one in progress, can be opened for reading.

    A save waits for the one before it. A process that is killed loses the steps since its newest whole checkpoint:
    at most one interval, and the time that one save takes.

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
      >>> import jax, jax.numpy as jnp
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
        self._writer: Any = None
        self._copies = Copies()
        self._saving: Background | None = None
        self._staging: Path | None = None
        self._alias: Path | None = None
        self._damaged: dict[int, str] = {}  # steps that were found to be damaged, and why
        self._knows_strays = False
        self.pinned: frozenset[int] = frozenset()  # steps that are never removed
        self.when_whole: Callable[[], None] = _nothing  # called once a save is known to be whole on disk
        self.tell: Callable[[str], None] = _warn  # takes what a person must know, a sentence at a time
        if self.folder.exists() and not self.folder.is_dir():
            raise CheckpointError(f"expected a folder for checkpoints at {self.folder}, got a file; move it away")

    # -- what is there ----------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Returns the steps with a complete checkpoint, ascending; other folders are ignored."""
        return list(self._manifests())

    def latest(self) -> int | None:
        """Returns the newest step with a complete checkpoint, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Returns the step with the best finite value of the metric, or None where none was saved."""
        return manifest.best_of(self._manifests(), self._metric, self._mode)

    def _manifests(self) -> dict[int, dict[str, Any]]:
        found = manifest.read_manifests(self.folder)
        return {step: one for step, one in found.items() if step not in self._damaged}

    def take_over(self) -> list[int]:
        """Removes what saves have left that were not finished; for a run that holds the folder and goes on in it.

        Returns:
          The steps, ascending, at which a checkpoint lies, damaged ones included.
        """
        if peers.is_first():
            for leftover in places.leftovers_in(self.folder):
                places.remove(leftover)
        self._tell_strays()
        return places.steps_in(self.folder)

    def _tell_strays(self) -> None:
        strays = [] if self._knows_strays else places.strays_in(self.folder)
        self._knows_strays = True
        if strays:
            more = f" and {len(strays) - 5} more" if len(strays) > 5 else ""
            self.tell(f"ignored in {self.folder}, since it is no checkpoint: {', '.join(map(repr, strays[:5]))}{more}")

    # -- saving -----------------------------------------------------------------------------------

    def tell_of_space(self, state: TrainState) -> None:
        """Tells where the disk cannot hold the checkpoints that a run is going to keep.

        Args:
          state: the train state; arrays or `jax.ShapeDtypeStruct`s.
        """
        one, copies = space.room_of(state), self._keep + 2 - len(self.steps())
        lacking = space.shortage(self.folder, one, copies)
        if lacking is not None:
            self.tell(
                f"the disk of {self.folder} is too small for this run: {lacking}, for checkpoint.keep={self._keep}, "
                "the best one and the one being written; free space, or choose another disk with --run DIR"
            )

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        stream: Mapping[str, Any],
        config: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Starts saving a checkpoint and returns once the state is copied, so that it may be donated.

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
          CheckpointError: the folder cannot be written, has no room, or the save before this one failed.
        """
        self._finish()
        self._tell_strays()
        with reporting(step, self.folder):
            if peers.of_first(step in self.steps()):
                return False
            staging = self._make_room(step)
            arrays, described = leaves.pack(state)
            self._refuse_without_room(step, arrays)
            record = {"format": manifest.FORMAT, **described, "stream": stream, "config": config, "metrics": metrics}
            record = manifest.plain_json({**record, "made": environment(state)})
            plain = self._plain_folder() / staging.name / str(step)
            self._writer = self._writer or files.writer()
            taken, own = self._copies.take(arrays)
            # Begun before the state may be donated, and waited for when it is on the disk.
            held, digests = [taken], digest(taken, threads=1)  # training needs the cores
            del arrays, taken
            work = partial(self._write, plain, held, staging / str(step), record, digests, own)
            self._saving = Background(step, work, staging)
            try:
                self._saving.start()
                if not own:
                    self._saving.wait_for_copy()
            except StuckError:
                self._saving = self._writer = None
                raise
        return True

    def _write(
        self, plain: Path, held: list[Any], place: Path, record: dict[str, Any],
        digests: Callable[[], dict[str, str]], own: bool, copied: Callable[[], None],
    ) -> None:  # fmt: skip
        """In the background: writes arrays, then the manifest, then gives the checkpoint its name."""
        files.write_arrays(self._writer, plain, held, copied, own=own)
        if peers.is_first():
            places.sync_all(place)
            manifest.write(place / manifest.NAME, {**record, "digests": digests()})
            if os.path.lexists(self.folder / place.name):
                raise FileExistsError("another process has written a checkpoint of this step meanwhile")
            place.rename(self.folder / place.name)
            sync(self.folder)
            place.parent.rmdir()
            self._empty_trash()  # in the background too, because deleting a large checkpoint takes seconds

    def check(self) -> None:
        """Finds out whether the save in the background has failed; never waits for it.

        Raises:
          CheckpointError: that save failed.
        """
        saving = self._saving
        if saving is not None and saving.has_failed:
            self._saving = None
            with reporting(saving.step, self.folder):
                saving.result()

    def amend(self, step: int, *, metrics: Mapping[str, float], stream: Mapping[str, Any]) -> None:
        """Adds the metrics of an evaluation to a checkpoint that was saved before it.

        Args:
          step: a step with a complete checkpoint.
          metrics: of the evaluation at that step.
          stream: values that replace those of the same name in the stream's state.

        Raises:
          CheckpointError: the checkpoint cannot be written.
        """
        self._finish()
        if peers.is_first():
            with reporting(step, self.folder):
                found = self._manifests()[step]
                found |= {"metrics": metrics, "stream": {**found["stream"], **stream}}
                manifest.write(manifest.path_of(self.folder / str(step)), manifest.plain_json(found))

    def wait(self) -> None:
        """Waits for the save in the background, then removes checkpoints that are no longer kept.

        Raises:
          CheckpointError: that save failed.
        """
        step = self._finish()
        if step is not None:
            with reporting(step, self.folder):
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
            self._drop_writer()
            if self._staging is not None and peers.is_first():
                places.remove_while_written(self._staging)

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

    # -- restoring --------------------------------------------------------------------------------

    def restore(
        self, abstract_state: TrainState, step: int | Literal["best", "newest"] | None = None
    ) -> Restored | None:
        """Restores a checkpoint bit for bit into the structure and onto the devices of `abstract_state`.

        Every leaf is compared with its digest. Where the newest checkpoint is asked for and is damaged, the newest
        good one takes its place, which `tell` is told; no other takes the place of one that is asked for by its step
        or as the best.

        Args:
          abstract_state: a state of this run's structure, shapes and dtypes; arrays or `jax.ShapeDtypeStruct`s.
            A leaf is put on the devices that its abstract leaf is committed to, or else on the default device.
          step: the step to restore, `"best"`, or `"newest"`, as None.

        Returns:
          The checkpoint, or None where there is none.

        Raises:
          CheckpointError: no such step, a state that does not fit, or no checkpoint that is what was saved.
        """
        self._finish()
        if step is None or step == "newest":
            return self._restore_newest(abstract_state)
        if isinstance(step, str) and step != "best":
            raise UsageError(one_of(step, ("best", "newest"), "checkpoint"))
        chosen = peers.of_first(-1 if (found := self.best() if step == "best" else step) is None else found)
        if chosen < 0:
            return None
        if chosen not in places.steps_in(self.folder):
            raise no_such_step(self.folder, chosen, self.steps())
        restored = self._read(abstract_state, chosen)
        if isinstance(restored, DamagedError):
            good = self._newest_good(abstract_state, {**self._damaged, chosen: restored.why})
            fix = "there is no other" if good is None else f"the newest good one is of step {good.step}"
            raise DamagedError(restored.path, restored.why, fix) from restored
        return restored

    def _restore_newest(self, abstract_state: TrainState) -> Restored | None:
        restored = self._newest_good(abstract_state, self._damaged)
        lost = {step: why for step, why in sorted(self._damaged.items()) if step in places.steps_in(self.folder)}
        if restored is None and lost:
            reasons = "; ".join(f"step {step}: {why}" for step, why in lost.items())
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be used ({reasons}); use --run DIR for a new run, or --fresh to "
                "start this one over"
            )
        if restored is None:
            return None
        newer = {step: why for step, why in lost.items() if step > restored.step}
        if newer:
            reasons = ", ".join(f"of step {step} is damaged: {why}" for step, why in newer.items())
            lost_steps = max(newer) - restored.step
            before = "1 step" if lost_steps == 1 else f"{lost_steps} steps"
            self.tell(
                f"the checkpoint {reasons}; going on from step {restored.step}, {before} before it; what is damaged is "
                f"moved to {self.folder / places.DAMAGED} at the next save"
            )
        return restored

    def _newest_good(self, abstract_state: TrainState, damaged: dict[int, str]) -> Restored | None:
        """Returns the newest checkpoint that is what was saved; those found not to be are added to `damaged`."""
        while True:
            left = [step for step in places.steps_in(self.folder) if step not in damaged]
            step = peers.of_first(max(left, default=-1))
            if step < 0:
                return None
            restored = self._read(abstract_state, step)
            if not isinstance(restored, DamagedError):
                return restored
            damaged[step] = restored.why

    def _read(self, abstract_state: TrainState, step: int) -> Restored | DamagedError:
        """Returns a checkpoint that every process has verified, or what is wrong with it."""
        path, damaged = self.folder / str(step), None
        try:
            record, state = read_verified(path, self._plain_folder() / str(step), abstract_state)
        except DamagedError as error:
            damaged = error
        if not peers.all_of(damaged is None):
            return damaged or DamagedError(path, "another process cannot read it")
        if "digests" not in record:
            self.tell(f"the checkpoint {path} is of an earlier version, which kept no digests: it cannot be verified")
        return Restored(step, state, record["stream"], record["config"], record["metrics"], record.get("made"))

    # -- the folder -------------------------------------------------------------------------------

    def _finish(self) -> int | None:
        """Waits for the save in the background and returns its step, or None where there was none."""
        saving, error = self._saving, None
        if saving is None:
            return None
        try:
            saving.result()
        except Exception as failed:  # an interrupt leaves it to be waited for
            error = failed
        self._saving = None
        if isinstance(error, StuckError):
            self._writer = None  # to close it would be to wait again
        elif error is not None:
            self._drop_writer()
        if not peers.all_of(error is None) and error is None:
            error = OSError("another process could not write its part")
        with reporting(saving.step, self.folder):
            if error is not None:
                raise error
            if saving.step not in self.steps():
                raise OSError("it is not there after saving")
        self.when_whole()
        return saving.step

    def _drop_writer(self) -> None:
        """Closes the writer; what it has to say then is of a save that has failed, and that was told."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(Exception):
                writer.close()

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

    def _make_room(self, step: int) -> Path:
        """Prepares the folder for a save, as nothing else is being written now; returns where it is prepared."""
        self._staging = self.folder / places.staging_name(peers.shared_token())
        if not peers.is_first():
            return self._staging
        if self.folder.is_symlink():
            raise OSError("it is a link, and jaxprop writes through none; remove it")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in places.leftovers_in(self.folder):
            places.remove(leftover)  # a failed save may still be writing arrays
        self._retire()
        for damaged in [found for found in places.steps_in(self.folder) if found in self._damaged or found == step]:
            self._move(self.folder / str(damaged), self.folder / places.DAMAGED / str(damaged))
        self._damaged.clear()
        path = self.folder / str(step)
        if os.path.lexists(path):  # not a checkpoint, so it is renamed instead of deleted
            path.rename(places.unused(path.with_name(f"{step}.not-a-checkpoint")))
        self._staging.mkdir(mode=0o700)
        return self._staging

    def _refuse_without_room(self, step: int, arrays: Any) -> None:
        one = space.room_of(arrays)
        lacking = space.shortage(self.folder, one, 1)
        if lacking is not None and peers.is_first():
            self._empty_trash()
            lacking = space.shortage(self.folder, one, 1)
        if not peers.all_of(lacking is None):
            raise CheckpointError(
                f"the checkpoint of step {step} does not fit on the disk of {self.folder}: "
                f"{lacking or 'on another process'}; free space, or choose another disk with --run DIR"
            )

    def _retire(self) -> None:
        found = self._manifests()
        best = manifest.best_of(found, self._metric, self._mode)
        for step in list(found)[: -self._keep]:
            if step != best and step not in self.pinned:
                self._move_to_trash(step)

    def _move_to_trash(self, step: int) -> None:
        if peers.is_first():
            self._move(self.folder / str(step), self.folder / places.TRASH / str(step))

    def _move(self, path: Path, to: Path) -> None:
        if to.parent.is_symlink():
            to.parent.unlink()
        to.parent.mkdir(exist_ok=True)
        path.rename(places.unused(to))

    def _empty_trash(self) -> None:
        if peers.is_first():
            places.remove(self.folder / places.TRASH)


def _nothing() -> None:
    """What is called where nobody wants to know."""


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
