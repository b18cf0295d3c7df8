"""What is logged of a step's measurements.

A *record* is what one step reports: `Measurements` in memory, and a line of `metrics.jsonl`. A *row* holds the values
of one layer or of one tap in a record, and is a line of `layers.jsonl`. The *detail* of a step is how much it
measures: `lean` (scalars only), `rows` (also the gradient norm of every layer), `full` (all signals, those of the taps
too) or `flush` (also the share of gradients that float16 would flush to zero).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jaxprop.core.measurements import COLUMNS, RARE_COLUMNS, RARE_SCALARS, TAP_COLUMNS, Layers, Measurements, Rare

# What every record with rows says of a layer, and what only a full one says. A gradient norm of NaN is news; elsewhere
# NaN means that a signal is not in this record, or does not apply to this optimizer or model, and is left out.
FREQUENT = (*COLUMNS, "grad_rms", "nonfinite")
SELDOM = (*RARE_COLUMNS, "update_ratio")


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
      {'step': 5, 'split': 'train', 'loss': 1.0, 'grad_norm': 1.0, 'lr': 1.0, 'skips': 1,
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
        scalars |= {name: getattr(m.rare, name) for name in RARE_SCALARS if name in Rare._fields}
    record |= {name: float(value) for name, value in scalars.items() if not math.isnan(value)}
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
