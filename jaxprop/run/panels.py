"""What a finished run leaves of its predictions, for the report: `panels.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxprop import data
from jaxprop.core.examples import row_weights
from jaxprop.parallel.mesh import parts
from jaxprop.parallel.placement import gathered, local_rows, place_batch
from jaxprop.run.compose import Experiment
from jaxprop.run.folder import write_text
from jaxprop.run.precision import policy_of
from jaxprop.sinks.jsonl import encode
from jaxprop.tasks.task import predictions
from jaxprop.types import Batch, PyTree, Source, TrainState

NAME = "panels.json"
# Of the test split; enough for every picture, and cheap. A text has an answer at each of its places.
EXAMPLES, ANSWERS, VALUES = 2048, 2**15, 2**25


def draw(experiment: Experiment, state: TrainState) -> dict[str, Any] | None:
    """Returns the panels of the run's task, drawn of the first examples of the test split, or of the one
    that evaluations use; None without either.

    Args:
      experiment: the run.
      state: evaluated as the run's evaluations are.
    """
    task, mesh = experiment.task, experiment.mesh
    test = experiment.test or experiment.validation
    split = next((name for name, source in experiment.sources.items() if source is test), "test")
    if not isinstance(test, Source) or not task.panels:
        return None
    size = experiment.config.data.eval_batch_size or experiment.config.data.batch_size
    size = size if mesh is None else -(-size // parts(mesh)) * parts(mesh)
    options = {} if task.answer is None else {"detail": True}
    predict = jax.jit(predictions(task, policy_of(experiment.config), **options))
    params, extras = experiment.step.eval_params(state), experiment.step.eval_extras(state)
    told, seen = [], []
    one = test.take(np.zeros(1, np.int64))
    shown = sum(one[name].size for name in task.shown if name in one)
    count = min(EXAMPLES, ANSWERS // one["labels"].size, VALUES // max(shown, 1))
    for batch in data.one_pass(test, size, max(count // size, 1)):
        weight = row_weights(batch)
        counts = slice(None) if weight is None else np.asarray(weight) != 0
        held = {name: batch[name] for name in ("labels", "mask", *task.shown) if name in batch}
        found = gathered(predict(params, extras, batch if mesh is None else _placed(batch, mesh, size)), mesh)
        told.append(jax.tree.map(lambda x, counts=counts: np.asarray(x)[counts], found))
        seen.append(jax.tree.map(lambda x, counts=counts: np.asarray(x)[counts], held))
    told, seen = _joined(told), _joined(seen)
    drawn = [panel(told, seen)._asdict() for panel in task.panels]
    count = len(jax.tree.leaves(told)[0])
    return {"step": int(state.step), "examples": count, "of": test.length, "split": split, "panels": drawn}


def write(folder: Path, drawn: dict[str, Any] | None) -> None:
    """Writes `panels.json`; raises RunFolderError where that cannot be."""
    if drawn is not None:
        write_text(folder / NAME, encode(drawn) + "\n")


def _placed(batch: Batch, mesh: Mesh, size: int) -> PyTree:
    rows = local_rows(mesh, size)
    return place_batch(batch if rows is None else jax.tree.map(lambda x: x[rows], batch), mesh)


def _joined(parts: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
