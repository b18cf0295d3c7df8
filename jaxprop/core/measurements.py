"""What one step reports: a table of signals, which names them, packs them into one float32 array and reads them. Pure.

A record is what one step reports. It holds scalars, the `(sum, count)` of each metric, one row a layer and, where
everything is measured, one row a tap. What does not apply to a step is left out of the array and reads as NaN, so that
the array of a healthy step holds no NaN and `jax.debug_nans` may watch over it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.types import Sums


class Signal(NamedTuple):
    """A line of the table.

    Args:
      name: the attribute that reads it: of `Measurements`, or of its `layers`, `rare` or `taps`.
      per: what there is one value of: `"step"`, `"layer"` or `"tap"`.
      rare: whether only the records that measure everything hold it.
    """

    name: str
    per: str
    rare: bool


SIGNALS = (
    *(
        Signal(name, "step", rare=False)
        for name in ("loss", "weight", "grad_norm", "learning_rate", "loss_scale", "skipped", "skips", "guard")
    ),
    Signal("grad_norm", "layer", rare=False),
    *(
        Signal(name, "step", rare=True)
        for name in (
            "clipped_norm", "param_norm", "update_norm", "output_max", "output_logsumexp",
            "noise_trace", "noise_signal", "curvature", "sharpness",
        )
    ),
    *(
        Signal(name, "layer", rare=True)
        for name in (
            "param_norm", "update_norm", "zero_fraction", "adam_lag", "tiny_second_moment", "swallowed", "flushed",
        )
    ),
    *(
        Signal(name, "tap", rare=True)
        for name in ("grad_rms", "rms", "abs_max", "dead", "saturated", "attention_max", "attention_entropy")
    ),
)  # fmt: skip


def _names(per: str, rare: bool) -> tuple[str, ...]:
    return tuple(signal.name for signal in SIGNALS if (signal.per, signal.rare) == (per, rare))


SCALARS, RARE_SCALARS = _names("step", rare=False), _names("step", rare=True)
COLUMNS, RARE_COLUMNS = _names("layer", rare=False), _names("layer", rare=True)
TAP_COLUMNS = _names("tap", rare=True)
# What an objective may report of its outputs among its metrics, by these names; it ends up among the scalars.
OUTPUT_SIGNALS = ("_output_max", "_output_logsumexp")
# Signals of a layer or tap are never negative: this says that one does not apply to it, and reads as NaN.
NOT_APPLICABLE = -1.0
# Kinds of taps that these signals are measured of; the others are measured of every tap.
KINDS_OF = {
    "dead": ("relu",),
    "saturated": ("tanh", "sigmoid"),
    "attention_max": ("attention",),
    "attention_entropy": ("attention",),
}


class Layers(NamedTuple):
    """One value a layer, float32 `[L]`; empty in a record without rows, NaN where the record does not hold it.

    Args:
      grad_norm: L2 norm of the gradient, before clipping and after unscaling.
      param_norm: L2 norm of the parameters after the step; 0 for one that was not taken.
      update_norm: L2 norm of the update the optimizer proposed.
      nonfinite: 1 where the gradient has an entry that is NaN or infinite, else 0.
      zero_fraction: share of gradient entries that are exactly 0.
      adam_lag: `sqrt(mean(g^2 / max(v, eps^2)))`, v the bias-corrected second moment.
      sizes: parameters in the layer, static; `norm / sqrt(size)` is the RMS.
    """

    grad_norm: Any
    param_norm: Any
    update_norm: Any
    nonfinite: Any
    zero_fraction: Any
    adam_lag: Any
    sizes: Any

    @property
    def update_ratio(self) -> Any:
        """Size of the step relative to the weights, `||dw|| / (||w|| + 1e-12)`, `[L]`."""
        with np.errstate(invalid="ignore"):  # of parameters that are infinite it is NaN, which needs no warning
            return self.update_norm / (self.param_norm + np.float32(1e-12))

    @property
    def grad_rms(self) -> Any:
        """RMS of the gradient, `||g|| / sqrt(n)`, `[L]`; as `param_rms` and `update_rms` it compares layers by size."""
        return self.grad_norm / np.sqrt(self.sizes)

    @property
    def param_rms(self) -> Any:
        """RMS of the parameters, `||w|| / sqrt(n)`, `[L]`."""
        return self.param_norm / np.sqrt(self.sizes)

    @property
    def update_rms(self) -> Any:
        """RMS of the update, `||dw|| / sqrt(n)`, `[L]`."""
        return self.update_norm / np.sqrt(self.sizes)


class Rare(NamedTuple):
    """Signals of the steps that measure everything, float32; NaN where one does not apply.

    Args:
      noise_trace: E[S], summed variance of one example's gradient, from microbatches.
      noise_signal: E[G^2], squared norm of the true gradient, from microbatches; `E[S] / E[G^2]` is the noise
        scale, in examples.
      curvature: `g^T H g / ||g||^2`, along the gradient.
      sharpness: largest eigenvalue of the Hessian, by power iteration.
      tiny_second_moment: `[L]`, share of parameters with `sqrt(v) < 10 eps`, where Adam's epsilon takes over.
      swallowed: `[L]`, share of parameters whose update was nonzero and changed nothing, `w + dw = w`.
      flushed: `[L]`, share of nonzero gradient entries below what float16 holds once scaled, `|s g| < 2^-24`.
    """

    noise_trace: Any
    noise_signal: Any
    curvature: Any
    sharpness: Any
    tiny_second_moment: Any
    swallowed: Any
    flushed: Any


class Taps(NamedTuple):
    """One value a tap, float32 `[T]`, in the order of the forward pass; NaN where one does not apply.

    Args:
      grad_rms: RMS of the gradient of the mean loss with respect to the activation.
      rms, abs_max: of the activation.
      dead: share of units that are <= 0 on every example of the batch; of relu taps.
      saturated: share of `|tanh| > 0.97`, or `|2 sigmoid - 1| > 0.97`; of tanh and sigmoid taps.
      attention_max: largest `|logit|` over a subset of queries.
      attention_entropy: mean entropy of the weights over log(keys), over a subset of queries.
    """

    grad_rms: Any
    rms: Any
    abs_max: Any
    dead: Any
    saturated: Any
    attention_max: Any
    attention_entropy: Any


class Layout(NamedTuple):
    """What a packed record holds and in which order: that of `SIGNALS`, with the metrics after the first scalars.

    Args:
      metrics: names of the metrics, two values each.
      layers: names of the layers; empty in a record without rows.
      sizes: parameters in each layer.
      fans: (inputs, outputs) of the largest kernel in each layer, (0, 0) where there is none.
      rare: whether the record holds the rare signals and the taps.
      taps: `(name, kind)` of each tap, in the order of the forward pass.
      absent: signals that the record does not hold although others of their kind are there: scalars by their names,
        those of layers as `layers.name`.
      early: layout of the steps before the last, where one call takes several and only its last one measures more.
    """

    metrics: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    fans: tuple[tuple[int, int], ...] = ()
    rare: bool = False
    taps: tuple[tuple[str, str], ...] = ()
    absent: frozenset[str] = frozenset()
    early: Layout | None = None

    @property
    def length(self) -> int:
        """Number of values in the record."""
        return max(stop for _, stop in _slots(self._replace(early=None)).values())


@functools.lru_cache(maxsize=256)
def _slots(layout: Layout) -> dict[tuple[str, str], tuple[int, int]]:
    """Where each signal lies: `(per, name)` -> first and last place; a metric is `("metric", name)`."""
    widths = {"step": 1, "layer": len(layout.layers), "tap": len(layout.taps)}
    held = [signal for signal in SIGNALS if layout.rare or not signal.rare]
    held = [s for s in held if (s.name if s.per == "step" else f"{s.per}s.{s.name}") not in layout.absent]
    first = [("step", s.name, 1) for s in held if s.per == "step" and not s.rare]
    metrics = [("metric", name, 2) for name in layout.metrics]
    rest = [(s.per, s.name, widths[s.per]) for s in held if s.per != "step" or s.rare]
    places, at = {}, 0
    for per, name, width in [*first, *metrics, *rest]:
        places[per, name] = (at, at + width)
        at += width
    return places


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Measurements:
    """What one step reports, as one packed float32 array so that it leaves the device in one copy.

    Reading an attribute of a device record dispatches a small slice; `m.host()` fetches everything once
    and makes further reads free. With `steps_per_call = S` every value has a leading axis `[S]`.

    Args:
      packed: float32 `[n]`, or `[S, n]`.
      layout: names of the metrics and of the L layers, static.

    Example:
      >>> layout = Layout(("accuracy",), ("head",), (12,))
      >>> m = Measurements(np.arange(layout.length, dtype=np.float32), layout)
      >>> float(m.loss), m.metrics["accuracy"][1].item(), m.layers.grad_norm.tolist(), m.rare
      (0.0, 9.0, [10.0], None)
    """

    packed: Any
    layout: Layout = dataclasses.field(metadata={"static": True})

    def __str__(self) -> str:
        if isinstance(self.packed, jax.core.Tracer):
            return repr(self)  # inside a transformation, where there are no values to show
        m = self.host()
        if m.packed.ndim == 1:
            return _text(m)
        return f"the last of {len(m.packed)} steps:\n{_text(m.at(-1))}"

    def host(self) -> Measurements:
        """Returns the same record in host memory; waits for the step that made it."""
        return Measurements(np.asarray(self.packed), self.layout)

    def at(self, i: int) -> Measurements:
        """Returns the record of step `i`, from 0, of the S that one call took."""
        early = self.layout.early
        if early is None or i in (-1, len(self.packed) - 1):
            return Measurements(self.packed[i], self.layout._replace(early=None))
        return Measurements(self.packed[i, : early.length], early)

    def _read(self, per: str, name: str) -> Any:
        """The values of a signal, with the axis `[L]` or `[T]` if it is one of layers or taps; NaN if it is absent."""
        layout = self.layout._replace(early=None)
        width = {"layer": len(layout.layers), "tap": len(layout.taps)}.get(per)
        place = _slots(layout).get((per, name))
        if place is None:
            return np.full(self.packed.shape[:-1] + (() if width is None else (width,)), np.nan, np.float32)
        values = self.packed[..., place[0]] if width is None else self.packed[..., place[0] : place[1]]
        if self.layout.early is not None and (per, name) not in _slots(self.layout.early):
            values = np.asarray(values).copy()
            values[:-1] = np.nan  # the steps before the last did not measure it
        return values if width is None else _applicable(values)

    @property
    def loss(self) -> Any:
        """Mean loss over the batch, `sum(w l) / sum(w)`, unscaled."""
        return self._read("step", "loss")

    @property
    def weight(self) -> Any:
        """Sum of the weights the loss was averaged over (examples, or tokens)."""
        return self._read("step", "weight")

    @property
    def grad_norm(self) -> Any:
        """Global L2 norm of the gradient, before clipping and after unscaling."""
        return self._read("step", "grad_norm")

    @property
    def learning_rate(self) -> Any:
        """Learning rate used in this step; NaN where the optimizer does not tell."""
        return self._read("step", "learning_rate")

    @property
    def loss_scale(self) -> Any:
        """Loss scale used in this step; 1 without loss scaling."""
        return self._read("step", "loss_scale")

    @property
    def skipped(self) -> Any:
        """1 where the step was not taken, since its loss or gradient was not finite, and the state stayed; else 0."""
        return self._read("step", "skipped")

    @property
    def skips(self) -> Any:
        """Number of steps not taken since the state was made, those that the spike guard skipped among them."""
        return self._read("step", "skips")

    @property
    def guard(self) -> Any:
        """Factor the spike guard put on the gradient, 1 if it did nothing, 0 if it skipped the step."""
        return self._read("step", "guard")

    @property
    def clipped_norm(self) -> Any:
        """Global L2 norm of the gradient that reaches the optimizer, after the clipping named by `clip`; else NaN."""
        return self._read("step", "clipped_norm")

    @property
    def param_norm(self) -> Any:
        """Global L2 norm of the parameters after the step; 0 for one that was not taken."""
        return self._read("step", "param_norm")

    @property
    def update_norm(self) -> Any:
        """Global L2 norm of the update the optimizer proposed; 0 for a skipped step."""
        return self._read("step", "update_norm")

    @property
    def output_max(self) -> Any:
        """Largest `|output|` of the model over the batch; NaN where the step does not see the outputs."""
        return self._read("step", "output_max")

    @property
    def output_logsumexp(self) -> Any:
        """Mean over the batch of `logsumexp(outputs)^2`, the z of a z-loss; NaN where the outputs are no logits."""
        return self._read("step", "output_logsumexp")

    @property
    def metrics(self) -> dict[str, tuple[Any, Any]]:
        """Each metric's `(sum, count)` over the batch, so that intervals add up exactly."""
        starts = {name: _slots(self.layout._replace(early=None))["metric", name][0] for name in self.layout.metrics}
        return {name: (self.packed[..., at], self.packed[..., at + 1]) for name, at in starts.items()}

    @property
    def layers(self) -> Layers:
        """Per-layer signals, each `[L]` in `layout.layers` order; empty where this record has none."""
        read = {name: self._read("layer", name) for name in Layers._fields if name not in ("nonfinite", "sizes")}
        # The norm is taken so that it is finite wherever the entries are.
        read["nonfinite"] = (~(abs(read["grad_norm"]) < np.inf)).astype(np.float32)
        return Layers(**read, sizes=np.asarray(self.layout.sizes, np.float32))

    @property
    def rare(self) -> Rare | None:
        """Signals that only some steps measure, or None."""
        if not self.layout.rare:
            return None
        per = {name: "step" if name in RARE_SCALARS else "layer" for name in Rare._fields}
        return Rare(**{name: self._read(per[name], name) for name in Rare._fields})

    @property
    def taps(self) -> Taps | None:
        """Signals of the tapped activations, each `[T]` in `layout.taps` order, or None where this step has none."""
        if not self.layout.rare:
            return None
        kinds = [kind for _, kind in self.layout.taps]
        read = {name: self._read("tap", name) for name in Taps._fields}
        for name, measured in KINDS_OF.items():
            read[name] = np.where([kind in measured for kind in kinds], np.asarray(read[name]), np.float32(np.nan))
        return Taps(**read)


def _applicable(values: Any) -> Any:
    module = np if isinstance(values, np.ndarray) else jnp
    return module.where(values < 0, np.float32(np.nan), values)


# -- for a person ---------------------------------------------------------------------------------

_SHOWN = ("param_norm", "update_ratio", "zero_fraction", "adam_lag")  # of layers, where the record holds them
_ROWS = 24  # layers that are shown


def _text(m: Measurements) -> str:
    """The record of one step, on the host, as lines: the scalars it holds, then a row for each layer."""
    read = {name: getattr(m, name) for name in (*SCALARS, *RARE_SCALARS) if hasattr(m, name)}
    read |= {name: getattr(m.rare, name) for name in RARE_SCALARS if name in Rare._fields and m.rare is not None}
    usual = {"loss_scale": 1, "guard": 1, "skipped": 0, "skips": 0}
    # Elsewhere NaN means that the record does not hold a signal; of these two it is news.
    held = {name: float(x) for name, x in read.items() if name in ("loss", "grad_norm") or not np.isnan(x)}
    figures = {name: x for name, x in held.items() if x != usual.get(name)}
    figures |= {name: float(total / count) for name, (total, count) in m.metrics.items() if count}
    lines = ["  ".join(f"{name} {value:.4g}" for name, value in figures.items())]
    layers, names = m.layers, m.layout.layers
    columns = {name: np.asarray(getattr(layers, name)) for name in ("grad_norm", "grad_rms", *_SHOWN)} if names else {}
    columns = {name: values for name, values in columns.items() if not np.isnan(values).all()}
    width = max((len(name) for name in names[:_ROWS]), default=0)
    if names:
        lines.append("  ".join(["layer".ljust(width), *(f"{name:>13}" for name in columns)]))
    for i, name in enumerate(names[:_ROWS]):
        cells = ["" if np.isnan(values[i]) else f"{values[i]:.4g}" for values in columns.values()]
        lines.append("  ".join([name.ljust(width), *(f"{cell:>13}" for cell in cells)]).rstrip())
    if len(names) > _ROWS:
        lines.append(f"and {len(names) - _ROWS} more layers")
    return "\n".join(lines)


# -- packing ------------------------------------------------------------------------------------


def outputs(sums: Sums) -> dict[str, Any]:
    """What an objective reported of its outputs, by the names of scalars.

    Example:
      >>> {name: float(value) for name, value in outputs({"_output_max": (6.0, 2.0)}).items()}
      {'output_max': 3.0}
    """
    return {name.lstrip("_"): sums[name][0] / sums[name][1] for name in OUTPUT_SIGNALS if name in sums}


def pack(
    sums: Sums,
    scalars: Mapping[str, Any],
    layers: Mapping[str, Any] | None = None,
    taps: Mapping[str, Any] | None = None,
    layout: Layout | None = None,
) -> Measurements:
    """Packs one step's record.

    Args:
      sums: metrics of the batch, `{name: (sum, count)}`.
      scalars: by the names of `SCALARS` and `RARE_SCALARS`; those that are not given are absent from the record.
      layers: signals of layers by name, `[L]` each; None for a record without rows.
      taps: signals of taps by name, `[T]` each; None for a record without the rare signals.
      layout: names of layers and taps; the rest is filled in here.

    Returns:
      The record.

    Example:
      >>> m = pack({"accuracy": (1.0, 2.0)}, {"loss": 0.5})
      >>> float(m.loss), m.layout.metrics, bool(np.isnan(m.grad_norm))
      (0.5, ('accuracy',), True)
    """
    shown = {name: pair for name, pair in sums.items() if name not in OUTPUT_SIGNALS}
    given = {"step": scalars, "layer": layers or {}, "tap": taps or {}}
    rare = taps is not None
    layout = (layout or Layout())._replace(metrics=tuple(shown), rare=rare, taps=layout.taps if layout and rare else ())
    if layers is None:
        layout = layout._replace(layers=(), sizes=(), fans=())
    missing = {
        signal.name if signal.per == "step" else f"{signal.per}s.{signal.name}"
        for signal in SIGNALS
        if (rare or not signal.rare) and signal.name not in given[signal.per]
    }
    layout = layout._replace(absent=frozenset(missing))
    values = [shown[name] if per == "metric" else given[per][name] for per, name in _slots(layout)]
    packed = jnp.concatenate([_vector(value) for value in values])
    assert packed.shape == (layout.length,)
    return Measurements(packed, layout)


def join(early: Measurements, last: Measurements) -> Measurements:
    """The records of S - 1 steps `[S - 1, n]` and of a last one that measured more, `[m]`, as one `[S, m]`.

    Example:
      >>> early = pack({}, {"loss": 1.0})
      >>> early = Measurements(early.packed[None], early.layout)
      >>> last = pack({}, {"loss": 2.0}, {}, {})
      >>> [float(x) for x in join(early, last).loss]
      [1.0, 2.0]
    """
    padded = jnp.pad(early.packed, ((0, 0), (0, last.layout.length - early.layout.length)))
    return Measurements(jnp.concatenate([padded, last.packed[None]]), last.layout._replace(early=early.layout))


def _vector(value: Any) -> jax.Array:
    if isinstance(value, tuple):
        return jnp.stack([jnp.asarray(part, jnp.float32) for part in value])
    return jnp.ravel(jnp.asarray(value, jnp.float32))
