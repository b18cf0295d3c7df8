"""Data: a reader opens sources, which give examples by index; a stream gives seeded, resumable batches of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxprop.config.schema.data import CustomData, DataSection
from jaxprop.config.tasks import TASK_TABLE, tasks_for
from jaxprop.data import augment
from jaxprop.data.mixture import MixtureStream, Phase
from jaxprop.data.prefetch import Prefetch, prefetch
from jaxprop.data.readers.arrays import ARRAYS
from jaxprop.data.readers.audio.espeak import ESPEAK
from jaxprop.data.readers.audio.speech import SPEECH
from jaxprop.data.readers.audio.tones import TONES
from jaxprop.data.readers.coco import COCO
from jaxprop.data.readers.digit_scenes import DIGIT_SCENES
from jaxprop.data.readers.digits import DIGITS
from jaxprop.data.readers.huggingface import HUGGINGFACE
from jaxprop.data.readers.images.open import IMAGES
from jaxprop.data.readers.mixture import LENGTHS, mixture_of
from jaxprop.data.readers.number_words import NUMBER_WORDS
from jaxprop.data.readers.own import OWN
from jaxprop.data.readers.pairs import PAIRS
from jaxprop.data.readers.random import RANDOM
from jaxprop.data.readers.reviews import REVIEWS
from jaxprop.data.readers.stdlib_text import STDLIB_TEXT
from jaxprop.data.readers.table import TABLE
from jaxprop.data.readers.text import TEXT
from jaxprop.data.splits import hold_out
from jaxprop.data.stored import as_kept
from jaxprop.data.stream import Stream, one_pass
from jaxprop.data.workers import Workers
from jaxprop.errors import ConfigError, one_of
from jaxprop.types import Reader, Source

__all__ = [
    "LENGTHS",
    "READERS",
    "MixtureStream",
    "Phase",
    "Prefetch",
    "Reader",
    "Source",
    "Stream",
    "Workers",
    "as_kept",
    "augment",
    "one_pass",
    "open_sources",
    "prefetch",
]

READERS: dict[str, Reader] = {
    "digits": DIGITS,
    "reviews": REVIEWS,
    "stdlib_text": STDLIB_TEXT,
    "text": TEXT,
    "pairs": PAIRS,
    "number_words": NUMBER_WORDS,
    "arrays": ARRAYS,
    "images": IMAGES,
    "huggingface": HUGGINGFACE,
    "digit_scenes": DIGIT_SCENES,
    "coco": COCO,
    "table": TABLE,
    "speech": SPEECH,
    "tones": TONES,
    "espeak": ESPEAK,
    "random": RANDOM,
}


def open_sources(section: DataSection, task: str, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Opens the data that a config's `data` section names, and checks that they fit a task.

    Args:
      section: a `data` section, such as `jaxprop.config.schema.data.Digits(name="digits")`.
      task: the task's name; the labels' dtype, shape and range depend on it.
      prepared: what an earlier run has learned of its training data and stored, to prepare these alike; None for a
        new run, which learns it.

    Returns:
      One source for each split: `"train"`, which may be missing where `prepared` is given; and `"validation"` and
      `"test"`, where there are such. A `data.validation` that is a number is a part of the training data.

    Raises:
      ConfigError: the task cannot use this kind of data.
      DataError: the data are missing, damaged, or do not fit the task.

    Example:
      >>> from jaxprop.config.schema.data import Digits
      >>> sources = open_sources(Digits(name="digits", validation=0.1), "classify")
      >>> {split: source.length for split, source in sources.items()}
      {'train': 1293, 'validation': 144, 'test': 360}
    """
    name = getattr(section, "name", type(section).__name__)
    own = isinstance(section, CustomData)
    if not own and name not in READERS:
        raise ConfigError(f"data.name: {one_of(name, READERS, 'data')}")
    if not own and task not in tasks_for(name):
        usable = sorted(TASK_TABLE[task].data) if task in TASK_TABLE else []
        fix = f"data.name: {' or '.join(usable)}, or " if usable else ""
        raise ConfigError(
            f"data {name!r} cannot be used for task {task!r}; set {fix}task.name: {' or '.join(tasks_for(name))}"
        )
    opened = (OWN if own else READERS[name]).open(section, task, prepared)
    if isinstance(section.validation, float) and "train" in opened and "validation" not in opened:
        train, validation = hold_out(opened["train"], section.validation, section.split_seed)
        opened = {"train": train, "validation": validation} | {k: v for k, v in opened.items() if k != "train"}
    return opened


READERS["mixture"] = mixture_of(open_sources, READERS)
