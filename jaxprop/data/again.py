"""Records that are gone through more than once: kept while they are small, read again from their files otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Generic, TypeVar

import numpy as np

from jaxprop.errors import DataError

T = TypeVar("T")
KEPT = 256 * 2**20  # characters


def named(places: Callable[[], Iterable[str]]) -> Callable[[np.ndarray], list[str]]:
    """Returns `Source.names` of records whose places are read again when they are first asked for.

    Args:
      places: yields them from the start.

    Example:
      >>> named(lambda: ["a.csv:2", "a.csv:3"])(np.array([1]))
      ['a.csv:3']
    """
    known = cache(lambda: list(places()))
    return lambda indices: [known()[i] for i in indices.tolist()]


class Again(Generic[T]):
    """Gives the same records each time it is iterated.

    Args:
      read: yields them from the start; what it returns must not depend on the call.
      size: number of characters of a record.
      name: of the files, for messages.
      limit: characters that are kept in memory; default: KEPT.

    Example:
      >>> again = Again(lambda: iter(["ab", "c"]), len, "a.txt", limit=2)
      >>> list(again), list(again)
      (['ab', 'c'], ['ab', 'c'])
    """

    def __init__(self, read: Callable[[], Iterator[T]], size: Callable[[T], int], name: str, limit: int | None = None):
        self._read, self._size, self._name = read, size, name
        self._limit = KEPT if limit is None else limit
        self._kept: list[T] | None = None
        self._length: int | None = None

    def __iter__(self) -> Iterator[T]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[T] | None = []
        held = length = 0
        for record in self._read():
            length += 1
            held += self._size(record)
            kept = kept if held <= self._limit else None
            if kept is not None:
                kept.append(record)
            yield record
        if self._length not in (None, length):
            raise DataError(f"{self._name} has changed while it was being read; start again")
        self._length, self._kept = length, kept
