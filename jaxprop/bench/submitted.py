"""Checks a document that is to be published in `docs/results/`: complete, consistent, possible, and naming nobody."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from jaxprop.bench.document import Document, Row, read
from jaxprop.bench.rounds import NOISY
from jaxprop.bench.samples import estimate
from jaxprop.core.datasheet import sheet_of_kind
from jaxprop.errors import UsageError, printable

LARGEST = 5_000_000  # bytes of a file

# Texts that say where a file lies, or whose it is. A single slash, as in `TFLOP/s` or `cl/123`, is none.
TELLING = {
    "a path": re.compile(r"(?<![\w/.:])(?:~[\w.-]*|/[\w.+@~-]+)/[\w.+@~-]+|(?<!\w)[A-Za-z]:\\|\\\\\w"),
    "an address": re.compile(r"[\w.+-]+@[\w-]+\.\w+|(?<![\w.])(?:10|127|172|192)(?:\.\d{1,3}){3}(?![\w.])"),
    "a host name": re.compile(
        r"(?<![\w.-])(?<!://)(?:localhost|[a-z][\w-]*(?:\.[\w-]+)*\.(?:local|lan|internal|corp|home|com|net|org|edu|io))(?![\w-])",
        re.IGNORECASE,
    ),
}


def problems(path: str | Path) -> list[str]:
    """Checks a file.

    Args:
      path: of a document.

    Returns:
      One sentence for each problem, none if the file can be published.

    Raises:
      UsageError: there is no such file, it is cut off, or it is of another schema.
    """
    path = Path(path)
    document = read(path)
    found = list(_problems(document))
    if path.stat().st_size > LARGEST:
        found.append(f"the file has {path.stat().st_size:,} bytes, more than {LARGEST:,}; measure for a shorter time")
    expected = file_name(document)
    if path.name != expected:
        found.append(f"the file is called {path.name!r}; rename it to {expected!r}")
    return found


def file_name(document: Document) -> str:
    """The name of a published file: device, number of devices if several, command and date.

    Args:
      document: any.

    Returns:
      Such as `nvidia-h100-80gb-hbm3-device-2026-11-27.json`.
    """
    kinds = [str(device.get("kind")) for device in document.environment.devices]
    # All processors call themselves `cpu`, so theirs is the name that the kernel gives.
    name = document.environment.host.get("cpu") if kinds[:1] == ["cpu"] else "-".join(dict.fromkeys(kinds))
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", str(name).lower())).strip("-")[:60]
    many = f"-x{len(kinds)}" if len(kinds) > 1 else ""
    return f"{slug or 'unknown'}{many}-{document.command}-{document.started[:10]}.json"


def _problems(document: Document) -> Iterator[str]:
    if not document.complete:
        yield "the document is not complete; run the command to its end"
    if not re.match(r"\d{4}-\d\d-\d\dT", document.started):
        yield f"started is {printable(document.started)[:40]!r}, expected a UTC time such as 2026-11-27T12:00:00Z"
    if not document.environment.devices:
        yield "the document names no device"
    if not any(row.value is not None for row in document.rows):
        yield "the document has no figure"
    keys = [row.key for row in document.rows]
    for key in dict.fromkeys(key for key in keys if keys.count(key) > 1):
        yield f"{_named(key)}: stands twice"
    for row in document.rows:
        for problem in _row_problems(row, document):
            yield f"{_named(row.key)}: {problem}"
    for place, text in _texts(document):
        for what, pattern in TELLING.items():
            told = pattern.search(text)
            if told:
                yield f"{place}: holds {what}, {printable(told[0])[:60]!r}; take it out"


def _row_problems(row: Row, document: Document) -> Iterator[str]:
    if row.status not in ("ok", "noisy"):
        if row.value is not None:
            yield f"has a figure and the status {row.status!r}"
        if not row.message:
            yield f"has the status {row.status!r} without a message"
        return
    if row.value is None:
        yield f"has the status {row.status!r} and no figure"
        return
    rounds = [one for one in row.samples if one]
    if any(one <= 0 for samples in rounds for one in samples):
        yield "has a sample that is not above 0"
    elif rounds:
        seconds = estimate(rounds)
        told = row.per_call / seconds.middle if row.better == "higher" else row.per_call * seconds.middle
        if not math.isclose(told, row.value, rel_tol=1e-3):
            yield f"the figure is {row.value:.4g}, but its samples give {told:.4g}"
        if row.status == "ok" and len(rounds) > 1 and seconds.noise > NOISY:
            yield f"its interval is {seconds.noise:.0%} of it, more than {NOISY:.0%}, so its status has to be 'noisy'"
    limit = _limit(row, document)
    if limit is not None and row.value > limit:
        yield f"{row.value:.4g} {row.unit} is more than the {limit:.4g} of the datasheet"
    share = row.facts.get("of_datasheet")
    if isinstance(share, int | float) and share > 1:
        yield f"is {share:.0%} of the datasheet"


def _limit(row: Row, document: Document) -> float | None:
    """What the datasheet says of a figure; caches and several devices together may be faster than one memory."""
    devices = document.environment.devices
    if not row.device.isdigit() or int(row.device) >= len(devices):
        return None
    sheet = sheet_of_kind(str(devices[int(row.device)].get("kind")))
    if sheet is None:
        return None
    return sheet.tflops.get(str(row.facts.get("dtype"))) if row.unit == "TFLOP/s" else None


def _texts(document: Document) -> Iterator[tuple[str, str]]:
    """Every text that is anybody's, and where it stands."""

    def walk(place: str, value: object) -> Iterator[tuple[str, str]]:
        if isinstance(value, str):
            yield place, value
        elif isinstance(value, dict):
            for name, item in value.items():
                yield from walk(f"{place}.{name}" if place else str(name), item)
                yield from walk(f"{place}: a name", str(name)) if place else ()
        elif isinstance(value, list):
            for i, item in enumerate(value):
                yield from walk(f"{place}.{i}", item)

    rows = [row.model_copy(update={"samples": []}) for row in document.rows]
    yield from walk("", document.model_copy(update={"rows": rows}).model_dump(by_alias=True))


def _named(key: tuple[str, str, str]) -> str:
    return printable(f"{key[0]}, {key[1]}, device {key[2]}")


def check(path: str | Path) -> list[str]:
    """As `problems`, where a file that cannot be read is a problem, too."""
    try:
        return problems(path)
    except UsageError as error:
        return [str(error)]
