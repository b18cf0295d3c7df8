"""What is logged of a step's measurements.

A *record* is what one step reports: `Measurements` in memory, and a line of `metrics.jsonl`. A *row* holds the values
of one layer or of one tap in a record, and is a line of `layers.jsonl`. The *detail* of a step is how much it
measures: `lean` (scalars only), `rows` (also the gradient norm of every layer), `full` (all signals, those of the taps
too) or `flush` (also the share of gradients that float16 would flush to zero).

Not every step is recorded: each of the first ten is, then every `run.log_every`-th and the last. So that nothing
between two records is lost, a record that stands for more than one step also holds, over the steps since the record
before it, itself included:

| key | holds |
|---|---|
| `loss_min`, `loss_max`, `grad_norm_min`, `grad_norm_max` | the smallest and largest finite value |
| `loss_max_step`, `grad_norm_max_step` | the step of the largest |
| `nonfinite_steps` | how many steps had a loss or gradient that was not finite; absent where none had |
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jaxprop.core.measurements import COLUMNS, RARE_COLUMNS, RARE_SCALARS, TAP_COLUMNS, Layers, Measurements, Rare
from jaxprop.health.watch.reading import RATES

# What every record with rows says of a layer, and what only a full one says. A gradient norm of NaN is news; elsewhere
# NaN means that a signal is not in this record, or does not apply to this optimizer or model, and is left out.
FREQUENT = (*COLUMNS, "grad_rms", "nonfinite")
SELDOM = (*RARE_COLUMNS, "update_ratio")
FIRST_STEPS = 10  # each of them is recorded: what goes wrong at once is over by the first log step
PEAKS = ("loss", "grad_norm")


def is_recorded(step: int, log_every: int, total: int) -> bool:
    """Whether a step has a record in `metrics.jsonl`.

    Example:
      >>> [step for step in range(1, 121) if is_recorded(step, 50, 120)]
      [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 50, 100, 120]
    """
    return step <= FIRST_STEPS or step % log_every == 0 or step == total


class Interval:
    """The peaks of loss and gradient norm since the last record.

    Example:
      >>> import numpy as np
      >>> from jaxprop.core.measurements import Layout
      >>> layout, interval = Layout((), ()), Interval()
      >>> for step, loss in ((1, 3.0), (2, 9.0), (3, 4.0)):
      ...     interval.add(step, Measurements(np.full(layout.length, loss, np.float32), layout))
      >>> taken = interval.take()
      >>> taken["loss_min"], taken["loss_max"], taken["loss_max_step"], interval.take()
      (3.0, 9.0, 2, {})
    """

    def __init__(self) -> None:
        self._empty()

    def _empty(self) -> None:
        self._steps, self._nonfinite = 0, 0
        self._peaks: dict[str, float] = {}

    def add(self, step: int, m: Measurements) -> None:
        """Takes in the record of a step, on the host."""
        self._steps += 1
        values = {name: float(getattr(m, name)) for name in PEAKS}
        self._nonfinite += not all(map(math.isfinite, values.values()))
        for name, value in values.items():
            if not math.isfinite(value):
                continue
            if value < self._peaks.get(f"{name}_min", math.inf):
                self._peaks[f"{name}_min"] = value
            if value > self._peaks.get(f"{name}_max", -math.inf):
                self._peaks |= {f"{name}_max": value, f"{name}_max_step": step}

    def take(self) -> dict[str, Any]:
        """Returns what a record adds for the steps it stands for, nothing where that is one, and starts anew."""
        taken: dict[str, Any] = {}
        if self._steps > 1:
            taken |= {name: self._peaks[name] for name in sorted(self._peaks)}
            if self._nonfinite:
                taken["nonfinite_steps"] = self._nonfinite
        self._empty()
        return taken

    def state(self) -> dict[str, Any]:
        """Returns what a resumed run has to know, as JSON values."""
        return {"steps": self._steps, "nonfinite": self._nonfinite, "peaks": dict(self._peaks)}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Goes on from a state; from nothing where an older version has saved none."""
        self._empty()
        if state is not None:
            self._steps, self._nonfinite = state["steps"], state["nonfinite"]
            self._peaks = dict(state["peaks"])


def train_record(step: int, m: Measurements, rate: float | None, peaks: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns the record of a step, a line of `metrics.jsonl`.

    Args:
      step: its number.
      m: its measurements, on the host.
      rate: examples a second, or None.
      peaks: of the steps it stands for, as `Interval.take` returns them.

    Example:
      >>> import numpy as np
      >>> from jaxprop.core.measurements import Layout
      >>> layout = Layout((), ())
      >>> train_record(5, Measurements(np.ones(layout.length, np.float32), layout), 100.0)
      ... # doctest: +NORMALIZE_WHITESPACE
      {'step': 5, 'split': 'train', 'loss': 1.0, 'grad_norm': 1.0, 'lr': 1.0, 'skips': 1,
       'examples_per_second': 100.0}
    """
    record: dict[str, Any] = {"step": step, "split": "train", "loss": float(m.loss)}
    metrics = {name: float(total / count) for name, (total, count) in m.metrics.items() if count}
    record |= {name: value for name, value in metrics.items() if not name.startswith(RATES)}
    record["grad_norm"] = float(m.grad_norm)
    if not math.isnan(m.learning_rate):  # an optimizer of one's own need not say its rate
        record["lr"] = float(m.learning_rate)
    record |= {name: rate for name, rate in metrics.items() if name.startswith(RATES)}
    if m.loss_scale != 1:
        record["loss_scale"] = float(m.loss_scale)
    if m.skips:
        record["skips"] = int(m.skips)
    if m.guard != 1:
        record["guard"] = float(m.guard)
    scalars = {"output_max": m.output_max}
    if m.rare is not None:
        scalars |= {name: getattr(m.rare, name) for name in RARE_SCALARS if name in Rare._fields}
    record |= {name: float(value) for name, value in scalars.items() if not math.isnan(value)}
    record |= peaks or {}
    if rate is not None:
        record["examples_per_second"] = rate
    return record


def layer_rows(step: int, m: Measurements, columns: bool = True, rare: bool = True) -> Iterator[dict[str, Any]]:
    """Yields a row for every layer and tap of a step, lines of `layers.jsonl`.

    Args:
      step: its number.
      m: its measurements, on the host.
      columns: what every record with rows says of a layer.
      rare: what only a full record says of it, if this is one.

    Yields:
      `{"step", "layer", "grad_norm", ...}` and `{"step", "tap", "grad_rms", ...}`.

    Example:
      >>> import numpy as np
      >>> from jaxprop.core.measurements import Layout
      >>> layout = Layout((), ("head",), (4,))
      >>> row, = layer_rows(5, Measurements(np.ones(layout.length, np.float32), layout))
      >>> row
      {'step': 5, 'layer': 'head', 'grad_norm': 1.0, 'grad_rms': 0.5, 'nonfinite': 0.0}
    """
    names = (*(FREQUENT if columns else ()), *(SELDOM if rare and m.rare is not None else ()))
    layers = m.layers
    of_layers = (*Layers._fields, "grad_rms", "update_ratio")
    values = {name: getattr(layers if name in of_layers else m.rare, name) for name in names}
    for i, layer in enumerate(m.layout.layers):
        cells = {name: float(column[i]) for name, column in values.items()}
        cells = {name: x for name, x in cells.items() if name in FREQUENT or not math.isnan(x)}
        if cells:
            yield {"step": step, "layer": layer, **cells}
    if rare and m.taps is not None:
        for i, (tap, _) in enumerate(m.layout.taps):
            cells = {name: float(getattr(m.taps, name)[i]) for name in TAP_COLUMNS}
            yield {"step": step, "tap": tap, **{name: x for name, x in cells.items() if not math.isnan(x)}}
