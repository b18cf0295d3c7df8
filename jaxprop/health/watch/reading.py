"""One record as plain numbers, and the running evidence that alerts and their causes are chosen by. Pure."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxprop.errors import UsageError

if TYPE_CHECKING:
    from jaxprop.core.measurements import Measurements

NAN = math.nan
EMBEDDING = re.compile(r"embed|(^|[/_.])w[tp]e($|[/_.\[])", re.IGNORECASE)
RECURRENT = re.compile(r"recur|rnn|lstm|gru|elman|(^|[/_.])(cell|u|h2h|hh)($|[/_.\[])", re.IGNORECASE)


class Rows(NamedTuple):
    """What `Layers` holds, float64 `[L]`, with the logarithm of the gradient norm (-inf where it is 0)."""

    grad_norm: np.ndarray
    param_norm: np.ndarray
    update_norm: np.ndarray
    nonfinite: np.ndarray
    zero_fraction: np.ndarray
    adam_lag: np.ndarray
    sizes: np.ndarray
    log_grad: np.ndarray
    ratio: np.ndarray


class Reading(NamedTuple):
    """One record in host memory.

    Args:
      step: its step, from 1.
      loss, grad_norm, weight, rate, scale, output, logsumexp, update_norm, param_norm: scalars; NaN where unknown.
      finite: loss and gradient norm are finite and the step was not skipped for them.
      fed: the record may enter histories: finite, and not skipped by the guard either.
      rows, tiny, swallowed, flushed, taps: `[L]`, `[T]`; None where the record has none.
      names, fans: of the layers, as in `Layout`; `tapped`: (name, kind) of the taps.
    """

    step: int
    loss: float
    grad_norm: float
    weight: float
    rate: float
    scale: float
    output: float
    logsumexp: float
    update_norm: float
    param_norm: float
    finite: bool
    fed: bool
    rows: Rows | None
    tiny: np.ndarray | None
    swallowed: np.ndarray | None
    flushed: np.ndarray | None
    taps: dict[str, np.ndarray] | None
    names: Sequence[str]
    tapped: Sequence[tuple[str, str]]
    fans: Sequence[tuple[int, int]]

    def layer(self, index: int) -> str | None:
        return self.names[index] if index < len(self.names) else None

    def layer_of_tap(self, index: int) -> str:
        """The layer that shares its path with a tap, as `layers/0/dense` with `layers/0`; else the tap itself."""
        tap = self.tapped[index][0]
        for name in self.names:
            if name == tap or name.startswith(tap + "/") or tap.startswith(name + "/"):
                return name
        return tap


def read(step: int, m: Measurements, layer_names: Sequence[str]) -> Reading:
    """Turns a record into plain numbers, fetching it once.

    Args:
      step: the step that made it, from 1.
      m: the record of one step.
      layer_names: used where the record's layout names other or no layers.

    Returns:
      The reading.

    Raises:
      UsageError: the record holds several steps.
    """
    m = m.host()
    if m.packed.ndim != 1:
        raise UsageError(
            f"expected the record of one step, got one of {len(m.packed)} steps; write "
            f"for i in range({len(m.packed)}): watch.update(first + i, m.at(i))"
        )
    loss, norm, guard = float(m.loss), float(m.grad_norm), float(m.guard)
    finite = math.isfinite(loss) and math.isfinite(norm) and not float(m.skipped) > 0
    # A step that the guard skipped is finite; its values are the outliers that histories must not see.
    fed = finite and guard != 0
    names = m.layout.layers if len(m.layout.layers) != len(layer_names) else layer_names
    rare, taps = m.rare, m.taps
    return Reading(
        step, loss, norm, float(m.weight), float(m.learning_rate), float(m.loss_scale),
        float(m.output_max), float(m.output_logsumexp), float(m.update_norm), float(m.param_norm),
        finite or (guard == 0 and math.isfinite(loss) and math.isfinite(norm)), fed,
        _rows(m) if m.layout.layers else None,
        None if rare is None else np.asarray(rare.tiny_second_moment, np.float64),
        None if rare is None else np.asarray(rare.swallowed, np.float64),
        None if rare is None else np.asarray(rare.flushed, np.float64),
        None if taps is None or not m.layout.taps else {
            name: np.asarray(value, np.float64) for name, value in zip(taps._fields, taps, strict=True)
        },
        names, m.layout.taps, m.layout.fans,
    )  # fmt: skip


def _rows(m: Measurements) -> Rows:
    columns = {name: np.asarray(column, np.float64) for name, column in m.layers._asdict().items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(columns["grad_norm"])
        return Rows(**columns, log_grad=logs, ratio=columns["update_norm"] / (columns["param_norm"] + 1e-12))


def depth_order(names: Sequence[str]) -> list[int]:
    """Rows of the largest family of layers that differ in one number, in its order: `blocks/0/mlp`, `blocks/1/mlp`, ...

    The order of the rows themselves is that of the parameters' names, not of the forward pass.

    Example:
      >>> depth_order(["embed", "layers/1/dense", "layers/10/dense", "layers/2/dense"])
      [1, 3, 2]
    """
    families: dict[str, list[tuple[int, int]]] = {}
    for row, name in enumerate(names):
        number = re.search(r"\d+", name)
        if number:
            family = name[: number.start()] + "#" + name[number.end() :]
            families.setdefault(family, []).append((int(number.group()), row))
    largest = max(families.values(), key=len, default=[])
    return [row for _, row in sorted(largest)]


@dataclasses.dataclass
class Trail:
    """What the detectors have last seen, each number by its name, and the story of the learning rate.

    Args:
      seen: latest evidence by name, such as `lag`, `dead`, `tilt`; only what a detector has measured.
      seen_at: the step of each.
      start: the first step seen.
      rate: the latest learning rate; first: the first; peak: before it last began to fall or stay.
      settled: the highest that training has stayed at or come down from; 0 while it has not.
      risen_at: step of the last rise; jumped_at: of the last jump; level: steps since the last rise.
      warming: the rate has risen from the start and not stopped.
      grace_until: last step of the grace period.
      weight: of the batches, and weight_off: batches in a row that were of another one.
      recurrent, attention: whether the model has such layers.
    """

    seen: dict[str, float] = dataclasses.field(default_factory=dict)
    seen_at: dict[str, int] = dataclasses.field(default_factory=dict)
    start: int = 0
    rate: float = NAN
    first: float = NAN
    peak: float = NAN
    settled: float = 0.0
    risen_at: int = 0
    jumped_at: int = -1
    level: int = 0
    warming: bool = False
    grace_until: int = 0
    weight: float = NAN
    weight_off: int = 0
    recurrent: bool = False
    attention: bool = False

    def note(self, step: int, **values: float) -> None:
        for name, value in values.items():
            self.seen[name] = float(value)
            self.seen_at[name] = step

    def get(self, name: str, default: float = 0.0) -> float:
        return self.seen.get(name, default)

    def grace(self, step: int) -> bool:
        return step <= self.grace_until
