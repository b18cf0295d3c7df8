"""Random examples of any size, to measure with. Random, since zeros and constants run faster than data do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxprop.config.schema.data import Random
from jaxprop.data.fingerprint import fingerprint
from jaxprop.errors import DataError
from jaxprop.types import Reader, Source

_POOL = 1 << 20  # values that are drawn; examples are windows of them
_SEED = 0
_RATE, _SAMPLES = 16_000, 2_000  # of audio: samples a second, and for each letter of a transcript


def open_random(section: Random, task: str) -> dict[str, Source]:
    """Opens random data: tokens for the task `language`, normal inputs with random classes for `classify`, and
    with random letters for `transcribe`.

    Examples are windows into one pool of values, so that any number of any size takes no memory.

    Args:
      section: the data section.
      task: the task's name.

    Returns:
      `train` alone, since there is nothing to evaluate.

    Raises:
      DataError: a text has more than one dimension.

    Example:
      >>> source = open_random(Random(name="random", shape=(5,), vocabulary=9), "language")["train"]
      >>> batch = source.take(np.arange(2))
      >>> batch["inputs"].shape, bool((batch["inputs"][:, 1:] == batch["labels"][:, :-1]).all())
      ((2, 5), True)
    """
    if task == "language" and len(section.shape) > 1:
        raise DataError(f"data.shape: {list(section.shape)} is no length of a text; write shape: [{section.shape[0]}]")
    rng, size = np.random.default_rng(_SEED), int(np.prod(section.shape))
    identity = fingerprint("random", str(section.shape), str(section.classes), str(section.vocabulary))

    def source(take: Callable[[np.ndarray], dict[str, np.ndarray]], **info: int) -> dict[str, Source]:
        return {"train": Source(length=section.examples, take=take, info=info, fingerprint=identity)}

    if task == "language":
        tokens = rng.integers(0, section.vocabulary, max(_POOL, 2 * size), dtype=np.int32)

        def texts(indices: np.ndarray) -> dict[str, np.ndarray]:
            window = _windows(tokens, indices, size + 1)
            return {"inputs": window[:, :-1], "labels": window[:, 1:]}

        return source(texts, vocabulary=section.vocabulary)
    values = rng.standard_normal(max(_POOL, 2 * size), dtype=np.float32)
    if task == "transcribe":
        count = max(size // _SAMPLES, 1)
        letters = rng.integers(1, section.vocabulary, (section.examples, count), dtype=np.int32)

        def recordings(indices: np.ndarray) -> dict[str, np.ndarray]:
            full, spelt = np.full(len(indices), size, np.int32), np.full(len(indices), count, np.int32)
            held = {"inputs": _windows(values, indices, size), "input_lengths": full}
            return {**held, "labels": letters[indices], "label_lengths": spelt}

        return source(recordings, vocabulary=section.vocabulary, sample_rate=_RATE)
    labels = rng.integers(0, section.classes, section.examples, dtype=np.int32)

    def examples(indices: np.ndarray) -> dict[str, np.ndarray]:
        return {"inputs": _windows(values, indices, size).reshape(-1, *section.shape), "labels": labels[indices]}

    return source(examples, classes=section.classes)


def _windows(pool: np.ndarray, indices: np.ndarray, size: int) -> np.ndarray:
    """Windows of a pool, each index another one; a large prime sets neighbours far apart."""
    starts = indices * 7919 % (len(pool) - size)
    return pool[starts[:, None] + np.arange(size)]


RANDOM = Reader(lambda section, task, _prepared: open_random(section, task))
