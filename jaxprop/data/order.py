"""Seeded permutations that stay the same across machines and NumPy versions. Pure."""

from __future__ import annotations

import numpy as np


def permutation(length: int, *seeds: int) -> np.ndarray:
    """Returns a random permutation of `0..length-1` that depends on `length` and `seeds` only.

    Each index gets random bits in front, and the results are sorted. NumPy guarantees that the raw stream of a
    bit generator never changes, but gives no such guarantee for `Generator.permutation`, so a resumed run could
    not rely on that.

    Args:
      length: number of indices.
      seeds: non-negative integers, such as the run's seed and the epoch.

    Returns:
      int64 `[length]`.

    Example:
      >>> permutation(6, 0, 1).tolist()
      [4, 5, 1, 2, 0, 3]

    Reference:
      NEP 19, https://numpy.org/neps/nep-0019-rng-policy.html
    """
    index_bits = (length - 1).bit_length()
    raw = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(length)
    keys = (raw >> np.uint64(index_bits) << np.uint64(index_bits)) | np.arange(length, dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << index_bits) - 1)).astype(np.int64)
