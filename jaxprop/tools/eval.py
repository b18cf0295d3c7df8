"""A run's checkpoint, evaluated again: reads its folder and writes nothing there."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jaxprop.checkpoint import Checkpoints, Restored, stored_config
from jaxprop.config.build import build, build_tree
from jaxprop.config.diff import mathematical
from jaxprop.config.dump import to_builtins
from jaxprop.config.merge import merge, overrides_tree
from jaxprop.config.schema.config import Config
from jaxprop.config.tree import Path as Keys
from jaxprop.config.tree import Tree
from jaxprop.core import trees
from jaxprop.errors import CheckpointError, UsageError
from jaxprop.run.compose import compose
from jaxprop.run.evaluate import evaluate
from jaxprop.run.folder import find_run
from jaxprop.types import TrainState

# May be overridden here although a run is not continued across them: what is evaluated on, and where.
EVALUATION_ONLY: tuple[Keys, ...] = (("parallel",), ("data", "test"), ("data", "test_inputs"), ("data", "test_labels"))


def evaluate_run(
    folder: str | os.PathLike[str], overrides: Sequence[str] = (), *, best: bool = False
) -> dict[str, Any]:
    """Evaluates a run's checkpoint on the test split, with the config saved in the checkpoint.

    The run may be training meanwhile: its lock is not asked for.

    Args:
      folder: the run's folder.
      overrides: `key=value`; only such as leave the model and its training as they are.
      best: the best checkpoint instead of the newest.

    Returns:
      `step` of the checkpoint, `metrics`, `reference` figures, `parameters`, `examples` in the test split, `seconds`.

    Raises:
      UsageError: this is no run's folder, an override alters the run, or there is no test split.
      CheckpointError: nothing has been saved yet, or it cannot be read.
    """
    started = time.perf_counter()
    path = _checkpoints_of(Path(folder))
    config = _overridden(build(stored_config(path)), overrides)
    composed = compose(config)
    if composed.experiment.test is None:
        raise UsageError(
            f"the data of {folder} have no test split to evaluate on; add the override data.test=FILE.npz"
            if config.data.name == "arrays"
            else f"the data of {folder} have no test split to evaluate on"
        )
    restored = _restore(path, config, composed.state, "best" if best else None)
    return {
        "run": str(folder),
        "step": restored.step,
        "metrics": evaluate(composed.experiment, restored.state),
        "reference": dict(composed.task.reference),
        "parameters": trees.count(restored.state.params),
        "examples": composed.experiment.test.length,
        "seconds": time.perf_counter() - started,
    }


def _checkpoints_of(folder: Path) -> Path:
    """The folder of a run's checkpoints, with at least one in it."""
    checkpoints = folder / "checkpoints"
    if not checkpoints.is_dir():
        find_run(folder)
    if not Checkpoints(checkpoints).steps():
        raise CheckpointError(
            f"{folder} has no checkpoint yet; a run saves one at each evaluation and at its end "
            "(not with checkpoint.enabled: false)"
        )
    return checkpoints


def _overridden(stored: Config, overrides: Sequence[str]) -> Config:
    patch, problems = overrides_tree(overrides)
    config = build_tree(merge(Tree(to_builtins(stored), {}), patch), problems)
    changes = [c for c in mathematical(stored, config) if not any(c.path[: len(p)] == p for p in EVALUATION_ONLY)]
    if changes:
        lines = "".join(f"\n  {change}" for change in changes)
        raise UsageError(
            f"an evaluation takes the run as it was trained, and these overrides would alter it:{lines}\n"
            "leave them out; such as data.eval_batch_size and run.eval_batches may be set"
        )
    return config


def _restore(path: Path, config: Config, abstract: TrainState, step: Literal["best"] | None) -> Restored:
    section = config.checkpoint
    with Checkpoints(path, best=section.best or "loss", mode=section.mode) as checkpoints:
        before = checkpoints.steps()
        try:
            restored = checkpoints.restore(abstract, step)
        except CheckpointError:
            if checkpoints.steps() == before:
                raise
            # The run is training, and has replaced what was being read.
            restored = checkpoints.restore(abstract, step)
    if restored is None:
        metric = section.best or "loss"
        raise CheckpointError(
            f"no checkpoint in {path} was saved with a finite {metric} of an evaluation, so none is the best; "
            "leave --best out for the newest"
        )
    return restored
