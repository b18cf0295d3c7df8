"""The linear model beside a run on a table: fitted when the run has completed, and kept for later evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from jaxprop.run.compose import Experiment
from jaxprop.run.folder import write_text
from jaxprop.tasks.linear import Linear, fit, references
from jaxprop.types import Source
from jaxprop.untrusted.files import read_json

NAME = "linear.json"
DATA = ("table",)  # the data whose inputs a linear model takes as they are


def compared(experiment: Experiment, folder: Path) -> dict[str, float]:
    """Fits the linear model to the training rows, keeps it in the folder, and returns its figures; {} without one.

    It is fitted at the end and not at the start, so that nobody waits for scikit-learn before the first step, and not
    in the commands that only build a run.

    Args:
      experiment: the run.
      folder: the run's.

    Raises:
      RunFolderError: the file cannot be written.
    """
    config = experiment.config
    validation = experiment.validation
    if not isinstance(validation, Source) or config.data.name not in DATA:
        return {}
    try:
        model = fit(experiment.sources["train"], config.task.name)
        figures = references(model, config.task.name, validation, experiment.test)
    except (
        ValueError,
        ArithmeticError,
        MemoryError,
        ImportError,
    ):  # a completed run must not fail by a figure beside it
        return {}
    if model is not None:
        held = {"coefficients": model.coefficients.tolist(), "intercept": _finite(model.intercept)}
        write_text(folder / NAME, json.dumps(held) + "\n")
    return figures


def compared_on(folder: Path, source: Source, task: str) -> dict[str, float]:
    """Returns the figure of the linear model that a run has kept, on any split; {} where it has kept none.

    Args:
      folder: the run's.
      source: the split, prepared as the run's training rows were.
      task: the task.
    """
    try:
        held = read_json(folder / NAME)
        intercept = [-np.inf if value is None else value for value in held["intercept"]]
        model = Linear(np.array(held["coefficients"], np.float64), np.array(intercept, np.float64))
        return references(model, task, source, None)
    except (OSError, ValueError, KeyError, TypeError):  # only a figure beside the result
        return {}


def _finite(values: np.ndarray) -> list[float | None]:
    """Minus infinity, the score of a class that no training row has, is null in JSON."""
    return [float(value) if np.isfinite(value) else None for value in values]
