"""The picture of a coordinate check: how much each layer changes, by width, a panel for each parametrization. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from jaxprop.tools.coord_layers import Checked, Layer

_PANEL, _HEIGHT, _LEFT, _TOP, _BOTTOM = 330, 300, 64, 56, 44  # in pixels
_LEGEND, _LINE, _SHOWN = 250, 16, 16  # width, height of a line, and how many layers have one
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #222 } .title { font-weight: 600; font-size: 13px }
  .axis { stroke: #999 } .grid { stroke: #e4e4e4 } .back { fill: #fff } .faint { fill: #666 }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd } .axis { stroke: #777 } .grid { stroke: #333 } .back { fill: #161616 } .faint { fill: #aaa }
  }
"""


class _Scale(NamedTuple):
    """A logarithmic axis: values between `low` and `high` lie between two places on the page."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.first + share * (self.last - self.first)


def picture(found: Sequence[Checked]) -> str:
    """Returns the picture as SVG, which follows the reader's choice of light or dark.

    Args:
      found: by `jaxprop.tools.coord_check.coord_check`.
    """
    drawn = [change for one in found for layer in one.layers for change in layer.changes if _is_drawn(change)]
    low, high = (min(drawn), max(drawn)) if drawn else (0.1, 10.0)
    y = _Scale(low / 1.3, high * 1.3, _HEIGHT - _BOTTOM, _TOP)
    wide = len(found) * (_PANEL + _LEGEND)
    parts = [part for i, one in enumerate(found) for part in _panel(one, i * (_PANEL + _LEGEND), y)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{_HEIGHT}" viewBox="0 0 {wide} {_HEIGHT}" '
        f'role="img" aria-label="Coordinate check">\n<style>{_STYLE}</style>\n'
        f'<rect class="back" width="{wide}" height="{_HEIGHT}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(one: Checked, left: float, y: _Scale) -> Iterator[str]:
    x = _Scale(min(one.widths), max(one.widths), left + _LEFT, left + _PANEL - 16)
    yield _text(left + _LEFT, 20, f"{one.parametrization}: {'holds' if one.holds else 'does not hold'}", "title")
    yield _text(left + _LEFT, 38, f"change after {one.steps} steps, by width; mean of {one.seeds} seeds", "faint")
    for tick in _ticks(y):
        yield f'<line class="grid" x1="{x.first}" x2="{x.last}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        yield _text(x.first - 8, y(tick) + 4, f"{tick:g}", "faint", "end")
    yield f'<line class="axis" x1="{x.first}" x2="{x.last}" y1="{y.first}" y2="{y.first}"/>'
    for width in one.widths:
        yield _text(x(width), y.first + 18, str(width), "faint", "middle")
    for i, layer in enumerate(one.layers):
        points = [
            f"{x(width):.1f},{y(change):.1f}"
            for width, change in zip(one.widths, layer.changes, strict=True) if _is_drawn(change)
        ]  # fmt: skip
        colour = _colour(i, len(one.layers))
        yield f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(points)}"/>'
        if i < _SHOWN:
            yield from _legend(layer, left + _PANEL, _TOP + i * _LINE, colour)
    if len(one.layers) > _SHOWN:
        yield _text(left + _PANEL + 20, _TOP + _SHOWN * _LINE + 4, f"and {len(one.layers) - _SHOWN} more", "faint")


def _legend(layer: Layer, left: float, top: float, colour: str) -> Iterator[str]:
    yield f'<line stroke="{colour}" stroke-width="3" x1="{left}" x2="{left + 14}" y1="{top}" y2="{top}"/>'
    name = layer.name if len(layer.name) <= 22 else f"{layer.name[:10]}…{layer.name[-11:]}"
    yield _text(left + 20, top + 4, f"{name}  width^{layer.power:.2f}")


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _ticks(y: _Scale) -> list[float]:
    """Values of 1, 2 and 5 times powers of ten; of ten alone where these are many."""
    tens = [10.0**exponent for exponent in range(math.floor(math.log10(y.low)), math.ceil(math.log10(y.high)) + 1)]
    several = [factor * ten for ten in tens for factor in (1, 2, 5) if y.low <= factor * ten <= y.high]
    return several if len(several) <= 8 else [ten for ten in tens if y.low <= ten <= y.high]


def _colour(i: int, count: int) -> str:
    """From blue at the first layer to red at the last."""
    return f"hsl({220 - 220 * i / max(count - 1, 1):.0f} 75% 52%)"


def _is_drawn(change: float) -> bool:
    return math.isfinite(change) and change > 0
