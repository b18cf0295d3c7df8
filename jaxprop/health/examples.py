"""Which examples of a batch make a step non-finite, found by halving the batch. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxprop.health.interpret import is_finite
from jaxprop.types import Batch

TRIES = 256  # evaluations
ALL = 4  # examples that must each fail by themselves, none passing, before all are taken to


def offending(run: Callable[[Batch], Any], batch: Batch) -> tuple[tuple[int, ...], int]:
    """Finds the examples that suffice to make a result non-finite.

    A part of the batch is tried by repeating its examples up to the batch's size, so that nothing is compiled again.
    An example is named if it fails alone; where only several together do, these are named.

    Args:
      run: `batch -> results`, any pytree.
      batch: arrays `[B, ...]`.

    Returns:
      Their numbers, and how many examples there are; all numbers if every one that was tried fails alone, and none if
      the batch cannot be taken apart.

    Example:
      >>> import jax.numpy as jnp
      >>> offending(lambda batch: jnp.log(batch["x"]).sum(), {"x": jnp.array([1.0, 0.0, 2.0, 0.0])})
      ((1, 3), 4)
    """
    leaves = jax.tree.leaves(batch)
    sizes = {np.shape(leaf)[:1] for leaf in leaves}
    if len(sizes) != 1 or () in sizes or (size := next(iter(sizes))[0]) < 1:
        return (), 0
    tried = 0

    def fails(numbers: np.ndarray) -> bool:
        nonlocal tried
        tried += 1
        chosen = np.resize(numbers, size)
        part = jax.tree.map(lambda leaf: leaf[chosen], batch)
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
