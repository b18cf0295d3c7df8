"""Reduces curves and grids to a size that can be drawn, without losing spikes. Pure."""

from __future__ import annotations

import base64
from typing import NamedTuple

import numpy as np

from jaxprop.report.grid import Grid

BINS = 1000  # bins of a curve, each of which keeps two points
COLUMNS = 400  # largest number of columns of a map
RANGES = 200  # largest number of ranges of values that are not finite
# The colours of a map span at most DECADES, of which at most LOWER are below the median; other values are clipped.
DECADES, LOWER = 12.0, 4.0
# Codes of the cells of a map; those from LOWEST to HIGHEST are values on the scale.
MISSING, ZERO, LOWEST, HIGHEST, NOT_FINITE = 0, 1, 2, 254, 255


class Curve(NamedTuple):
    """A curve to draw.

    Args:
      step: ascending.
      value: None where it is not finite.
      gaps: first and last step of each range of values that are not finite.
    """

    step: list[int]
    value: list[float | None]
    gaps: list[list[int]]


class Map(NamedTuple):
    """A map of layers by steps to draw.

    Args:
      names: names of the layers.
      first, last: first and last step of each column.
      codes: `[L, C]` bytes in base64: 0 missing, 1 zero, 2 to 254 on the scale, 255 not finite.
      scale: `log` or `linear`.
      low, high: values of the codes 2 and 254.
      below, above: whether there are values below `low` and above `high`.
    """

    names: list[str]
    first: list[int]
    last: list[int]
    codes: str
    scale: str
    low: float
    high: float
    below: bool
    above: bool


def decimate(step: np.ndarray, value: np.ndarray, bins: int = BINS) -> Curve:
    """Keeps the lowest and the highest value of each bin, the first and last point, and the start of each gap.

    Args:
      step: `[n]`, ascending.
      value: `[n]`, NaN or infinite where it was not finite.
      bins: number of bins, which hold equally many points.

    Example:
      >>> value = np.zeros(10_000)
      >>> value[777] = 5.0
      >>> curve = decimate(np.arange(10_000), value, bins=50)
      >>> len(curve.step) <= 102, max(curve.value), curve.step[curve.value.index(5.0)]
      (True, 5.0, 777)
    """
    finite = np.isfinite(value)
    kept = np.arange(len(value))
    if len(value) > 2 * bins + 2:
        found = {0, len(value) - 1}
        for part in np.array_split(kept, bins):
            good = part[finite[part]]
            if len(good) < len(part):
                found.add(int(part[~finite[part]][0]))
            if len(good):
                found |= {int(good[np.argmin(value[good])]), int(good[np.argmax(value[good])])}
        kept = np.array(sorted(found))
    return Curve(step[kept].tolist(), rounded(value[kept]), _gaps(step, finite))


class Band(NamedTuple):
    """The range of a value between records: its lowest and highest value at ascending steps."""

    step: list[int]
    low: list[float | None]
    high: list[float | None]


def band(step: np.ndarray, low: np.ndarray, high: np.ndarray, bins: int = BINS) -> Band:
    """Keeps the lowest and the highest value of each bin, at its last step; what is not finite is left out.

    Args:
      step: `[n]`, ascending.
      low, high: `[n]`.
      bins: largest number of bins.

    Example:
      >>> band(np.arange(4), np.array([1.0, 0.0, 2.0, np.nan]), np.array([3.0, 4.0, 5.0, 1.0]), bins=2)
      Band(step=[1, 2], low=[0.0, 2.0], high=[4.0, 5.0])
    """
    known = np.isfinite(low) & np.isfinite(high)
    step, low, high = step[known], low[known], high[known]
    parts = [part for part in np.array_split(np.arange(len(step)), bins) if len(part)]
    return Band(
        [int(step[part[-1]]) for part in parts],
        rounded(np.array([low[part].min() for part in parts])),
        rounded(np.array([high[part].max() for part in parts])),
    )


def _gaps(step: np.ndarray, finite: np.ndarray) -> list[list[int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[True], finite, [True]]).astype(np.int8)))
    pairs = [[int(step[a]), int(step[b - 1])] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    if len(pairs) > RANGES:  # neighbouring gaps are joined, so that none is lost
        groups = np.array_split(np.arange(len(pairs)), RANGES)
        pairs = [[pairs[group[0]][0], pairs[group[-1]][1]] for group in groups]
    return pairs


def rounded(values: np.ndarray, digits: int = 5) -> list[float | None]:
    """Rounds numbers to the digits that a diagram can show; None for values that are not finite.

    Example:
      >>> rounded(np.array([1.23456789, np.nan, 2e-9]))
      [1.2346, None, 2e-09]
    """
    form = f"%.{digits}g"
    return [
        float(form % x) if ok else None for x, ok in zip(values.tolist(), np.isfinite(values).tolist(), strict=True)
    ]


def heat_map(grid: Grid, signal: str, scale: str = "log", columns: int = COLUMNS) -> Map | None:
    """Bins a signal over the steps and quantises it to bytes; a column holds the largest value of its steps.

    Args:
      grid: the grid.
      signal: a signal of the grid.
      scale: `log`, or `linear` for fractions from 0 to 1.
      columns: largest number of columns.

    Returns:
      The map, without layers that have no values, or None if no layer has any.

    Example:
      >>> grid = Grid(("a",), np.array([1, 2, 3]), {"grad_rms": np.array([[1e-3, np.inf, 1.0]], np.float32)})
      >>> found = heat_map(grid, "grad_rms")
      >>> list(base64.b64decode(found.codes)), f"{found.low:.3g}", found.high
      ([2, 255, 254], '0.001', 1.0)
    """
    table = grid.values.get(signal)
    if table is None:
        return None
    shown = ~np.isnan(table).all(axis=1)
    have = ~np.isnan(table).all(axis=0)
    table, steps = table[shown][:, have], grid.steps[have]
    if not table.size:
        return None
    parts = np.array_split(np.arange(len(steps)), min(columns, len(steps)))
    starts = [part[0] for part in parts]
    cells = np.fmax.reduceat(table, starts, axis=1)  # NaN only if all are missing; infinite if any is
    codes, low, high, below, above = _quantised(cells.astype(np.float64), scale)
    return Map(
        [name for name, keep in zip(grid.names, shown, strict=True) if keep],
        steps[starts].tolist(), steps[[part[-1] for part in parts]].tolist(),
        base64.b64encode(codes.tobytes()).decode(), scale, low, high, below, above,
    )  # fmt: skip


def _quantised(cells: np.ndarray, scale: str) -> tuple[np.ndarray, float, float, bool, bool]:
    finite = np.isfinite(cells)
    on_scale = finite & (cells > 0) if scale == "log" else finite
    values = np.where(on_scale, cells, 0.0)
    bottom, top, below, above = 0.0, 1.0, False, False
    if scale == "log":
        values = np.log10(cells, where=on_scale, out=np.zeros_like(cells))
        bottom, top, below, above = _span(values[on_scale])
    level = np.clip((values - bottom) / (top - bottom), 0.0, 1.0)
    codes = np.where(on_scale, np.rint(LOWEST + level * (HIGHEST - LOWEST)), np.where(finite, ZERO, MISSING))
    codes = np.where(np.isinf(cells), NOT_FINITE, codes).astype(np.uint8)
    low, high = (10.0**bottom, 10.0**top) if scale == "log" else (bottom, top)
    return codes, float(low), float(high), below, above


def _span(logs: np.ndarray) -> tuple[float, float, bool, bool]:
    """The range of the colours in decades, and whether there are values below and above it."""
    if not len(logs):
        return -1.0, 0.0, False, False
    least, most = float(logs.min()), float(logs.max())
    if most - least < 1e-6:
        return least - 0.5, most + 0.5, False, False
    bottom, top = least, most
    if most - least > DECADES:
        bottom = min(max(least, float(np.median(logs)) - LOWER), most - DECADES)
        top = bottom + DECADES
    return bottom, top, least < bottom - 1e-6, most > top + 1e-6
