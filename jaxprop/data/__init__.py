"""Data: a source gives examples by index; a stream gives seeded, resumable batches of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxprop.config.schema.data import DataSection
from jaxprop.config.tasks import TASK_TABLE, tasks_for
from jaxprop.data import augment
from jaxprop.data.prefetch import Prefetch, prefetch
from jaxprop.data.readers.arrays import open_arrays
from jaxprop.data.readers.digits import open_digits
from jaxprop.data.readers.random import open_random
from jaxprop.data.readers.stdlib_text import open_stdlib_text
from jaxprop.data.stream import Stream, one_pass
from jaxprop.errors import ConfigError, one_of
from jaxprop.types import Source

__all__ = ["SOURCES", "Prefetch", "Source", "Stream", "augment", "one_pass", "open_sources", "prefetch"]

SOURCES: dict[str, Callable[[Any, str], dict[str, Source]]] = {
    "digits": lambda _section, _task: open_digits(),
    "stdlib_text": lambda section, _task: open_stdlib_text(section),
    "arrays": open_arrays,
    "random": open_random,
}


def open_sources(section: DataSection, task: str) -> dict[str, Source]:
    """Opens the data that a config's `data` section names, and checks that they fit a task.

    Args:
      section: a `data` section, such as `jaxprop.config.schema.data.Digits(name="digits")`.
      task: the task's name; the labels' dtype, shape and range depend on it.

    Returns:
      One source for each split: `"train"`, and `"test"` if there is one.

    Raises:
      ConfigError: the task cannot use this kind of data.
      DataError: the data are missing, damaged, or do not fit the task.

    Example:
      >>> from jaxprop.config.schema.data import Digits
      >>> sources = open_sources(Digits(name="digits"), "classify")
      >>> {split: source.length for split, source in sources.items()}
      {'train': 1437, 'test': 360}
    """
    name = getattr(section, "name", type(section).__name__)
    if name not in SOURCES:
        raise ConfigError(f"data.name: {one_of(name, SOURCES, 'data')}")
    if task not in tasks_for(name):
        usable = sorted(TASK_TABLE[task].data) if task in TASK_TABLE else []
        fix = f"data.name: {' or '.join(usable)}, or " if usable else ""
        raise ConfigError(
            f"data {name!r} cannot be used for task {task!r}; set {fix}task.name: {' or '.join(tasks_for(name))}"
        )
    return SOURCES[name](section, task)
