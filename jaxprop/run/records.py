"""What is logged of a step's measurements.

A *record* is what one step reports: `Measurements` in memory, and a line of `metrics.jsonl`. A *row* holds the values
of one layer or of one tap in a record, and is a line of `layers.jsonl`. The *detail* of a step is how much it
measures: `lean` (scalars only), `rows` (also the signals of every layer), `full` (all signals, those of the taps
too) or `flush` (also the share of gradients that float16 would flush to zero).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jaxprop.core.measurements import COLUMNS, RARE_COLUMNS, RARE_SCALARS, TAP_COLUMNS, Measurements

# NaN there says that a signal does not apply to this optimizer or model, and is left out; elsewhere it is news.
ONCE_KNOWN = ("adam_lag", *RARE_COLUMNS)


def train_record(step: int, m: Measurements, rate: float | None) -> dict[str, Any]:
    """Returns the record of a step, a line of `metrics.jsonl`.

    Args:
      step: its number.
      m: its measurements, on the host.
      rate: examples a second, or None.

    Example:
      >>> import numpy as np
      >>> from jaxprop.core.measurements import Layout
      >>> layout = Layout((), ())
      >>> train_record(5, Measurements(np.ones(layout.length, np.float32), layout), 100.0)
      ... # doctest: +NORMALIZE_WHITESPACE
      {'step': 5, 'split': 'train', 'loss': 1.0, 'grad_norm': 1.0, 'lr': 1.0, 'skips': 1, 'output_max': 1.0,
       'examples_per_second': 100.0}
    """
    record: dict[str, Any] = {"step": step, "split": "train", "loss": float(m.loss)}
    record |= {name: float(total / count) for name, (total, count) in m.metrics.items() if count}
    record |= {"grad_norm": float(m.grad_norm), "lr": float(m.learning_rate)}
    if m.loss_scale != 1:
        record["loss_scale"] = float(m.loss_scale)
    if m.skips:
        record["skips"] = int(m.skips)
    if m.guard != 1:
        record["guard"] = float(m.guard)
    scalars = {"output_max": m.output_max}
    if m.rare is not None:
        scalars |= {name: getattr(m.rare, name) for name in RARE_SCALARS}
    record |= {name: float(value) for name, value in scalars.items() if not math.isnan(value)}
    if rate is not None:
        record["examples_per_second"] = rate
    return record


def layer_rows(step: int, m: Measurements, columns: bool = True, rare: bool = True) -> Iterator[dict[str, Any]]:
    """Yields a row for every layer and tap of a step, lines of `layers.jsonl`.

    Args:
      step: its number.
      m: its measurements, on the host.
      columns: the signals that every record with rows has.
      rare: the signals of a record of all signals, if it is one.

    Yields:
      `{"step", "layer", "grad_norm", ...}` and `{"step", "tap", "grad_rms", ...}`.

    Example:
      >>> import numpy as np
      >>> from jaxprop.core.measurements import Layout
      >>> layout = Layout((), ("head",), (4,))
      >>> row, = layer_rows(5, Measurements(np.ones(layout.length, np.float32), layout))
      >>> row["layer"], row["update_ratio"]
      ('head', 1.0)
    """
    values: dict[str, Any] = {}
    if columns:
        values |= {name: getattr(m.layers, name) for name in (*COLUMNS, "grad_rms", "update_ratio")}
    if rare and m.rare is not None:
        values |= {name: getattr(m.rare, name) for name in RARE_COLUMNS}
    for i, layer in enumerate(m.layout.layers):
        cells = {name: float(column[i]) for name, column in values.items()}
        cells = {name: x for name, x in cells.items() if name not in ONCE_KNOWN or not math.isnan(x)}
        if cells:
            yield {"step": step, "layer": layer, **cells}
    if rare and m.taps is not None:
        for i, (tap, _) in enumerate(m.layout.taps):
            cells = {name: float(getattr(m.taps, name)[i]) for name in TAP_COLUMNS}
            yield {"step": step, "tap": tap, **{name: x for name, x in cells.items() if not math.isnan(x)}}
