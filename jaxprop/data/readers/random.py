"""Random examples of any size, to measure with. Random, since zeros and constants run faster than data do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from jaxprop.config.schema.data import Random
from jaxprop.data.fingerprint import fingerprint
from jaxprop.errors import DataError
from jaxprop.types import Reader, Source

Made = tuple[Callable[[np.ndarray], dict[str, np.ndarray]], dict[str, int]]  # `take` and `info` of a source
_POOL = 1 << 20  # values that are drawn; examples are windows of them
_SEED = 0
_RATE, _SAMPLES = 16_000, 2_000  # of audio: samples a second, and for each letter of a transcript


def open_random(section: Random, task: str) -> dict[str, Source]:
    """Opens random data: tokens for `language` and `translate`, samples with random letters for `transcribe`, normal
    inputs with random classes or boxes otherwise.

    Examples are windows into one pool of values, so that any number of any size takes no memory.

    Args:
      section: the data section.
      task: the task's name.

    Returns:
      `train` alone, since there is nothing to evaluate.

    Raises:
      DataError: a text has more than one dimension, or what has boxes is no image.

    Example:
      >>> source = open_random(Random(name="random", shape=(5,), vocabulary=9), "language")["train"]
      >>> batch = source.take(np.arange(2))
      >>> batch["inputs"].shape, bool((batch["inputs"][:, 1:] == batch["labels"][:, :-1]).all())
      ((2, 5), True)
    """
    if task in ("language", "translate") and len(section.shape) > 1:
        raise DataError(f"data.shape: {list(section.shape)} is no length of a text; write shape: [{section.shape[0]}]")
    if task == "detect" and len(section.shape) != 3:
        raise DataError(f"data.shape: {list(section.shape)} is no image; write shape: [height, width, channels]")
    take, info = _OF_TASK.get(task, _labelled)(section, np.random.default_rng(_SEED))
    identity = fingerprint("random", str(section.shape), str(section.classes), str(section.vocabulary))
    return {"train": Source(length=section.examples, take=take, info=info, fingerprint=identity)}


def _texts(section: Random, rng: np.random.Generator) -> Made:
    size = section.shape[0]
    tokens = _tokens(section, rng)

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        window = _windows(tokens, indices, size + 1)
        return {"inputs": window[:, :-1], "labels": window[:, 1:]}

    return take, {"vocabulary": section.vocabulary}


def _pairs(section: Random, rng: np.random.Generator) -> Made:
    size = section.shape[0]
    tokens = _tokens(section, rng)

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        window, mask = _windows(tokens, indices, 2 * size + 1), np.ones((len(indices), size), np.float32)
        sides = {"inputs": window[:, :size], "targets": window[:, size:-1], "labels": window[:, size + 1 :]}
        return sides | {"input_mask": mask, "mask": mask}

    return take, {"vocabulary": section.vocabulary, "begin": 0, "end": 0}


def _recordings(section: Random, rng: np.random.Generator) -> Made:
    size = int(np.prod(section.shape))
    samples, count = _values(size, rng), max(size // _SAMPLES, 1)
    letters = rng.integers(1, section.vocabulary, (section.examples, count), dtype=np.int32)

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        full, spelt = np.full(len(indices), size, np.int32), np.full(len(indices), count, np.int32)
        held = {"inputs": _windows(samples, indices, size), "input_lengths": full}
        return {**held, "labels": letters[indices], "label_lengths": spelt}

    return take, {"vocabulary": section.vocabulary, "sample_rate": _RATE}


def _labelled(section: Random, rng: np.random.Generator, *, boxes: bool = False) -> Made:
    size = int(np.prod(section.shape))
    values = _values(size, rng)
    held = _boxes(section, rng) if boxes else {}
    count = (section.examples, section.boxes) if boxes else (section.examples,)
    held["labels"] = rng.integers(0, section.classes, count, dtype=np.int32)

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        inputs = _windows(values, indices, size).reshape(-1, *section.shape)
        return {"inputs": inputs, **{name: array[indices] for name, array in held.items()}}

    return take, {"classes": section.classes}


def _boxes(section: Random, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Boxes of any size and place in the image, which all count."""
    height, width, _ = section.shape
    edges = np.sort(rng.random((section.examples, section.boxes, 2, 2), dtype=np.float32), axis=2)
    boxes = edges.reshape(section.examples, section.boxes, 4) * np.array([width, height] * 2, np.float32)
    return {"boxes": boxes, "mask": np.ones((section.examples, section.boxes), np.float32)}


def _tokens(section: Random, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, section.vocabulary, max(_POOL, 4 * section.shape[0]), dtype=np.int32)


def _values(size: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(max(_POOL, 2 * size), dtype=np.float32)


def _windows(pool: np.ndarray, indices: np.ndarray, size: int) -> np.ndarray:
    """Windows of a pool, each index another one; a large prime sets neighbours far apart."""
    starts = indices * 7919 % (len(pool) - size)
    return pool[starts[:, None] + np.arange(size)]


_OF_TASK: dict[str, Callable[[Random, np.random.Generator], Made]] = {
    "language": _texts,
    "translate": _pairs,
    "transcribe": _recordings,
    "detect": partial(_labelled, boxes=True),
}
RANDOM = Reader(lambda section, task, _prepared: open_random(section, task))
