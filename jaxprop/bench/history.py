"""All documents in a folder as the course of each figure over time, machine by machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxprop.bench.compare import Line, compare_rows, known_of, machine_of, shown
from jaxprop.bench.document import Document, Row, read
from jaxprop.bench.ratio import Known
from jaxprop.errors import UsageError

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-:=+*#"  # for terminals without block characters
WIDTH = 40  # figures in a sparkline, the latest
OF_CONFIG = ("train", "roofline")  # sections of what a configuration does; the others measure the device
_Key = tuple[str, str, str, str]  # section, name and device of a row, and overrides


class Damaged(NamedTuple):
    """A file that is no document, and the sentence that says why."""

    name: str
    reason: str


class Entry(NamedTuple):
    """A figure in one document: the name of its file, when it was started, and the commit."""

    file: str
    started: str
    commit: str | None
    row: Row


class Track(NamedTuple):
    """One figure over time.

    Args:
      section, name, device: of its rows.
      overrides: of the configuration that was measured, such as `model.hidden=[512]`; empty without any.
      entries: the documents that have the row, the earliest first.
      line: the last document compared with the first figure; None where there is nothing to compare.
    """

    section: str
    name: str
    device: str
    overrides: str
    entries: list[Entry]
    line: Line | None

    @property
    def what(self) -> str:
        """The figure in words, but for its device."""
        return f"{self.section}: {self.name}" + f", {self.overrides}" * bool(self.overrides)

    @property
    def measured(self) -> list[Entry]:
        """The entries with a figure."""
        return [entry for entry in self.entries if entry.row.value is not None]

    @property
    def change(self) -> float | None:
        """Relative change of the figure from the first to the last; None where the last document has none."""
        found = self.measured
        if len(found) < 2 or not found[0].row.value or found[-1] is not self.entries[-1]:
            return None
        return (found[-1].row.value or 0.0) / found[0].row.value - 1


class Group(NamedTuple):
    """The figures of one command on one machine.

    Args:
      command: `device` or `train`.
      machine: in words.
      documents: how many there are.
      tracks: the figures, in the order of the latest document.
    """

    command: str
    machine: str
    documents: int
    tracks: list[Track]


class History(NamedTuple):
    """What a folder holds: documents by machine, and the files that are none."""

    groups: list[Group]
    damaged: list[Damaged]


def history(folder: str | Path) -> History:
    """Reads all documents of a folder, `*.json`, and follows each figure through them.

    Args:
      folder: with the documents.

    Returns:
      The figures by machine, and the files that are damaged.

    Raises:
      UsageError: there is no such folder, or it holds no document.
    """
    documents, damaged = _read_all(Path(folder))
    if not documents:
        first = f"; the first of {len(damaged)} files: {damaged[0].reason}" if damaged else ""
        raise UsageError(f"{folder}: holds no document of `jaxprop bench` (*.json){first}")
    groups: dict[tuple[str, str], list[tuple[str, Document]]] = {}
    for name, document in documents:
        groups.setdefault((document.command, machine(document)), []).append((name, document))
    return History([_group(*key, ordered(found)) for key, found in sorted(groups.items())], damaged)


def machine(document: Document) -> str:
    """The machine of a document in words."""
    return "; ".join(f"{name} {shown(value)}" for name, value in machine_of(document).items() if value is not None)


def ordered(documents: Sequence[tuple[str, Document]]) -> list[tuple[str, Document]]:
    """Documents by the time when they were started."""
    return sorted(documents, key=lambda pair: (pair[1].started, pair[0]))


def sparkline(values: Sequence[float], plain: bool = False) -> str:
    """Draws figures with one character each, the latest ones.

    Args:
      values: in the order of time.
      plain: whether to use only ASCII.

    Example:
      >>> sparkline([1, 2, 3, 2]), sparkline([5, 5])
      ('▁▅█▅', '▁▁')
    """
    blocks, values = PLAIN if plain else BLOCKS, values[-WIDTH:]
    low, high = min(values), max(values)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[int((value - low) * scale + 0.5)] for value in values)


def _read_all(folder: Path) -> tuple[list[tuple[str, Document]], list[Damaged]]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "there is no such folder"
        raise UsageError(f"{folder}: {what}; give a folder that holds documents of `jaxprop bench`")
    documents, damaged = [], []
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror}); give another folder") from None
    for path in paths:
        try:
            documents.append((path.name, read(path)))
        except UsageError as error:
            damaged.append(Damaged(path.name, str(error)))
    return documents, damaged


def _group(command: str, where: str, documents: Sequence[tuple[str, Document]]) -> Group:
    tracks: dict[_Key, list[Entry]] = {}
    for name, document in documents:
        for row in document.rows:
            entry = Entry(name, document.started, document.environment.commit, row)
            tracks.setdefault(_key(document, row), []).append(entry)
    latest = documents[-1][1]
    keys = dict.fromkeys([*(_key(latest, row) for row in latest.rows), *tracks])
    lines = _lines({key: tracks[key] for key in keys}, known_of(latest))
    return Group(command, where, len(documents), [Track(*key, tracks[key], lines.get(key)) for key in keys])


def _key(document: Document, row: Row) -> _Key:
    """What names the same figure in another document; the measured rates of the device have no overrides."""
    return (*row.key, overrides_of(document) if row.section in OF_CONFIG else "")


def overrides_of(document: Document) -> str:
    """Returns the overrides of the configuration that `bench train` has measured, in one order.

    Args:
      document: an older one has them among its targets.
    """
    given = document.arguments.get("overrides")
    targets = str(document.arguments.get("targets") or "")
    return str(given) if given else " ".join(sorted(word for word in targets.split() if "=" in word))


def _lines(tracks: Mapping[_Key, list[Entry]], known: Known) -> dict[_Key, Line]:
    """The last row of each, which may say why there is no figure any more, compared with the first figure."""
    firsts = {key: next(_measured(entries), None) for key, entries in tracks.items()}
    ends = [key for key, entries in tracks.items() if firsts[key] not in (None, entries[-1])]
    found: dict[_Key, Line] = {}
    for overrides in dict.fromkeys(key[-1] for key in ends):
        same = [key for key in ends if key[-1] == overrides]
        first = {key[:-1]: one.row for key in same if (one := firsts[key]) is not None}
        last = {key[:-1]: tracks[key][-1].row for key in same}
        found |= dict(zip(same, compare_rows(first, last, known), strict=True))
    return found


def _measured(entries: Sequence[Entry]) -> Iterator[Entry]:
    return (entry for entry in entries if entry.row.value is not None)
