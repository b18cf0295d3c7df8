"""Which plots a document has: sweeps over sizes and batches, and the roofline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jaxprop.bench.document import Document, Fact, Row
from jaxprop.bench.render.cells import figure, spread
from jaxprop.bench.render.svg import Line, Plot, Point, bytes_label, plain_label


def plots(document: Document) -> Iterator[Plot]:
    """The plots for which a document has the figures.

    Args:
      document: any.

    Yields:
      Sweeps of matrix products, memory, transfers, collectives and batches, and the roofline.
    """
    rows = [row for row in document.rows if row.value]
    square = [row for row in rows if row.section.split()[0] in ("matmul", "numpy") and _is_square(row)]
    yield from _sweep(
        square, "m", "dtype", "Matrix products", "size of square factors", "TFLOP/s", plain_label, log_y=False
    )
    for fact, title, what in (
        ("operation", "Memory bandwidth", "bytes of the data"),
        ("direction", "Between host and device", "bytes of the array"),
        ("collective", "Collectives", "bytes on each device"),
    ):
        yield from _sweep(
            [row for row in rows if row.unit == "GB/s"], "bytes", fact, title, what, "GB/s", bytes_label, log_y=True
        )
    # The step without signals, which is measured beside the step, has no rate of its own.
    trained = [row for row in rows if "workload" in row.facts and _number(row.facts.get("examples_per_s"))]
    yield from _sweep(
        trained, "batch", "workload", "Time of a step", "examples in a batch", "ms", plain_label, log_y=True
    )
    rates = [_as_rate(row) for row in trained]
    yield from _sweep(
        rates, "batch", "workload", "Train rate", "examples in a batch", "examples/s", plain_label, log_y=True
    )
    yield from _roofline(rows)


def _as_rate(row: Row) -> Row:
    """A train step with its examples a second as the figure."""
    rate = _number(row.facts.get("examples_per_s"))
    return row.model_copy(update={"value": rate, "low": None, "high": None, "unit": "examples/s"})


def _is_square(row: Row) -> bool:
    return row.facts.get("m") == row.facts.get("k") == row.facts.get("n")


def _sweep(
    rows: Sequence[Row], over: str, by: str, title: str, x_label: str, y_label: str, label: Callable[[float], str],
    log_y: bool,
) -> Iterator[Plot]:  # fmt: skip
    lines: dict[str, list[Point]] = {}
    several = len({row.device for row in rows}) > 1
    for row in rows:
        x = _number(row.facts.get(over))
        if x and row.value and (by in row.facts or row.section == "numpy"):
            parts = [str(row.facts[by])] if by in row.facts else []
            parts += [str(row.facts["precision"])] if row.facts.get("precision") else []
            parts += [f"device {row.device}"] if several else []
            # What is measured in other sections, such as products of zeros or those of NumPy, is another line.
            parts += [row.section] if row.section != rows[0].section else []
            lines.setdefault(" ".join(parts), []).append(point(row, x))
    drawn = [Line(name, sorted(points)) for name, points in lines.items()]
    if any(len({one.x for one in line.points}) > 1 for line in drawn):
        yield Plot(title, drawn, x_label, y_label, x_ticks=label, log_x=True, log_y=log_y)


def point(row: Row, x: float) -> Point:
    """A row as a point of a plot.

    Args:
      row: with a figure.
      x: where it is drawn.
    """
    around = f" ± {spread(row)}" if spread(row) else ""
    return Point(x, row.value or 0.0, row.low, row.high, f"{row.name}: {figure(row)}{around}")


def _roofline(rows: Sequence[Row]) -> Iterator[Plot]:
    parts = [row for row in rows if _number(row.facts.get("flops_per_byte")) and _number(row.facts.get("tflops"))]
    rates = [row for row in rows if row.unit == "TFLOP/s" and row not in parts]
    # The largest data, which no cache holds.
    memory = [row for row in rows if row.unit == "GB/s" and "operation" in row.facts]
    largest = max((_number(row.facts.get("bytes")) or 0.0 for row in memory), default=0.0)
    bandwidth = max((row.value or 0 for row in memory if row.facts.get("bytes") == largest), default=0.0)
    if not parts:
        return
    lines: list[Line] = []
    at = [_part(row).x for row in parts]
    first, last = min(at) / 4, max(at) * 4
    for dtype in dict.fromkeys(str(row.facts.get("dtype", "")) for row in rates):
        peak = max(row.value or 0 for row in rates if str(row.facts.get("dtype", "")) == dtype)
        if bandwidth and peak:
            ridge = peak * 1e3 / bandwidth  # FLOPs a byte from which on the products are the limit
            xs = sorted({first, ridge, max(last, 2 * ridge)})
            said = f"{peak:.4g} TFLOP/s {dtype}, {bandwidth:.4g} GB/s, measured"
            roof = [Point(x, min(peak, x * bandwidth / 1e3), None, None, said) for x in xs if x >= first]
            lines.append(Line(f"roof, {dtype}" if dtype else "roof", roof))
    steps: dict[str, list[Point]] = {}
    for row in parts:
        steps.setdefault(str(row.facts.get("of") or "parts of a step"), []).append(_part(row))
    lines += [Line(name, points, joined=False) for name, points in steps.items()]  # drawn over the roofs
    yield Plot(
        "Roofline", lines, "FLOPs per byte of memory traffic", "TFLOP/s", x_ticks=plain_label, log_x=True, log_y=True
    )


def _part(row: Row) -> Point:
    x, y = _number(row.facts.get("flops_per_byte")) or 0.0, _number(row.facts.get("tflops")) or 0.0
    return Point(x, y, None, None, f"{row.name}: {y:.4g} TFLOP/s at {x:.4g} FLOPs a byte")


def _number(value: Fact) -> float | None:
    """A positive number, or None; a plot is logarithmic."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
