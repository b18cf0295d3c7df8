"""What a run keeps of its training data, so that it can evaluate and predict without them: `prepared.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop.data.readers.arrays import IF_NUMBERS
from jaxprop.errors import UsageError
from jaxprop.run.folder import write_text
from jaxprop.types import PyTree, Source
from jaxprop.untrusted.files import read_json

NAME = "prepared.json"
_TOLD_ONCE = ("notes", IF_NUMBERS)  # of a source's info: what is said when a run starts, and is no property of the data


class Prepared(NamedTuple):
    """What is kept of the training data.

    Args:
      length: number of training examples.
      example: shape and dtype of every array of one example, without the batch's axis.
      info: the sizes and names of the training source.
      prepared: what its reader has learned of it: statistics, categories, a vocabulary.
      fingerprint: of the training data.
      class_counts: number of examples of each class, where the labels are classes.
      splits: fingerprints of the splits that evaluations use, by name; none of a run of an earlier jaxprop.
    """

    length: int
    example: PyTree
    info: Mapping[str, Any]
    prepared: Mapping[str, Any]
    fingerprint: str
    class_counts: tuple[int, ...] = ()
    splits: Mapping[str, str] = {}


def prepared_of(train: Source, splits: Mapping[str, Source] = {}) -> Prepared:
    """Returns what is to be kept of a training source; reads one record.

    Args:
      train: the training source.
      splits: all that are open, of which the fingerprints are kept.

    Example:
      >>> source = Source(3, lambda i: {"inputs": np.zeros((len(i), 4), np.float32)}, {"classes": 2}, "f00d")
      >>> prepared_of(source).example["inputs"].shape
      (4,)
    """
    example = train.take(np.zeros(1, np.int64))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), dict(example))
    info = {name: value for name, value in train.info.items() if name not in _TOLD_ONCE}
    return Prepared(
        length=train.length,
        example=shapes,
        info=info,
        prepared=train.prepared,
        fingerprint=train.fingerprint,
        class_counts=_class_counts(train),
        splits={name: source.fingerprint for name, source in splits.items() if source is not train},
    )


def stand_in(prepared: Prepared) -> Source:
    """Returns a training source of the same sizes whose examples are zeros, from which the run's model can be built.

    Its `labels` have the classes of the real ones as often, in another order.

    Args:
      prepared: of the real one.
    """

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        return jax.tree.map(lambda x: np.zeros((len(indices), *x.shape), x.dtype), prepared.example)

    return Source(
        length=prepared.length,
        take=take,
        info=prepared.info,
        fingerprint=prepared.fingerprint,
        prepared=prepared.prepared,
        labels=lambda: np.repeat(np.arange(len(prepared.class_counts)), prepared.class_counts),
    )


def write(folder: Path, prepared: Prepared) -> None:
    """Writes `prepared.json`; raises RunFolderError where that cannot be."""
    held = prepared._asdict() | {"example": _described(prepared.example)}
    write_text(folder / NAME, json.dumps(held, indent=1, default=_plain) + "\n")


def read(folder: Path) -> Prepared | None:
    """Reads `prepared.json`; None where there is none, as in the folder of an earlier jaxprop.

    Raises:
      UsageError: it is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        held = read_json(path)
        return Prepared(**held | {"example": _abstract(held["example"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{path} is damaged ({type(error).__name__}); the run's own command, 'jaxprop train', writes it again"
        ) from error


def _class_counts(train: Source) -> tuple[int, ...]:
    labels = None if train.labels is None else train.labels()
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return ()
    return tuple(np.bincount(labels).tolist())


def _described(example: PyTree) -> Any:
    if isinstance(example, Mapping):
        return {name: _described(value) for name, value in example.items()}
    return [list(example.shape), np.dtype(example.dtype).name]


def _abstract(described: Any) -> PyTree:
    if isinstance(described, Mapping):
        return {name: _abstract(value) for name, value in described.items()}
    shape, dtype = described
    return jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays, which a reader's statistics may be, as JSON has them."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")
