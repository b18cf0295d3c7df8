"""Evaluates a checkpoint of a run, without writing to its folder."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from jaxprop import data
from jaxprop.core import trees
from jaxprop.errors import DataError, UsageError
from jaxprop.run.evaluate import evaluate
from jaxprop.run.linear import compared_on
from jaxprop.run.opened import Opened, Which, open_run
from jaxprop.run.prepared import stand_in
from jaxprop.tasks import make_task
from jaxprop.types import Source


def evaluate_run(
    folder: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    which: Which | None = None,
    code: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluates a run's checkpoint on the test split, with the config saved in the checkpoint.

    The run may be training at the same time, since its lock is not taken.

    Args:
      folder: the run's folder.
      overrides: `key=value`, for keys that do not alter the model or its training.
      which: the checkpoint; by default the best, and the newest where none was saved with an evaluation.
      code: files and modules with code of the user's own that may be run.

    Returns:
      `run` (the folder), `step` of the checkpoint and `checkpoint` (best or newest), `split`, `metrics`, `reference`
      figures, `parameters`, `examples` in the split, and `seconds`. `chosen_on` is the split that the best checkpoint
      was chosen by: where it is the same one, the figures flatter. `average` is the one that was evaluated, of several.

    Raises:
      UsageError: this is not the folder of a run, an override alters the run, or there is no split to evaluate on.
      CheckpointError: there is no checkpoint yet, or it cannot be read.
      DataError: the split is not the one that the run was trained with.
    """
    started = time.perf_counter()
    opened = open_run(folder, overrides, which=which, code=code)
    sources = data.open_sources(opened.config.data, opened.config.task.name, opened.prepared.prepared)
    split = "test" if "test" in sources else "validation"
    if split not in sources:
        raise UsageError(_nothing_to_evaluate(opened))
    _refuse_changed(opened, split, sources[split], overrides)
    evaluated = {"train": stand_in(opened.prepared), "test": sources[split]}
    chosen = {"chosen_on": "validation" if "validation" in sources else "test"} if opened.which == "best" else {}
    return {
        "run": str(folder),
        "step": opened.step,
        "checkpoint": opened.which,
        **chosen,
        **({} if opened.average is None else {"average": opened.average}),
        "split": split,
        "metrics": evaluate(opened.experiment, opened.state, source=sources[split]),
        "reference": _reference(opened, evaluated)
        | compared_on(opened.folder, sources[split], opened.config.task.name),
        "parameters": trees.count(opened.state.params),
        "examples": sources[split].length,
        "seconds": time.perf_counter() - started,
    }


def _refuse_changed(opened: Opened, split: str, source: Source, overrides: Sequence[str]) -> None:
    """Raises DataError where a split is another than in training, unless it was named anew."""
    before, section = opened.prepared.splits.get(split, source.fingerprint), opened.config.data
    if source.fingerprint == before or any(override.startswith("data.test") for override in overrides):
        return
    path = getattr(section, split, None)
    of = path if isinstance(path, str) else getattr(section, "train", None)
    where = f" (of {of})" if isinstance(of, str) else ""
    fix = ", or evaluate other data with the override data.test=FILE" if "test" in type(section).model_fields else ""
    raise DataError(f"the {split} split{where} has changed since {opened.folder} was trained; put it back{fix}")


def _reference(opened: Opened, sources: dict[str, Source]) -> dict[str, float]:
    """Figures of trivial predictors on the split, which depend on the data that are evaluated."""
    return dict(make_task(opened.config, sources).reference)


def _nothing_to_evaluate(opened: Opened) -> str:
    what = f"the data of {opened.folder} have no test split to evaluate on"
    return f"{what}; add the override data.test=FILE.npz" if opened.config.data.name == "arrays" else what
