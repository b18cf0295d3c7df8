"""A record as plain numbers, and the evidence collected over a run, by which causes are chosen. Pure."""

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
RATES = "lr/"  # what the names of learning rates of groups of parameters begin with, which are told among the metrics
EMBEDDING = re.compile(r"embed|(^|[/_.])w[tp]e($|[/_.\[])", re.IGNORECASE)
RECURRENT = re.compile(r"recur|rnn|lstm|gru|elman|(^|[/_.])(cell|u|h2h|hh)($|[/_.\[])", re.IGNORECASE)


class Rows(NamedTuple):
    """The rows of a record, one float64 vector `[L]` per signal; `log_grad` is -inf where the gradient is 0.

    Most records hold only `grad_norm`, from which `nonfinite` and `log_grad` follow; the others are NaN there.
    """

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
      loss, grad_norm, weight, rate, scale, output, logsumexp, update_norm, param_norm: scalars; NaN if unknown.
      finite: whether loss and gradient norm are finite and the step was not skipped as non-finite.
      fed: whether the record enters the histories: it is finite, and the guard did not skip it either.
      rows, tiny, swallowed, flushed: `[L]`; None if the record has no such rows.
      taps: signal -> `[T]`; None if the record has no rows of taps.
      names, fans: of the layers, as in `Layout`.
      tapped: (name, kind) of the taps.
      lowest: the lowest of the rate and those of groups of parameters; NaN if unknown.
      clipped: gradient norm after the optimizer's clipping; NaN if it does not clip, as far as is known.
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
    clipped: float = NAN
    lowest: float = NAN

    def layer(self, index: int) -> str | None:
        return self.names[index] if index < len(self.names) else None

    def layer_of_tap(self, index: int) -> str:
        """The layer whose path contains the tap's or is part of it, such as `layers/0/dense` for `layers/0`."""
        tap = self.tapped[index][0]
        for name in self.names:
            if name == tap or name.startswith(tap + "/") or tap.startswith(name + "/"):
                return name
        return tap


def read(step: int, m: Measurements, layer_names: Sequence[str]) -> Reading:
    """Converts a record to plain numbers, with one transfer from the device.

    Args:
      step: its step, from 1.
      m: the record of one step.
      layer_names: names of the layers, for records without rows; those that a record with rows has are its own, in
        the order of the forward pass.

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
    # A step skipped by the guard is finite, but its values are outliers that must not enter the histories.
    fed = finite and guard != 0
    names = m.layout.layers or tuple(layer_names)
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
        names, m.layout.taps, m.layout.fans, float(m.clipped_norm), _lowest(m),
    )  # fmt: skip


def _lowest(m: Measurements) -> float:
    groups = [float(rate) for name, (rate, _) in m.metrics.items() if name.startswith(RATES)]
    return min([float(m.learning_rate), *groups])


def _rows(m: Measurements) -> Rows:
    columns = {name: np.asarray(column, np.float64) for name, column in m.layers._asdict().items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(columns["grad_norm"])
        return Rows(**columns, log_grad=logs, ratio=columns["update_norm"] / (columns["param_norm"] + 1e-12))


def after_recurrence(names: Sequence[str]) -> list[int]:
    """Returns which layers are nearer to the loss than the recurrent ones, by their position in the forward pass.

    Where none follows the last of these, names are in another order. Then it is all others but embeddings, whose
    ||g|| / ||w|| is small by nature: their weights are large, and few of them are read.

    Example:
      >>> after_recurrence(["embed", "recurrent", "head"]), after_recurrence(["embed", "head", "recurrent"])
      ([2], [1])
    """
    recurrent = [i for i, name in enumerate(names) if RECURRENT.search(name)]
    after = list(range(max(recurrent, default=len(names)) + 1, len(names)))
    return after or [i for i, name in enumerate(names) if i not in recurrent and not EMBEDDING.search(name)]


def grown_before(r: Reading) -> float:
    """Returns decades by which ||g|| / ||w|| of a layer exceeds the smallest of those after the recurrent ones.

    NaN where there are no rows, or no layers on one of the two sides.
    """
    after = after_recurrence(r.names)
    before = [i for i in range(len(r.names)) if i not in after]
    if r.rows is None or not after or not before:
        return NAN
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = r.rows.log_grad / math.log(10) - np.log10(r.rows.param_norm)
    return float(np.max(ratios[before]) - np.min(ratios[after]))


def depth_order(names: Sequence[str]) -> list[int]:
    """Returns the indices of the largest family of layers whose names differ in one number, ordered by that number.

    An example is `blocks/0/mlp`, `blocks/1/mlp`, ...

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
    """The latest evidence of all detectors, and the history of the learning rate.

    Args:
      seen: name of a piece of evidence -> its latest value, such as `lag`, `dead` or `tilt`.
      seen_at: the step of each.
      start, step: the first step, and the newest one.
      layers: number of layers.
      rate: the latest learning rate.
      first: the first learning rate.
      peak: the learning rate before it last stopped rising.
      settled: the highest learning rate at which training has been stable; 0 before there is one.
      risen_at, jumped_at: step of the last rise, and of the last jump, of the learning rate.
      level: number of steps since the last rise.
      warming: whether the learning rate has been rising since the start.
      grace_until: last step of the grace period.
      weight: weight of the batches.
      weight_off: number of consecutive batches with another weight.
      recurrent, attention: whether the model has such layers.
      adam: whether the optimizer keeps a second moment.
      clipped: whether the optimizer clips gradients, as far as records tell.
      dead_since, dead_layers: the step since which at least half of the layers have had no gradient at all, 0 if they
        have one, and how many layers that is.
    """

    seen: dict[str, float] = dataclasses.field(default_factory=dict)
    seen_at: dict[str, int] = dataclasses.field(default_factory=dict)
    start: int = 0
    step: int = 0
    layers: int = 0
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
    adam: bool = False
    clipped: bool = False
    dead_since: int = 0
    dead_layers: int = 0

    def note(self, step: int, **values: float) -> None:
        for name, value in values.items():
            self.seen[name] = float(value)
            self.seen_at[name] = step

    def still(self, step: int, without: np.ndarray) -> None:
        """Notes since when at least half of the layers have had no gradient at all, given for how many steps."""
        count = int(np.sort(without)[::-1][(len(without) - 1) // 2]) if len(without) else 0
        self.dead_since = step - count + 1 if count else 0
        self.dead_layers = int((without >= max(count, 1)).sum())

    def get(self, name: str, default: float = 0.0) -> float:
        return self.seen.get(name, default)

    def grace(self, step: int) -> bool:
        return step <= self.grace_until
