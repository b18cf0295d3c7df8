"""Test examples that are training examples, too: a challenger may know them by heart, and is not judged by them."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from jaxprop.data.splits import subset
from jaxprop.types import Source

NO_INPUT = ("labels", "weight", "mask", "label_lengths", "targets", "boxes", "crowd")
_BATCH = 256


def digests(source: Source) -> np.ndarray:
    """Returns a digest of what a model is given of each example, uint64 `[N]`; labels are no part of it.

    Args:
      source: the examples.

    Example:
      >>> made = Source(3, lambda i: {"inputs": np.array([1.0, 2.0, 1.0])[i], "labels": i}, {}, "f00d")
      >>> found = digests(made)
      >>> (found[0] == found[2]).item(), (found[0] == found[1]).item()
      (True, False)
    """
    found = []
    for start in range(0, source.length, _BATCH):
        batch = source.take(np.arange(start, min(start + _BATCH, source.length)))
        names = ["inputs"] if "inputs" in batch else sorted(name for name in batch if name not in NO_INPUT)
        rows = [np.ascontiguousarray(batch[name]).reshape(len(batch[name]), -1) for name in names]
        for parts in zip(*rows, strict=True):
            digest = blake2b(digest_size=8)
            for part in parts:
                digest.update(part.tobytes())
            found.append(int.from_bytes(digest.digest(), "little"))
    return np.array(found, np.uint64)


def without(test: Source, seen: np.ndarray) -> tuple[Source, int]:
    """Returns the test examples that are no training examples, and how many are.

    Args:
      test: the test examples.
      seen: `digests` of the training examples.
    """
    both = np.isin(digests(test), seen)
    return (subset(test, np.flatnonzero(~both)), int(both.sum())) if both.any() else (test, 0)
