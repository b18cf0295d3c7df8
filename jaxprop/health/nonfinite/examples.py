"""Which examples of a batch make a step non-finite, found by halving the batch. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxprop.health.nonfinite.interpret import is_finite
from jaxprop.types import Batch

TRIES = 256  # evaluations
ALL = 4  # examples that must each fail by themselves, none passing, before all are taken to


def offending(run: Callable[[Batch], Any], batch: Batch) -> tuple[tuple[int, ...], int]:
    """Finds the examples that suffice to make a result non-finite.

    A part of the batch is tried by repeating its examples up to the batch's size, so that nothing is compiled again.
    An example is named if it fails alone; where only several together do, these are named.

    Args:
      run: `batch -> results`, any pytree.
      batch: arrays `[B, ...]`; what has another first axis stays as it is.

    Returns:
      Their numbers, and how many examples there are; all numbers if every one that was tried fails alone, and none if
      the batch cannot be taken apart.

    Example:
      >>> import jax.numpy as jnp
      >>> offending(lambda batch: jnp.log(batch["x"]).sum(), {"x": jnp.array([1.0, 0.0, 2.0, 0.0])})
      ((1, 3), 4)
    """
    size = batch_size(batch)
    if size < 1:
        return (), 0
    tried = 0

    def fails(numbers: np.ndarray) -> bool:
        nonlocal tried
        tried += 1
        chosen = np.resize(numbers, size)
        part = jax.tree.map(lambda leaf: leaf[chosen] if np.shape(leaf)[:1] == (size,) else leaf, batch)
        return not all(is_finite(leaf) for leaf in jax.tree.leaves(run(part)))

    spread = np.unique(np.linspace(0, size - 1, min(size, ALL)).round().astype(int))
    if all(fails(spread[i : i + 1]) for i in range(len(spread))):
        return tuple(range(size)), size
    found: list[int] = []
    waiting = [np.arange(size)]
    while waiting and tried < TRIES:
        numbers = waiting.pop()
        if len(numbers) == 1:
            found += numbers.tolist()
            continue
        halves = [half for half in np.array_split(numbers, 2) if fails(half)]
        if not halves and len(numbers) < size:
            found += numbers.tolist()  # only together
        waiting += reversed(halves)
    return tuple(sorted(found)), size


def batch_size(batch: Batch) -> int:
    """Returns the length of the first axis that most arrays of a batch share; 0 where that is not clear.

    Example:
      >>> batch_size({"x": np.ones((4, 2)), "y": np.ones(4), "scale": np.float32(1)})
      4
    """
    sizes = Counter(np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf))
    (size, count), *others = [*sizes.most_common(2), (0, 0)][:2] if sizes else [(0, 0), (0, 0)]
    return size if count > others[0][1] else 0
