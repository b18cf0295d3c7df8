"""Which examples a batch was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Drawn(NamedTuple):
    """The examples of one batch, row by row.

    Args:
      epoch: number of epochs that were completed before it.
      batch: its number in the epoch, from 0.
      examples: int64 `[B]`, index of each row's example in the source; rows that only pad repeat others.
      names: `examples -> ` what a person calls each; None where they have no place of their own.
    """

    epoch: int
    batch: int
    examples: np.ndarray
    names: Callable[[np.ndarray], list[str]] | None = None

    def named(self, rows: np.ndarray) -> list[str]:
        """Returns what a person calls the examples of some rows.

        Example:
          >>> Drawn(0, 3, np.array([7, 2])).named(np.array([1]))
          ['example 2']
        """
        examples = self.examples[rows]
        return [f"example {i}" for i in examples.tolist()] if self.names is None else self.names(examples)


def together(batches: Sequence[Drawn]) -> Drawn:
    """Returns the examples of several batches that one step took, named by the first of them.

    Example:
      >>> together([Drawn(0, 3, np.array([7, 2])), Drawn(0, 4, np.array([5, 1]))]).examples.tolist()
      [7, 2, 5, 1]
    """
    first = batches[0]
    return first._replace(examples=np.concatenate([batch.examples for batch in batches]))
