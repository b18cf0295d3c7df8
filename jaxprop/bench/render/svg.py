"""Line plots as inline SVG, without scripts: what the pointer rests on shows its value."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 10, 42
COLOURS = 8  # classes line-0 to line-7 of the page's style
TICKS = 6


class Point(NamedTuple):
    """One figure in a plot.

    Args:
      x, y: where it is.
      low, high: its interval, if it has one.
      said: what is shown when the pointer rests on it.
      label: written beside it.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    said: str = ""
    label: str = ""


class Line(NamedTuple):
    """Points of one name; `joined` says whether a line runs through them."""

    name: str
    points: list[Point]
    joined: bool = True


def plain_label(value: float) -> str:
    """A number on an axis.

    Example:
      >>> plain_label(4096), plain_label(0.25), plain_label(2e6)
      ('4,096', '0.25', '2e+06')
    """
    return f"{value:,.0f}" if value >= 1 and value == int(value) and value < 1e6 else f"{value:.3g}"


def bytes_label(value: float) -> str:
    """A number of bytes on an axis.

    Example:
      >>> bytes_label(65536), bytes_label(3 * 2**19), bytes_label(100)
      ('64 KiB', '1.5 MiB', '100 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


class Plot(NamedTuple):
    """One plot.

    Args:
      title: above it.
      lines: what is drawn.
      x_label, y_label: of the axes.
      x_ticks: number -> text on the horizontal axis.
      log_x, log_y: whether an axis is logarithmic; values on it have to be positive.
      x_names: texts of the places 0, 1, 2 and so on, instead of numbers.
      from_zero: whether a linear vertical axis begins at 0.
    """

    title: str
    lines: list[Line]
    x_label: str
    y_label: str
    x_ticks: Callable[[float], str] = plain_label
    log_x: bool = False
    log_y: bool = False
    x_names: list[str] | None = None
    from_zero: bool = True


class _Axis(NamedTuple):
    low: float
    high: float
    log: bool
    start: float  # in the drawing, of `low`
    end: float

    def at(self, value: float) -> float:
        low, high, value = (math.log10(one) if self.log else one for one in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def figure(plot: Plot) -> str:
    """Draws a plot.

    Args:
      plot: at least one point.

    Returns:
      A `figure` element, everything in it escaped.

    Example:
      >>> drawn = figure(Plot("a < b", [Line("x", [Point(1, 2), Point(2, 3)])], "n", "ms"))
      >>> drawn.startswith("<figure><figcaption>a &lt; b")
      True
    """
    drawn = "".join(_drawn(plot))
    legend = "".join(
        f'<span class="key"><span class="dot line-{i % COLOURS}"></span>{html.escape(line.name)}</span>'
        for i, line in enumerate(plot.lines)
        if line.name
    )
    label = html.escape(f"{plot.title}: {plot.y_label} over {plot.x_label}")
    unit = f'<span class="unit">{html.escape(plot.y_label)}</span>'
    return (
        f"<figure><figcaption>{html.escape(plot.title)} {unit}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{drawn}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def _drawn(plot: Plot) -> Iterator[str]:
    points = [one for line in plot.lines for one in line.points]
    across = _axis([one.x for one in points], plot.log_x, LEFT, WIDTH - RIGHT, plot.x_names)
    values = [value for one in points for value in (one.y, one.low, one.high) if value is not None]
    up = _axis([*values, *([0.0] if plot.from_zero and not plot.log_y else [])], plot.log_y, HEIGHT - BOTTOM, TOP)
    for value in _ticks(up):
        y = up.at(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(LEFT - 6, y + 4, plain_label(value), "end")
    for value, name in _places(plot, across):
        x = across.at(value)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield _text(x, HEIGHT - BOTTOM + 15, name, "middle")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, plot.x_label, "middle")
    for i, line in enumerate(plot.lines):
        yield from _line(line, i % COLOURS, across, up)


def _line(line: Line, colour: int, across: _Axis, up: _Axis) -> Iterator[str]:
    placed = [(across.at(one.x), up.at(one.y), one) for one in line.points]
    if line.joined and len(placed) > 1:
        yield f'<polyline class="line-{colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)}"/>'
    for x, y, one in placed:
        if one.low is not None and one.high is not None and (one.low > 0 or not up.log):
            ends = f'y1="{up.at(one.low):.1f}" y2="{up.at(one.high):.1f}"'
            yield f'<line class="line-{colour} bar" x1="{x:.1f}" x2="{x:.1f}" {ends}/>'
        said = f"<title>{html.escape(one.said)}</title>" if one.said else ""
        yield f'<circle class="line-{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{said}</circle>'
        if one.label:
            left = x > WIDTH * 0.7
            yield _text(x - 7 if left else x + 7, y + 4, one.label, "end" if left else "start")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _axis(values: Sequence[float], log: bool, start: float, end: float, names: Sequence[str] | None = None) -> _Axis:
    """An axis that holds all values, with some room at both ends."""
    if names is not None:
        return _Axis(-0.5, len(names) - 0.5, log=False, start=start, end=end)
    if log:
        low, high = min(value for value in values if value > 0), max(values)
        room = max((high / low) ** 0.04, 1.05)
        return _Axis(low / room, high * room, log, start, end)
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return _Axis(low - (room if low else 0.0), high + room, log, start, end)


def _places(plot: Plot, axis: _Axis) -> Iterator[tuple[float, str]]:
    """Ticks of the horizontal axis: names, or the values themselves where they are few, or round numbers."""
    if plot.x_names is not None:
        every = math.ceil(len(plot.x_names) / 8)
        yield from ((i, name) for i, name in enumerate(plot.x_names) if i % every == 0)
        return
    own = sorted({one.x for line in plot.lines if line.joined for one in line.points})
    ticks = _apart(own, axis) if 2 <= len(own) <= 24 and all(line.joined for line in plot.lines) else _ticks(axis)
    yield from ((value, plot.x_ticks(value)) for value in ticks)


def _apart(values: Sequence[float], axis: _Axis) -> list[float]:
    """Those of the values whose texts do not run into each other."""
    kept: list[float] = []
    for value in values:
        if not kept or axis.at(value) - axis.at(kept[-1]) > 58:
            kept.append(value)
    return kept


def _ticks(axis: _Axis) -> list[float]:
    """Round numbers on an axis.

    Example:
      >>> _ticks(_Axis(0.0, 10.0, False, 0, 1)), _ticks(_Axis(0.5, 2000.0, True, 0, 1))
      ([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [1.0, 10.0, 100.0, 1000.0])
    """
    if axis.log:
        first, last = math.ceil(math.log10(axis.low) - 1e-9), math.floor(math.log10(axis.high) + 1e-9)
        decades = [10.0**i for i in range(first, last + 1)]
        if len(decades) >= 3:
            return decades[:: math.ceil(len(decades) / TICKS)]
        fine = [m * 10.0**i for i in range(first - 1, last + 1) for m in (1, 2, 5)]
        found = [value for value in fine if axis.low <= value <= axis.high]
        if len(found) >= 2:
            return found
    step = 10 ** math.floor(math.log10((axis.high - axis.low) / TICKS))
    step *= next(m for m in (1, 2, 5, 10) if (axis.high - axis.low) / (step * m) <= TICKS)
    first = math.ceil(axis.low / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, math.floor(axis.high / step + 1e-9) + 1)]
