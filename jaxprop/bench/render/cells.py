"""What files show of a document beside its tables. Cells are plain text, which is escaped by what writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from jaxprop.bench.document import Document, Fact, Row
from jaxprop.bench.render.tables import Table

METHOD = (
    "All figures are measured in turn, a fraction of a second each, and then again, until the interval of each is "
    "narrow enough or the time is used up.",
    "A figure is the median of all its samples, with an interval of 95 %. All samples are in the JSON file; none is "
    "left out as an outlier.",
    "Data are random, results are checked, and a rate above the datasheet is an error.",
    "A/A is the relative difference between the medians of even and odd rounds, which measured the same program.",
)
NUMBER = re.compile(r"[-+±]?[\d.]")
READ = {"clock_mhz": "MHz", "temperature_c": "°C", "power_w": "W"}  # what could be read of the device, and its unit


def all_figures(document: Document) -> Table:
    """Every figure of a document with what belongs to it, one a line. Columns that would be empty are left out.

    Args:
      document: any.
    """
    headers = ["section", "what", "device", "figure", "±", "A/A", "of datasheet", "device while measured", "remarks"]
    rows = [
        [row.section, row.name, row.device, figure(row), spread(row), percent(row.drift),
         percent(row.facts.get("of_datasheet")), readings(row), remarks(row)]
        for row in document.rows
    ]  # fmt: skip
    several = len({row.device for row in document.rows}) > 1
    kept = [i for i in range(len(headers)) if any(row[i] for row in rows) and (i != 2 or several)]
    return Table("All figures", [headers[i] for i in kept], [[row[i] for i in kept] for row in rows])


def right(table: Table) -> set[int]:
    """Indices of the columns that hold numbers, which are aligned to the right.

    Args:
      table: any.

    Example:
      >>> right(Table("", ["a", "b"], [["x", "1.5 ms"], ["y", ""]]))
      {1}
    """
    columns = range(1, len(table.rows[0]) if table.rows else 0)  # the first one says what a row is
    return {
        i
        for i in columns
        if any(row[i] for row in table.rows) and all(NUMBER.match(row[i]) for row in table.rows if row[i])
    }


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
