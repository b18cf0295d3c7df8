"""What tables show of a document, for every kind of output: cells are plain text, escaped by who prints them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jaxprop.bench.document import Document, Fact, Row

METHOD = (
    "All figures are measured in turn, a fraction of a second each, and then again, until the interval of each is "
    "narrow enough or the time is used up.",
    "A figure is the median of all its samples, with an interval of 95 %. All samples are in the JSON file; none is "
    "left out as an outlier.",
    "Data are random, results are checked, and a rate above the datasheet is an error.",
    "A/A is the relative difference between the medians of even and odd rounds, which measured the same program.",
)
TITLES = {
    "matmul": "Matrix products", "memory": "Memory bandwidth", "transfer": "Between host and device",
    "dispatch": "Cost of a call", "compile": "Compile time", "collectives": "Collectives", "train": "Train steps",
}  # fmt: skip
READ = {"clock_mhz": "MHz", "temperature_c": "°C", "power_w": "W"}  # what could be read of the device, and its unit


class Table(NamedTuple):
    """A section of a document.

    Args:
      title: heading.
      header: of the columns.
      rows: cells, as many as there are columns.
      right: indices of columns that are aligned to the right.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    right: tuple[int, ...]


def tables(document: Document) -> Iterator[Table]:
    """The sections of a document, in the order of their first figure.

    Args:
      document: any.

    Yields:
      A table a section. Columns that would be empty are left out.
    """
    for section in dict.fromkeys(row.section for row in document.rows):
        rows = [row for row in document.rows if row.section == section]
        header = ["what", "device", "figure", "±", "A/A", "of datasheet", "device while measured", "remarks"]
        cells = [
            [row.name, row.device, figure(row), spread(row), percent(row.drift), percent(row.facts.get("of_datasheet")),
             readings(row), remarks(row)]
            for row in rows
        ]  # fmt: skip
        devices = {row.device for row in rows}
        kept = [
            i for i in range(len(header))
            if i in (0, 2) or (i == 1 and len(devices) > 1) or (i > 2 and any(one[i] for one in cells))
        ]  # fmt: skip
        yield Table(
            title=TITLES.get(section, section),
            header=[header[i] for i in kept],
            rows=[[one[i] for i in kept] for one in cells],
            right=tuple(place for place, i in enumerate(kept) if i in (2, 3, 4, 5)),
        )


def figure(row: Row) -> str:
    """A row's figure with its unit, or why there is none.

    Example:
      >>> figure(Row(section="a", name="b", unit="ms", value=12.3456))
      '12.35 ms'
      >>> figure(Row(section="a", name="b", status="out_of_memory"))
      'out of memory'
    """
    if row.value is None:
        return row.status.replace("_", " ") if row.status not in ("ok", "noisy") else ""
    return f"{number(row.value)} {row.unit}".rstrip()


def number(value: float) -> str:
    """Four significant digits, without an exponent where there can be none.

    Example:
      >>> number(12345.6), number(0.0123456), number(3.0), number(1e-9)
      ('12,346', '0.01235', '3.000', '1.000e-09')
    """
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3e}"
    return f"{value:#.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.3e}"


def spread(row: Row) -> str:
    """Half of the interval's width, relative to the figure."""
    if not row.value or row.low is None or row.high is None:
        return ""
    return f"{(row.high - row.low) / 2 / abs(row.value):.1%}"


def percent(value: Fact) -> str:
    """A share as text, empty where there is none."""
    return f"{value:.1%}" if isinstance(value, int | float) and not isinstance(value, bool) else ""


def readings(row: Row) -> str:
    """Clock, temperature, power and reasons for throttling, as far as they could be read."""
    found = [
        f"{value:,.0f} {unit}" for name, unit in READ.items() if isinstance(value := row.facts.get(name), int | float)
    ]
    throttled = row.facts.get("throttled")
    return ", ".join([*found, *([f"throttled: {throttled}"] if throttled else [])])


def remarks(row: Row) -> str:
    """What there is to say about a row."""
    noisy = ["noisy"] if row.status == "noisy" else []
    return ": ".join([*noisy, *([row.message] if row.message else [])])


def circumstances(document: Document) -> Iterator[tuple[str, str]]:
    """Where the figures come from, as names and values.

    Args:
      document: any.
    """
    found = document.environment
    yield "started", f"{document.started}; measured for {document.seconds:,.0f} s"
    if not document.complete:
        yield "complete", "no: the command was ended before all was measured"
    for i, device in enumerate(found.devices):
        others = ", ".join(f"{name} {text(value)}" for name, value in device.items() if name != "kind" and value)
        yield f"device {i}", f"{text(device.get('kind'))} ({others})" if others else text(device.get("kind"))
    yield "host", ", ".join(f"{name} {text(value)}" for name, value in found.host.items() if value is not None)
    yield "versions", ", ".join(f"{name} {value}" for name, value in found.versions.items() if value)
    yield "settings", ", ".join(f"{name}={value}" for name, value in found.flags.items()) or "none"
    yield "commit", found.commit or "none"
    if document.arguments:
        yield "arguments", ", ".join(f"{name}={text(value)}" for name, value in document.arguments.items())


def text(value: Fact) -> str:
    """A fact as text; large numbers with separators."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else "none" if value is None else str(value)


def title(document: Document) -> str:
    """What a document is called: its devices and its command."""
    kinds = [text(device.get("kind")) for device in document.environment.devices]
    named = ", ".join(
        kind if kinds.count(kind) == 1 else f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)
    )
    if named.lower() == "cpu":
        named = text(document.environment.host.get("cpu")) if document.environment.host.get("cpu") else "CPU"
    return f"{named}: {'train steps' if document.command == 'train' else 'what the device can do'}"
