"""Splits of a source: a part of its examples held out, the same one in every run."""

from __future__ import annotations

import numpy as np

from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.order import permutation
from jaxprop.errors import DataError
from jaxprop.types import Source

_CHUNK = 4096  # records read at a time for their labels: their inputs come along, and may be larger than memory


def hold_out(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Splits a source into one to train on and one to validate by.

    Where each example has one integer label, both have the same proportion of every class.

    Args:
      source: all examples.
      fraction: of the examples that are held out, rounded up.
      seed: non-negative integer, `data.split_seed`: not the run's, which must not move examples.

    Returns:
      What stays, and what is held out.

    Raises:
      DataError: nothing would stay.

    Example:
      >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
      >>> source = Source(8, lambda i: {"labels": labels[i]}, {}, "f00d", labels=lambda: labels)
      >>> stays, held = hold_out(source, 0.25, seed=0)
      >>> stays.length, np.sort(held.take(np.arange(2))["labels"]).tolist()
      (6, [0, 1])
    """
    stays, held = held_out(labels_of(source), fraction, seed)
    if not len(stays):
        raise DataError(
            f"data.validation: {fraction:g} of the {source.length} training examples leaves none to train on; "
            "use a smaller fraction"
        )
    return parted(source, stays, held)


def parted(source: Source, stays: np.ndarray, held: np.ndarray) -> tuple[Source, Source]:
    """Returns the examples that stay and those held out as sources; what there is to tell is told of the first.

    Args:
      source: all examples.
      stays, held: indices of the two.
    """
    info = {name: value for name, value in source.info.items() if name != "notes"}
    return subset(source, stays), subset(source, held)._replace(info=info)


def held_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the examples that stay and of those held out, both sorted.

    Args:
      labels: of all examples, `[N, ...]`; one integer each makes the split stratified.
      fraction: of the examples that are held out, rounded up.
      seed: non-negative integer.

    Example:
      >>> stays, held = held_out(np.zeros((5, 2)), 0.3, seed=0)
      >>> len(stays), len(held), sorted([*stays.tolist(), *held.tolist()])
      (3, 2, [0, 1, 2, 3, 4])
    """
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        return stratified_split(labels, fraction, seed)
    chosen = permutation(len(labels), seed)[: int(np.ceil(fraction * len(labels)))]
    held = np.sort(chosen)
    return _others(len(labels), held), held


def subset(source: Source, indices: np.ndarray) -> Source:
    """Returns the examples of some indices as a source of their own.

    Args:
      source: the examples.
      indices: int `[M]` in `0..N-1`.

    Example:
      >>> source = Source(3, lambda i: {"inputs": 10 * i}, {}, "f00d")
      >>> subset(source, np.array([2, 0])).take(np.array([0]))["inputs"].tolist()
      [20]
    """
    labels, buckets, names, kept = source.labels, source.buckets, source.names, source.stored

    def take(chosen: np.ndarray) -> dict[str, np.ndarray]:
        return source.take(indices[chosen])

    return source._replace(
        length=len(indices),
        take=take,
        fingerprint=fingerprint("subset", source.fingerprint, indices),
        labels=None if labels is None else lambda: labels()[indices],
        buckets=None if buckets is None else buckets._replace(of=lambda: buckets.of()[indices]),
        names=None if names is None else lambda chosen: names(indices[chosen]),
        stored=None if kept is None else kept._replace(take=lambda chosen: kept.take(indices[chosen]), of=take),
    )


def labels_of(source: Source) -> np.ndarray:
    """Returns the labels of all records, `[N, ...]`; where the source has none at hand, it reads every record.

    Example:
      >>> labels_of(Source(3, lambda i: {"labels": i % 2}, {}, "")).tolist()
      [0, 1, 0]
    """
    if source.labels is not None:
        return source.labels()
    rows = np.arange(source.length)
    return np.concatenate([source.take(part)["labels"] for part in np.array_split(rows, -(-len(rows) // _CHUNK))])


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples so that the part held out has the same fraction of every class, to within one example.

    The counts are rounded by the largest-remainder method, so that the part has `ceil(fraction N)` examples.

    Args:
      labels: int `[N]`.
      fraction: of the examples that are held out.
      seed: non-negative integer.

    Returns:
      Sorted indices of the examples that stay and of those held out; together they are `0..N-1`.

    Example:
      >>> train, test = stratified_split(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0)
      >>> train.size, np.array([0, 0, 0, 0, 1, 1, 1, 1])[test].tolist()
      (6, [0, 1])
    """
    classes, counts = np.unique(labels, return_counts=True)
    wanted = counts * fraction
    quota = np.floor(wanted).astype(np.int64)
    missing = int(np.ceil(labels.size * fraction)) - int(quota.sum())
    quota[np.argsort(quota - wanted, kind="stable")[:missing]] += 1

    chosen = []
    for label, size in zip(classes.tolist(), quota.tolist(), strict=True):
        members = np.flatnonzero(labels == label)
        chosen.append(members[permutation(members.size, seed, label)[:size]])
    test = np.sort(np.concatenate(chosen))
    return _others(labels.size, test), test


def _others(length: int, chosen: np.ndarray) -> np.ndarray:
    left = np.ones(length, bool)
    left[chosen] = False
    return np.flatnonzero(left)
