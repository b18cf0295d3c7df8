"""Collects the rows of a command into its document, and writes that after each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import jax

from jaxprop.bench import document
from jaxprop.bench.document import Document, Fact, Row
from jaxprop.bench.environment import environment

EVERY = 1.0  # seconds between two writings of the file; its rows are kept in memory meanwhile


class Session:
    """The results of one command, as they come.

    Args:
      command: `device` or `train`.
      arguments: of the command, for the document.
      devices: that are measured.
      path: of the file, or None to keep the results in memory only.
      show: is given the document after every row.
    """

    def __init__(
        self,
        command: Literal["device", "train"],
        arguments: Mapping[str, Fact],
        devices: Sequence[jax.Device],
        path: Path | None,
        show: Callable[[Document], None],
    ):
        self.path, self._show, self._start, self._written = path, show, time.monotonic(), float("-inf")
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._notes: list[str] = []
        self._head = Document(
            schema_=document.SCHEMA, command=command, arguments=dict(arguments),
            started=datetime.now(UTC).isoformat(timespec="seconds"), environment=environment(list(devices)),
        )  # fmt: skip
        self._write()  # a folder that cannot be written is better found now

    @property
    def document(self) -> Document:
        """The results so far."""
        return self._made(complete=False)

    def note(self, sentence: str) -> None:
        """Adds a sentence about the measurement as a whole, once."""
        if sentence and sentence not in self._notes:
            self._notes.append(sentence)

    def add(self, row: Row) -> None:
        """Adds a row, or replaces the one of the same name."""
        self._rows[row.key] = row
        if time.monotonic() - self._written > EVERY:
            self._write()
        self._show(self.document)

    def extend(self, rows: Iterable[Row]) -> None:
        """Adds rows as they come."""
        for row in rows:
            self.add(row)

    def close(self, *, complete: bool) -> Document:
        """Writes the file for the last time.

        Args:
          complete: whether everything was measured.

        Returns:
          The results.
        """
        found = self._made(complete=complete)
        if self.path is not None:
            document.write(self.path, found)
        return found

    def _made(self, *, complete: bool) -> Document:
        return self._head.model_copy(
            update={
                "rows": [*self._rows.values()], "notes": [*self._notes], "complete": complete,
                "seconds": round(time.monotonic() - self._start, 1),
            }
        )  # fmt: skip

    def _write(self) -> None:
        if self.path is not None:
            document.write(self.path, self._made(complete=False))
        self._written = time.monotonic()
