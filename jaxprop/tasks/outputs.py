"""Whether what a model returns fits its task, told by shapes alone before the first step. Pure."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxprop.config.schema.config import Config
from jaxprop.config.schema.model import CustomModel
from jaxprop.config.schema.task import CustomLoss
from jaxprop.config.tree import Tree
from jaxprop.errors import ConfigError
from jaxprop.models.own import no_outputs
from jaxprop.tasks.task import Task
from jaxprop.train.objective import without_padding
from jaxprop.types import Batch, PyTree

Shape = tuple[int | None, ...]  # without the axis B; None where the data do not say a size

SIZE = {
    "classify": "classes",
    "language": "vocabulary",
    "translate": "vocabulary",
}  # what the last axis of logits is, by task
NAMED = {
    "classify": "classes",
    "language": "tokens",
    "multilabel": "labels",
    "regress": "targets",
    "translate": "tokens",
}
ARGUMENT = {**SIZE, "multilabel": "classes", "regress": "targets"}  # what a model is told of it, by name
PADDED = (
    "language",
    "translate",
)  # tasks for which a last axis larger than the vocabulary is usual, as it makes products faster


def check_outputs(config: Config, task: Task, params: PyTree, extras: PyTree, batch: Batch) -> None:
    """Checks the shape of a model's outputs against the task; a loss of the user's own may take any.

    Args:
      config: the run's configuration.
      task: that it stands for.
      params, extras: shapes of the model's parameters and extras.
      batch: examples `[B, ...]` as the model is trained on.

    Raises:
      ConfigError: the shape does not fit; one sentence with both shapes.
    """
    name, model = config.task.name, task.model
    if model is None or model.apply is no_outputs or isinstance(config.task.loss, CustomLoss):
        return
    labels = batch.get("labels")
    if labels is None:
        return

    def outputs_of(params: PyTree, extras: PyTree, batch: Batch) -> Any:
        assert model is not None
        return model.apply(params, extras, without_padding(batch), key=jax.random.key(0), train=True)[0]

    outputs = jax.eval_shape(outputs_of, params, extras, batch)
    size = task.spec.sizes.get(SIZE.get(name, ""))
    answers = tuple(np.shape(labels)[1:])
    if name not in SIZE:
        wanted = answers or (1,)
    else:
        shares = bool(answers) and np.issubdtype(np.asarray(labels).dtype, np.floating)
        wanted = answers if shares else (*answers, size)
    if not _fits(outputs, wanted, answers if name not in SIZE else None, padded=name in PADDED):
        raise ConfigError(_problem(config, outputs, wanted))


def _fits(outputs: Any, wanted: Shape, answers: Shape | None, *, padded: bool) -> bool:
    """Whether outputs have the shape; those of `answers`, numbers for each example, may have a last axis of 1 more."""
    if not hasattr(outputs, "shape") or not outputs.shape:
        return False
    shape = tuple(outputs.shape[1:])
    if answers is not None:
        return shape in (answers, (*answers, 1))
    if len(shape) != len(wanted) or shape[:-1] != wanted[:-1]:
        return False
    size = wanted[-1]
    return size is None or shape[-1] == size or (padded and shape[-1] > size)


def _problem(config: Config, outputs: Any, wanted: Shape) -> str:
    task, section, size = config.task.name, config.model, wanted[-1]
    what, has = NAMED[task], "" if size is None else f"has {size} {NAMED[task]}"
    own = isinstance(section, CustomModel)
    expected = _written(tuple(what if one is None else one for one in wanted))
    shaped = hasattr(outputs, "shape")
    got = _written(outputs.shape[1:]) if shaped else f"a {type(outputs).__name__}"
    fix = f"return one array {expected}"
    if shaped and len(outputs.shape) == len(wanted) + 1 and size is not None:
        count = "1 output" if size == 1 else f"{size} outputs"
        named = f"; an argument called {ARGUMENT[task]} is given that number" if own else ""
        fix = f"give its last layer {count}{named}"
        if ARGUMENT[task] == "classes" and outputs.shape[-1] > size and "classes" in type(config.data).model_fields:
            fix += f"; data.classes={outputs.shape[-1]} says that there are classes without an example"
    said = f"{section.name} returns {got}, but the task {task} {has or 'expects ' + expected}"
    said += f", and so expects {expected}; {fix}" if has else f"; {fix}"
    origins = dict(section.origins) if isinstance(section, CustomModel) else {}
    return Tree({}, origins).problem(("model", "class") if own else ("model",), said)


def _written(shape: tuple[Any, ...]) -> str:
    return f"[{', '.join(['B', *map(str, shape)])}]"
