"""A run opened for use: its model and one checkpoint, without its training data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from jaxprop import data
from jaxprop.checkpoint import Checkpoints, Restored, stored_config
from jaxprop.checkpoint.failures import DamagedError
from jaxprop.checkpoint.manifest import unreadable
from jaxprop.config.build import build, build_tree
from jaxprop.config.custom import admit
from jaxprop.config.diff import mathematical
from jaxprop.config.dump import to_builtins
from jaxprop.config.merge import merge, overrides_tree
from jaxprop.config.schema.config import Config
from jaxprop.config.tasks import best_mode
from jaxprop.config.tree import Path as Keys
from jaxprop.config.tree import Tree
from jaxprop.errors import CheckpointError, UsageError
from jaxprop.run import own_code
from jaxprop.run.averages import average_for_evaluation
from jaxprop.run.experiment import Experiment, assemble
from jaxprop.run.folder import find_run, read_summary, refuse_links
from jaxprop.run.prepared import Prepared, prepared_of, read, stand_in
from jaxprop.sinks.streams import tell
from jaxprop.types import TrainState

# Overrides of these are allowed although they alter a run: the devices and the data of an evaluation.
EVALUATION_ONLY: tuple[Keys, ...] = (
    ("parallel",),
    ("data", "test"),
    ("data", "test_inputs"),
    ("data", "test_labels"),
    ("data", "test_targets"),
)
Which = Literal["best", "newest"]


class Opened(NamedTuple):
    """A run and one of its checkpoints.

    Args:
      folder: the run's folder.
      config: the configuration it was trained with.
      experiment: what that stands for; its training source is a stand-in of zeros.
      prepared: what the run has kept of its training data.
      state: the checkpoint's, of several averages with the one alone that evaluations use.
      step: of the checkpoint.
      which: whether that is the best one or the newest.
      average: which of several averages of the parameters evaluations use; None where the run keeps one or none.
    """

    folder: Path
    config: Config
    experiment: Experiment
    prepared: Prepared
    state: TrainState
    step: int
    which: Which
    average: str | None = None


def open_run(
    folder: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    which: Which | None = None,
    code: Sequence[str] = (),
) -> Opened:
    """Opens a run with the config saved in its checkpoint. It may be training at the same time: no lock is taken.

    Args:
      folder: the run's folder.
      overrides: `key=value`, for keys that do not alter the model or its training.
      which: the checkpoint; by default the best, and the newest where none was saved with an evaluation.
      code: files and modules with code of the user's own that may be run; the run names them, and may be anyone's.

    Raises:
      UsageError: this is not the folder of a run, an override alters the run, or it names code that is not in `code`.
      CheckpointError: there is no checkpoint yet, or it cannot be read.
    """
    folder = find_run(Path(folder))
    refuse_links(folder)
    path = _checkpoints_of(folder)
    config = _overridden(build(stored_config(path)), overrides, code)
    # A run of an earlier jaxprop has kept nothing of its data, so they are opened.
    prepared = read(folder) or prepared_of(data.open_sources(config.data, config.task.name)["train"])
    # Without its teacher, which may be gone: only training asks it.
    experiment = assemble(own_code.checked(config), {"train": stand_in(prepared)})
    restored, chosen = _restore(path, config, experiment.init(config.run.seed), which)
    average = average_for_evaluation(experiment, restored.stream["metrics"])
    state = experiment.step.picked(restored.state, average)
    return Opened(folder, config, experiment, prepared, state, restored.step, chosen, average)


def _checkpoints_of(folder: Path) -> Path:
    """Returns the folder of a run's checkpoints, if there is at least one."""
    checkpoints = folder / "checkpoints"
    if not checkpoints.is_dir() or not Checkpoints(checkpoints).steps():
        lost = unreadable(checkpoints)
        if lost:
            raise CheckpointError(f"{_damaged(checkpoints, lost, max(lost))}, and there is no other; restore that file")
        raise CheckpointError(
            f"{folder} has no checkpoint yet; a run saves one at each evaluation and at its end "
            "(not with checkpoint.enabled: false)"
        )
    return checkpoints


def _overridden(stored: Config, overrides: Sequence[str], code: Sequence[str]) -> Config:
    patch, problems = overrides_tree(overrides)
    tree = merge(Tree(to_builtins(stored), {}), patch)
    config = admit(build_tree(tree, problems), tree, code, stored=True)
    changes = [c for c in mathematical(stored, config) if not any(c.path[: len(p)] == p for p in EVALUATION_ONLY)]
    if changes:
        lines = "".join(f"\n  {change}" for change in changes)
        raise UsageError(
            f"a run is used as it was trained, and these overrides would alter it:{lines}\n"
            "remove them; keys such as data.eval_batch_size and run.eval_batches may be set"
        )
    return config


def _restore(path: Path, config: Config, abstract: TrainState, which: Which | None) -> tuple[Restored, Which]:
    section = config.checkpoint
    with Checkpoints(path, best=section.best or "loss", mode=best_mode(config)) as checkpoints:
        checkpoints.tell = tell
        before = checkpoints.steps()
        which = which or ("newest" if checkpoints.best() is None else "best")
        _refuse_another(checkpoints, which)
        try:
            restored = _restored(checkpoints, abstract, which)
        except CheckpointError as error:
            if checkpoints.steps() == before:
                raise _with_another(error, checkpoints, which) from error
            # The run is still training and has removed the checkpoint while it was being read.
            restored = _restored(checkpoints, abstract, which)
    if restored is None:
        metric = section.best or "loss"
        raise CheckpointError(
            f"no checkpoint in {path} was saved with a finite {metric} from an evaluation, so there is no best one; "
            "use --newest for the newest"
        )
    return restored, which


def _restored(checkpoints: Checkpoints, abstract: TrainState, which: Which) -> Restored | None:
    """By its step also where it is the newest: only a run that goes on takes another one's place for a damaged one."""
    return checkpoints.restore(abstract, "best" if which == "best" else checkpoints.latest())


def _damaged(path: Path, lost: Mapping[int, str], step: int) -> str:
    return f"the checkpoint {path / str(step)} is damaged: {lost[step]}"


def _refuse_another(checkpoints: Checkpoints, which: Which) -> None:
    """Raises CheckpointError where the checkpoint that is asked for is damaged, and another would take its place."""
    lost, latest = unreadable(checkpoints.folder), checkpoints.latest()
    assert latest is not None
    if not lost:
        return
    last = max(lost)
    remove = f"restore that file, or remove {checkpoints.folder / str(last)} to use what is left"
    if which == "newest" and last > latest:
        raise CheckpointError(f"{_damaged(checkpoints.folder, lost, last)}, and it is the newest one; {remove}")
    known = (read_summary(checkpoints.folder.parent) or {}).get("best")
    best = known.get("step") if isinstance(known, dict) else None
    if which == "newest" or (best is not None and best not in lost):
        return
    step = last if best is None else best
    said = "may be" if best is None else "is"
    fix = f"--newest uses the newest one, of step {latest}" if latest > last else remove
    raise CheckpointError(f"{_damaged(checkpoints.folder, lost, step)}, and it {said} the best one; {fix}")


def _with_another(error: CheckpointError, checkpoints: Checkpoints, which: Which) -> CheckpointError:
    """The error with the way to use another checkpoint, if there is one."""
    best, latest = checkpoints.best(), checkpoints.latest()
    if not isinstance(error, DamagedError) or best is None or best == latest:
        return error
    if which == "best":
        return CheckpointError(f"{error}; use --newest for the one of step {latest}")
    return CheckpointError(f"{error}; leave out --newest for the best one, of step {best}")
