"""Evaluates a checkpoint of a run, without writing to its folder."""

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

# Overrides of these are allowed although they alter a run: the devices and the test data of an evaluation.
EVALUATION_ONLY: tuple[Keys, ...] = (("parallel",), ("data", "test"), ("data", "test_inputs"), ("data", "test_labels"))


def evaluate_run(
    folder: str | os.PathLike[str], overrides: Sequence[str] = (), *, best: bool = False
) -> dict[str, Any]:
    """Evaluates a run's checkpoint on the test split, with the config saved in the checkpoint.

    The run may be training at the same time, since its lock is not taken.

    Args:
      folder: the run's folder.
      overrides: `key=value`, for keys that do not alter the model or its training.
      best: whether to evaluate the best checkpoint instead of the newest.

    Returns:
      `run` (the folder), `step` of the checkpoint, `metrics`, `reference` figures, `parameters`, `examples` in the
      test split, and `seconds`.

    Raises:
      UsageError: this is not the folder of a run, an override alters the run, or there is no test split.
      CheckpointError: there is no checkpoint yet, or it cannot be read.
    """
    started = time.perf_counter()
    path = _checkpoints_of(Path(folder))
    config = _overridden(build(stored_config(path)), overrides)
    experiment = compose(config)
    if experiment.test is None:
        raise UsageError(
            f"the data of {folder} have no test split to evaluate on; add the override data.test=FILE.npz"
            if config.data.name == "arrays"
            else f"the data of {folder} have no test split to evaluate on"
        )
    restored = _restore(path, config, experiment.init(config.run.seed), "best" if best else None)
    return {
        "run": str(folder),
        "step": restored.step,
        "metrics": evaluate(experiment, restored.state),
        "reference": dict(experiment.task.reference),
        "parameters": trees.count(restored.state.params),
        "examples": experiment.test.length,
        "seconds": time.perf_counter() - started,
    }


def _checkpoints_of(folder: Path) -> Path:
    """Returns the folder of a run's checkpoints, if there is at least one."""
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
            f"a run is evaluated as it was trained, and these overrides would alter it:{lines}\n"
            "remove them; keys such as data.eval_batch_size and run.eval_batches may be set"
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
            # The run is still training and has removed the checkpoint while it was being read.
            restored = checkpoints.restore(abstract, step)
    if restored is None:
        metric = section.best or "loss"
        raise CheckpointError(
            f"no checkpoint in {path} was saved with a finite {metric} from an evaluation, so there is no best one; "
            "leave --best out to evaluate the newest"
        )
    return restored
