"""Batches that were left out of the training because they are not finite: which examples they were made of."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop.core import trees
from jaxprop.data.drawn import Drawn, together
from jaxprop.health.watch.alerts import QUARANTINE

CALLS = 4  # whose batches are held: the newest two may not have been read yet
NAMED = 3  # examples that a message names; the others are counted
LISTED = 1024  # examples that a line lists


class Found(NamedTuple):
    """What of a batch is not finite.

    Args:
      rows: int64, the rows of the batch, in order; empty where its arrays are finite.
      holds: such as `NaN in inputs`.
    """

    rows: np.ndarray
    holds: str


class Quarantine:
    """Holds the newest batches, and tells what a step was given that changed nothing.

    Args:
      stream: of the batches. One without `drawn` does not know its examples; then rows are told.
      per_call: S, steps in a call.
      scaled: whether the loss scale is found by steps that are left out, as of float16.
    """

    def __init__(self, stream: Any, per_call: int, *, scaled: bool = False):
        self._stream, self._per_call, self._scaled = stream, per_call, scaled
        self._calls: deque[tuple[int, int, Any, Mapping[str, Any], int]] = deque(maxlen=CALLS)

    def take(self, step: int, size: int, batch: Any, state: Mapping[str, Any], parts: int = 1) -> None:
        """Remembers a call.

        Args:
          step: its last step.
          size: how many it takes.
          batch: what it was given.
          state: of the stream, behind that.
          parts: how many of the stream's batches each step takes.
        """
        self._calls.append((step, size, batch, state, parts))

    def read(self, step: int, m: Any) -> dict[str, Any] | None:
        """Takes in the record of a step; returns the line of `alerts.jsonl` on a batch that was left out, or None.

        Args:
          step: its number.
          m: its measurements, on the host.
        """
        if not m.skipped:
            return None
        call = next((call for call in self._calls if call[0] - call[1] < step <= call[0]), None)
        if call is None:
            return None
        last, size, batch, state, parts = call
        if self._per_call > 1:
            batch = jax.tree.map(lambda array: array[step - (last - size) - 1], batch)
        found = nonfinite(batch)
        if not found.rows.size and self._scaled and math.isfinite(float(m.loss)):
            return None  # a step by which the loss scale is found, and no fault of the batch
        if not hasattr(self._stream, "drawn"):
            return _line(step, found, None)
        behind = parts * (last - step)
        return _line(step, found, together([self._stream.drawn(state, behind + k) for k in range(parts, 0, -1)]))


def nonfinite(batch: Any) -> Found:
    """Returns which rows of a batch hold a NaN or an infinity.

    Args:
      batch: a pytree of arrays with leading axis B.

    Example:
      >>> found = nonfinite({"inputs": np.array([[1.0, 2.0], [np.inf, 0.0]]), "labels": np.array([0, 1])})
      >>> found.rows.tolist(), found.holds
      ([1], 'infinity in inputs')
    """
    bad: set[int] = set()
    holds: dict[str, None] = {}
    for name, leaf in zip(trees.leaf_paths(batch), jax.tree.leaves(batch), strict=True):
        # Of several processes, each would have to say what is in its own part.
        if not jax.numpy.issubdtype(leaf.dtype, np.inexact) or not getattr(leaf, "is_fully_addressable", True):
            continue
        values = np.asarray(leaf)
        rows = np.flatnonzero(~np.isfinite(values.reshape(len(values), values[:1].size)).all(axis=1))
        if rows.size:
            bad.update(rows.tolist())
            what = "NaN" if np.isnan(values[rows]).any() else "infinity"
            holds[f"{what} in {name}"] = None
    return Found(np.array(sorted(bad), np.int64), " and ".join(holds))


def _line(step: int, found: Found, drawn: Drawn | None) -> dict[str, Any]:
    rows = found.rows
    where: dict[str, Any] = {"rows": rows[:LISTED].tolist()}
    if drawn is not None:
        listed = _once(rows if rows.size else np.arange(len(drawn.examples)), drawn)[:LISTED]
        where |= {"epoch": drawn.epoch, "batch": drawn.batch, "examples": drawn.examples[listed].tolist()}
        where |= {"names": drawn.named(listed)} if drawn.names is not None else {}
    return {
        "step": step,
        "kind": QUARANTINE,
        "layer": None,
        "severity": "advice",
        "value": float(rows.size),
        "threshold": None,
        "since": step,
        **where,
        "message": f"left out the batch of step {step}, which changed nothing: {_why(found, drawn)}",
    }


def _once(rows: np.ndarray, drawn: Drawn) -> np.ndarray:
    """Some rows, without those that only pad and repeat another's example."""
    return rows[np.sort(np.unique(drawn.examples[rows], return_index=True)[1])]


def _why(found: Found, drawn: Drawn | None) -> str:
    rows = found.rows
    if not rows.size:
        which = "" if drawn is None else f" (batch {drawn.batch} of epoch {drawn.epoch})"
        return f"its arrays are finite{which}, and loss or gradients are not"
    rows = rows if drawn is None else _once(rows, drawn)
    some = [f"row {row}" for row in rows[:NAMED].tolist()] if drawn is None else drawn.named(rows[:NAMED])
    more = f" (and {rows.size - len(some)} more)" if rows.size > len(some) else ""
    return f"{', '.join(some)}{more}: {found.holds}; repair or remove {'it' if rows.size == 1 else 'them'}"
