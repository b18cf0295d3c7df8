"""A document as tables for a person: what is alike stands in columns beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxprop.bench.document import Document, Row


class Table(NamedTuple):
    """One table.

    Args:
      title: what it shows, with the unit.
      headers: of its columns.
      rows: of cells.
    """

    title: str
    headers: list[str]
    rows: list[list[str]]


def tables(document: Document) -> list[Table]:
    """Returns the tables of a document, one a section and device.

    Args:
      document: of `device` or `train`, complete or not.
    """
    sections = list(dict.fromkeys((row.section, row.device) for row in document.rows))
    several = len({device for _, device in sections} - {"all"}) > 1
    found = []
    for section, device in sections:
        rows = [row for row in document.rows if (row.section, row.device) == (section, device)]
        where = f", device {device}" if several and device != "all" else ""
        found += SECTIONS.get(section.partition(" of ")[0], _list)(f"{section}{where}", rows)
    return found


def cell(row: Row | None) -> str:
    """A figure with half the width of its interval, or why there is none.

    Example:
      >>> cell(Row(section="matmul", name="a", unit="TFLOP/s", value=2.0, low=1.96, high=2.04))
      '2 ±2.0%'
    """
    if row is None:
        return ""
    if row.value is None:
        return {"out_of_memory": "out of memory"}.get(row.status, row.status)
    low, high = (row.value if end is None else end for end in (row.low, row.high))
    width = (high - low) / (2 * row.value) if row.value else 0.0
    return f"{row.value:.4g} ±{width:.1%}" + (" noisy" if row.status == "noisy" else "")


def _crossed(title: str, rows: Sequence[Row], down: Callable[[Row], str], across: Callable[[Row], str]) -> list[Table]:
    """A table with one figure for each pair of two facts; the best of a column is marked."""
    columns, lines = (list(dict.fromkeys(map(name, rows))) for name in (across, down))
    at = {(down(row), across(row)): row for row in rows}
    best = {column: max((row.value or 0 for row in rows if across(row) == column), default=0) for column in columns}

    def shown(row: Row | None) -> str:
        return cell(row) + (" *" if row is not None and row.value and row.value == best[across(row)] else "")

    # A dtype that the device does not have is a sentence, not a column.
    columns = [column for column in columns if best[column]]
    unit = next((row.unit for row in rows if row.unit), "")
    return [
        Table(f"{title}, {unit} (* best of its column)", ["", *columns], [
            [line, *(shown(at.get((line, column))) for column in columns)]
            for line in lines
            if any(at.get((line, column)) for column in columns)
        ]),
        *_messages([row for row in rows if row.message]),
    ]  # fmt: skip


def _messages(rows: Sequence[Row]) -> list[Table]:
    return [Table("not measured", ["figure", "why"], [[row.name, row.message] for row in rows])] if rows else []


def _products(title: str, rows: Sequence[Row]) -> list[Table]:
    return _crossed(
        title, rows, lambda row: " x ".join(str(row.facts.get(key)) for key in "mkn"),
        lambda row: str(row.facts.get("dtype", "float32")),
    )  # fmt: skip


def _memory(title: str, rows: Sequence[Row]) -> list[Table]:
    return _crossed(title, rows, lambda row: row.name.partition(" ")[2], lambda row: row.name.partition(" ")[0])


def _collectives(title: str, rows: Sequence[Row]) -> list[Table]:
    """Both bandwidths; see `device/collectives.py`."""
    from jaxprop.bench.device.collectives import bus_bandwidth  # which loads jax, and few documents have collectives

    lines = []
    for row in rows:
        bus = f"{bus_bandwidth(row.value, row.facts):.4g}" if row.value and row.facts.get("bus_factor") else ""
        lines.append([row.name, cell(row), bus, row.message])
    headers = ["collective, data of one device", "algorithm, GB/s", "bus, GB/s", ""]
    return [Table(f"{title}: bytes of one device over the time; and what each link carries", headers, lines)]


def _list(title: str, rows: Sequence[Row]) -> list[Table]:
    lines = [[row.name, cell(row), row.unit if row.value is not None else "", row.message] for row in rows]
    if not any(line[3] for line in lines):
        return [Table(title, ["", "figure", "unit"], [line[:3] for line in lines])]
    return [Table(title, ["", "figure", "unit", ""], lines)]


def _sustained(title: str, rows: Sequence[Row]) -> list[Table]:
    lines = []
    for row in rows:
        facts = row.facts
        conditions = [
            f"{label} {facts[name]}{unit}"
            for name, label, unit in (
                ("clock_mhz", "clock", " MHz"), ("temperature_c", "at", " °C"), ("power_w", "power", " W"),
                ("throttled", "throttled by", ""),
            )
            if name in facts
        ]  # fmt: skip
        share = facts.get("of_burst")
        lines.append([
            row.name, cell(row), row.unit, f"{share:.1%}" if isinstance(share, float) else "", ", ".join(conditions),
        ])  # fmt: skip
    return [Table(f"{title} over {rows[0].facts.get('seconds')} s", ["", "figure", "unit", "of the burst", ""], lines)]


STEP_COLUMNS: dict[str, Callable[[Row], str]] = {
    "step": lambda row: cell(row),
    "examples/s": lambda row: _fact(row, "examples_per_s", "{:,.0f}"),
    "tokens/s": lambda row: _fact(row, "tokens_per_s", "{:,.0f}"),
    "TFLOP/s": lambda row: _fact(row, "step_tflops", "{:.3g}"),
    "MFU": lambda row: _fact(row, "mfu", "{:.1%}"),
    "of datasheet": lambda row: _fact(row, "mfu_datasheet", "{:.1%}"),
    "products": lambda row: _fact(row, "products_share", "{:.0%}"),
    "signals": lambda row: _fact(row, "signals_cost", "{:.3f}"),
    "memory, MiB": lambda row: _fact(row, "planned_bytes", "{:,.0f}", 1 / 2**20),
    "host, us": lambda row: _fact(row, "host_us", "{:,.0f}"),
    "data wait, us": lambda row: _fact(row, "data_wait_us", "{:,.0f}"),
    "compile, s": lambda row: _fact(row, "compile_cold_s", "{:.2f}"),
    "warm, s": lambda row: _fact(row, "compile_warm_s", "{:.2f}"),
    "examples/J": lambda row: _fact(row, "examples_per_joule", "{:.4g}"),
}


def _fact(row: Row, name: str, form: str, scale: float = 1.0) -> str:
    value = row.facts.get(name)
    return form.format(value * scale) if isinstance(value, int | float) else ""


def _steps(title: str, rows: Sequence[Row]) -> list[Table]:
    shown = [row for row in rows if not row.name.endswith(", health off")]
    columns = {name: show for name, show in STEP_COLUMNS.items() if any(show(row) for row in shown)}
    lines = [[row.name, *(show(row) for show in columns.values())] for row in shown]
    return [
        Table(f"{title}, step in ms", ["", *columns], lines), *_messages([row for row in rows if row.message])
    ]  # fmt: skip


def _roofline(title: str, rows: Sequence[Row]) -> list[Table]:
    lines = []
    for row in rows:
        count, value = row.facts.get("count"), row.value
        taken = row.per_call / value * float(count) * 1e3 if value and count else None
        lines.append([
            row.name, str(count), _fact(row, "flops_per_byte", "{:,.1f}"), cell(row),
            "" if taken is None else f"{taken:.3g}",
        ])  # fmt: skip
    headers = ["product of the step", "times", "FLOP/byte", "TFLOP/s", "ms in all"]
    return [Table(f"{title}: each product by itself", headers, lines)]


SECTIONS: dict[str, Callable[[str, Sequence[Row]], list[Table]]] = {
    "matmul": _products,
    "memory": _memory,
    "collectives": _collectives,
    "sustained": _sustained,
    "train": _steps,
    "roofline": _roofline,
}
