"""Bad records of a file: counted, named, and skipped up to `data.max_bad_fraction`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from jaxprop.errors import DataError

_NAMED = 3  # records that a message names; the others are counted


class BadRecords:
    """Collects the records that a reader cannot use, before training begins.

    A reader adds each bad record, leaves it out, and calls `notes` once the whole file has been looked at.

    Args:
      allowed: `data.max_bad_fraction`, the fraction of the records that may be bad; with 0 the first one is an error.
      unit: what a record is called in messages, in the singular.

    Example:
      >>> bad = BadRecords(0.5, unit="row")
      >>> bad.add("wine.csv:3", "has 2 values, but the header has 3 columns")
      >>> bad.notes(total=4)
      ['skipped 1 of 4 rows that cannot be used: wine.csv:3: has 2 values, but the header has 3 columns']
    """

    def __init__(self, allowed: float, *, unit: str = "record"):
        self.count = 0
        self._allowed = allowed
        self._unit = unit
        self._named: list[str] = []

    def add(self, where: str, why: str, *, before: int = 0) -> None:
        """Counts one bad record.

        Args:
          where: the record as `file:line`, or the path of a file that is a record.
          why: what is wrong with it, as a clause that follows the place: `is not UTF-8`.
          before: number of good records before it in its file, of which only `BadInputs` takes note.

        Raises:
          DataError: no record may be bad.
        """
        del before
        self.count += 1
        if len(self._named) < _NAMED:
            self._named.append(f"{where}: {why}")
        if self._allowed == 0:
            raise DataError(
                f"{where}: {why}; repair or remove this {self._unit}, or set data.max_bad_fraction: 0.01 to skip up to "
                f"1 % of the {self._unit}s"
            )

    def notes(self, total: int) -> list[str]:
        """Returns the sentence for `info["notes"]` on what is skipped; an empty list if there is nothing to say.

        Args:
          total: number of records, the bad ones among them.

        Raises:
          DataError: more are bad than are allowed, or no good one is left.
        """
        if not self.count:
            return []
        more = f" (and {self.count - len(self._named)} more)" if self.count > len(self._named) else ""
        named = "; ".join(self._named) + more
        if self.count >= total:
            raise DataError(f"none of the {total} {self._unit}s can be used: {named}; repair the file")
        if self.count > self._allowed * total:
            enough = math.ceil(1000 * self.count / total) / 1000
            fix = f", or set data.max_bad_fraction: {enough:g}" if enough < 1 else ""
            raise DataError(
                f"{self.count} of {total} {self._unit}s cannot be used, more than data.max_bad_fraction "
                f"({self._allowed:g}) allows: {named}; repair them{fix}"
            )
        return [f"skipped {self.count} of {total} {self._unit}s that cannot be used: {named}"]


class BadInput(NamedTuple):
    """A record that cannot be predicted.

    Args:
      before: number of good records of its source that come before it, so that answers keep the order of the records.
      name: the record as `file:line`, or a path.
      why: what is wrong with it, as a clause.
    """

    before: int
    name: str
    why: str


class BadInputs(BadRecords):
    """Collects the records that cannot be predicted: each is told, and none is an error.

    Args:
      paths: what is predicted. One that cannot be read at all is a bad record too, unless nothing else is there.

    Example:
      >>> bad = BadInputs(["a.csv", "b.csv"])
      >>> bad.add("a.csv:3", "has 2 values")
      >>> bad.good += 5
      >>> with bad.reading("b.csv"):
      ...     raise DataError("b.csv: is damaged")
      >>> [tuple(one) for one in bad.found]
      [(0, 'a.csv:3', 'has 2 values'), (5, 'b.csv', 'is damaged')]
    """

    def __init__(self, paths: Sequence[str] = ()):
        super().__init__(1.0)
        self.found: list[BadInput] = []
        self.good = 0  # good records so far, counted by the reader
        self._alone = len(paths) == 1

    def add(self, where: str, why: str, *, before: int = 0) -> None:
        """Collects one bad record; `before` is added to the number of good ones so far."""
        self.found.append(BadInput(self.good + before, where, why))

    def notes(self, total: int) -> list[str]:
        """Returns an empty list: each of the records has been told."""
        del total
        return []

    @contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """Makes a path that cannot be read, or not to its end, a bad record.

        Raises:
          DataError: it is the only one, and nothing of it could be read.
        """
        try:
            yield
        except DataError as error:
            if self._alone and not self.good and not self.found:
                raise
            self.add(path, str(error).removeprefix("input: ").removeprefix(f"{path}: "))
