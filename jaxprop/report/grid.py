"""Rows of `layers.jsonl` as arrays of layers by steps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.report.fields import LARGEST_STEP, number

# The signals that are drawn. NaN and infinities are null in the file and become infinite here; NaN means missing.
LAYER_SIGNALS = ("grad_rms", "grad_norm", "update_ratio")
TAP_SIGNALS = ("grad_rms", "rms", "dead", "saturated")
# Rows leave out signals that are NaN. For those that every row has, a missing value therefore means NaN.
ALWAYS = {"layer": (), "tap": ("grad_rms", "rms")}
_ABSENT = -1.0  # no signal is negative
MOST_CELLS, MOST_NAMES = 2**24, 20_000  # of a grid that few rows fill, and names of any


class Grid(NamedTuple):
    """Signals of L layers or taps at S steps.

    Args:
      names: names of the layers, in the order of the forward pass if it is known.
      steps: int64 `[S]`, ascending.
      values: signal -> float32 `[L, S]`; NaN where there is no row, infinite where the value was not finite.
    """

    names: tuple[str, ...]
    steps: np.ndarray
    values: dict[str, np.ndarray]


class RowBuffer:
    """Collects rows of layers, or rows of taps.

    Args:
      key: `layer` or `tap`, the key that holds a row's name.
      signals: the signals to keep.

    Example:
      >>> rows = RowBuffer("layer", ["grad_norm"])
      >>> rows.add([{"step": 5, "layer": "head", "grad_norm": 2.0}, {"step": 6, "layer": "head", "grad_norm": None}])
      0
      >>> grid = rows.grid()
      >>> grid.names, grid.steps.tolist(), grid.values["grad_norm"].tolist()
      (('head',), [5, 6], [[2.0, inf]])
    """

    def __init__(self, key: str, signals: Sequence[str]):
        self._key, self._signals = key, tuple(signals)
        self._names: dict[str, int] = {}
        self._blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, lines: Iterable[dict[str, Any]]) -> int:
        """Takes in the lines that have the key; returns how many of them are not valid rows."""
        given = [line for line in lines if self._key in line]
        rows = [row for row in given if type(row.get("step")) is int and type(row[self._key]) is str]
        rows = [row for row in rows if 0 <= row["step"] < LARGEST_STEP]
        if rows:
            for row in rows:
                self._names.setdefault(row[self._key], len(self._names))
            steps = np.array([row["step"] for row in rows], np.int64)
            names = np.array([self._names[row[self._key]] for row in rows], np.int32)
            self._blocks.append((steps, names, np.stack([self._column(rows, signal) for signal in self._signals])))
        return len(given) - len(rows)

    def _column(self, rows: list[dict[str, Any]], signal: str) -> np.ndarray:
        absent = None if signal in ALWAYS[self._key] else _ABSENT
        cells = [row.get(signal, absent) for row in rows]
        try:
            column = np.array(cells, np.float64)
        except (ValueError, TypeError, OverflowError):
            column = np.array([number(cell) for cell in cells], np.float64)
        with np.errstate(over="ignore"):
            column = column.astype(np.float32)
        column[~np.isfinite(column)] = np.inf
        column[column < 0] = np.nan
        return column

    def grid(self, order: Sequence[str] = ()) -> Grid | None:
        """Returns all rows as a grid, or None if there are none.

        Args:
          order: names in the desired order; others follow in the order of their first row.
        """
        if not self._blocks:
            return None
        at, named, cells = (np.concatenate(parts, axis=-1) for parts in zip(*self._blocks, strict=True))
        self._blocks = [(at, named, cells)]
        known = {name: i for i, name in enumerate(order)}
        names = sorted(self._names, key=lambda name: known.get(name, len(known)))
        place = {name: i for i, name in enumerate(names)}
        row = np.array([place[name] for name in self._names])[named]
        steps, column = np.unique(at, return_inverse=True)
        values = {}
        for signal, column_cells in zip(self._signals, cells, strict=True):
            table = np.full((len(names), len(steps)), np.nan, np.float32)
            table[row, column] = column_cells  # if a step was written twice, the later row counts
            if not np.isnan(table).all():
                values[signal] = table
        return Grid(tuple(names), steps, values)

    @property
    def sparse(self) -> bool:
        """Whether the grid would be far larger than its rows: a run writes one for each layer at each of its steps."""
        rows, (names, steps) = sum(len(at) for at, _, _ in self._blocks), self._shape()
        return names > MOST_NAMES or names * steps > max(MOST_CELLS, 8 * rows)

    @property
    def extent(self) -> str:
        """How many names there are at how many steps, as words."""
        names, steps = self._shape()
        return f"{names:,} {self._key}s at {steps:,} steps"

    def _shape(self) -> tuple[int, int]:
        steps = np.unique(np.concatenate([at for at, _, _ in self._blocks])) if self._blocks else ()
        return len(self._names), len(steps)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of their first row."""
        return tuple(self._names)
