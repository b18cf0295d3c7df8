"""Tasks: each binds data, model, loss and metrics; one file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxprop.config.schema.config import Config
from jaxprop.models import no_outputs
from jaxprop.tasks.classify import classify
from jaxprop.tasks.detect import detect
from jaxprop.tasks.language import language
from jaxprop.tasks.multilabel import multilabel
from jaxprop.tasks.outputs import check_outputs
from jaxprop.tasks.regress import regress
from jaxprop.tasks.task import Task, bind
from jaxprop.tasks.transcribe import transcribe
from jaxprop.tasks.translate import translate
from jaxprop.tasks.widened import widened
from jaxprop.train.distillation import Teacher
from jaxprop.types import Model, Source

__all__ = ["TASKS", "Task", "check_outputs", "make_task", "model_of"]

TASKS: dict[str, Callable[..., Task]] = {
    "classify": classify,
    "language": language,
    "detect": detect,
    "multilabel": multilabel,
    "regress": regress,
    "translate": translate,
    "transcribe": transcribe,
}


def model_of(config: Config, train: Source) -> Model:
    """Returns the model of a configuration, built for the training data.

    Args:
      config: the configuration.
      train: the training split.
    """
    return bind(config, train)[0]


def make_task(config: Config, sources: Mapping[str, Source], teacher: Teacher | None = None) -> Task:
    """Binds the task a configuration names to its data.

    Args:
      config: the run's configuration.
      sources: from `jaxprop.data.open_sources`.
      teacher: that the model learns from, for the tasks that can be learned so; or None.

    Returns:
      The task.
    """
    taught = {} if teacher is None else {"teacher": teacher}
    task, kept = TASKS[config.task.name](config, sources, **taught), sources["train"].stored
    if kept is not None:
        task = task._replace(objective=widened(task.objective, kept.widen))
    has_outputs = task.model is None or task.model.apply is not no_outputs
    return task if has_outputs else task._replace(panels=())
