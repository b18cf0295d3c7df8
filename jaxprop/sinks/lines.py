"""Reads JSONL files that may grow, be truncated or be damaged while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from jaxprop.untrusted.files import MOST_LINE, open_to_read, parse_json

BLOCK = 4 << 20  # bytes parsed at a time
MARK = 64  # bytes before the current position that must be unchanged at the next reading


class Tail:
    """The position up to which a file has been read, so that the next reading takes in only what was added.

    An incomplete last line is left for the next reading, since it may still be being written. A file that was
    replaced or truncated, as by a rollback, is read again from its start.

    Args:
      path: the file; it need not exist.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "metrics.jsonl"
      ...     tail = Tail(path)
      ...     _ = path.write_text('{"step": 1}\\nnoise\\n{"st')
      ...     again, blocks = tail.more()
      ...     again, list(blocks), tail.damaged, tail.cut
      (True, [[{'step': 1}]], 1, True)
    """

    def __init__(self, path: Path):
        self.path = path
        self.damaged = 0  # number of lines that are not JSON objects
        self.cut = False  # whether the last line is incomplete
        self._dropping = False  # in the middle of a line that is too long
        self._place = 0
        self._mark = b""
        self._identity: tuple[int, int] | None = None

    def more(self) -> tuple[bool, Iterator[list[dict[str, Any]]]]:
        """Returns whether the file is read from its start again, and the lines added since, in blocks.

        Raises:
          OSError: the file exists and cannot be read, or is a link or another thing than a regular file.
        """
        again = not self._continues()
        if again:
            self.damaged, self.cut, self._dropping, self._place, self._mark = 0, False, False, 0, b""
        return again, self._blocks()

    def _continues(self) -> bool:
        try:
            stat = self.path.lstat()
        except FileNotFoundError:
            self._identity = None
            return False
        same = self._identity == (stat.st_dev, stat.st_ino) and stat.st_size >= self._place
        self._identity = (stat.st_dev, stat.st_ino)
        if not same:
            return False
        with open_to_read(self.path) as file:
            file.seek(self._place - len(self._mark))
            return file.read(len(self._mark)) == self._mark

    def _blocks(self) -> Iterator[list[dict[str, Any]]]:
        if self._identity is None:
            return
        with open_to_read(self.path) as file:
            file.seek(self._place)
            rest = b""
            while read := file.read(BLOCK):
                if self._dropping:
                    read = self._without_rest(read)
                whole, end, rest = (rest + read).rpartition(b"\n")
                if end:
                    self._pass(whole + end)
                    yield self._parsed(whole)
                if len(rest) > MOST_LINE:  # it would be copied with each block
                    self._pass(rest)
                    self.damaged, self._dropping, rest = self.damaged + 1, True, b""
            self.cut = bool(rest) or self._dropping

    def _without_rest(self, read: bytes) -> bytes:
        """A block without what it has of a line that is too long."""
        dropped, end, rest = read.partition(b"\n")
        self._pass(dropped + end)
        self._dropping = not end
        return rest

    def _pass(self, read: bytes) -> None:
        self._place += len(read)
        self._mark = (self._mark + read[-MARK:])[-MARK:]

    def _parsed(self, whole: bytes) -> list[dict[str, Any]]:
        lines = [line for line in whole.split(b"\n") if line.strip()]
        try:
            parsed = from_json(
                b"[" + b",".join(lines) + b"]"
            )  # parsed as one list, which is three times as fast as `json`
            if len(parsed) != len(lines):  # damaged lines can be valid when joined with others
                raise ValueError
        except (ValueError, RecursionError):
            parsed = [_loaded(line) for line in lines]
        kept = [item for item in parsed if type(item) is dict]
        self.damaged += len(lines) - len(kept)
        return kept


def _loaded(line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None
