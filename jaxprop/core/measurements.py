"""What one step reports: a table of signals, their packing into one float32 array, and their names. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.types import Sums

SCALARS = (
    "loss",
    "weight",
    "grad_norm",
    "clipped_norm",
    "param_norm",
    "update_norm",
    "learning_rate",
    "loss_scale",
    "skipped",
    "skips",
    "guard",
    "output_max",
    "output_logsumexp",
)
# What an objective may report of its outputs among its metrics, by these names; it ends up among the scalars.
OUTPUT_SIGNALS = ("_output_max", "_output_logsumexp")
COLUMNS = ("grad_norm", "param_norm", "update_norm", "nonfinite", "zero_fraction", "adam_lag")
RARE_SCALARS = ("noise_trace", "noise_signal", "curvature", "sharpness")
RARE_COLUMNS = ("tiny_second_moment", "swallowed", "flushed")
TAP_COLUMNS = ("grad_rms", "rms", "abs_max", "dead", "saturated", "attention_max", "attention_entropy")


class Layers(NamedTuple):
    """One value a layer, float32 `[L]`; empty in a record without rows.

    Args:
      grad_norm: L2 norm of the gradient, before clipping and after unscaling.
      param_norm: L2 norm of the parameters after the step.
      update_norm: L2 norm of the update the optimizer proposed.
      nonfinite: number of gradient entries that are NaN or infinite.
      zero_fraction: share of gradient entries that are exactly 0.
      adam_lag: `sqrt(mean(g^2 / max(v, eps^2)))`, v the bias-corrected second moment; NaN without one.
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
    """Where each value lies in a packed record: scalars, metric (sum, count) pairs, layer columns, then what is rare.

    Args:
      metrics: names of the metrics.
      layers: names of the layers; empty in a record without rows.
      sizes: parameters in each layer.
      fans: (inputs, outputs) of the largest kernel in each layer, (0, 0) where there is none.
      rare: whether the record ends with the rare signals and the taps.
      taps: `(name, kind)` of each tap, in the order of the forward pass.
      early: layout of the steps before the last, where one call takes several and only its last one measures more.
    """

    metrics: tuple[str, ...]
    layers: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    fans: tuple[tuple[int, int], ...] = ()
    rare: bool = False
    taps: tuple[tuple[str, str], ...] = ()
    early: Layout | None = None

    @property
    def length(self) -> int:
        """Number of values in the record."""
        rows = len(COLUMNS) + (len(RARE_COLUMNS) if self.rare else 0)
        rare = len(RARE_SCALARS) + len(TAP_COLUMNS) * len(self.taps) if self.rare else 0
        return len(SCALARS) + 2 * len(self.metrics) + rows * len(self.layers) + rare


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
      >>> float(m.loss), m.metrics["accuracy"][1].item(), m.layers.update_norm.tolist(), m.rare
      (0.0, 14.0, [17.0], None)
    """

    packed: Any
    layout: Layout = dataclasses.field(metadata={"static": True})

    def host(self) -> Measurements:
        """Returns the same record in host memory; waits for the step that made it."""
        return Measurements(np.asarray(self.packed), self.layout)

    def at(self, i: int) -> Measurements:
        """Returns the record of step `i`, from 0, of the S that one call took."""
        early = self.layout.early
        if early is None or i in (-1, len(self.packed) - 1):
            return Measurements(self.packed[i], self.layout._replace(early=None))
        return Measurements(self.packed[i, : early.length], early)

    def _scalar(self, name: str) -> Any:
        return self.packed[..., SCALARS.index(name)]

    @property
    def loss(self) -> Any:
        """Mean loss over the batch, `sum(w l) / sum(w)`, unscaled."""
        return self._scalar("loss")

    @property
    def weight(self) -> Any:
        """Sum of the weights the loss was averaged over (examples, or tokens)."""
        return self._scalar("weight")

    @property
    def grad_norm(self) -> Any:
        """Global L2 norm of the gradient, before clipping and after unscaling."""
        return self._scalar("grad_norm")

    @property
    def param_norm(self) -> Any:
        """Global L2 norm of the parameters after the step."""
        return self._scalar("param_norm")

    @property
    def update_norm(self) -> Any:
        """Global L2 norm of the update the optimizer proposed; 0 for a skipped step."""
        return self._scalar("update_norm")

    @property
    def clipped_norm(self) -> Any:
        """Global L2 norm of the gradient that reaches the optimizer, after clipping; NaN where it is not measured."""
        return self._scalar("clipped_norm")

    @property
    def guard(self) -> Any:
        """Factor the spike guard put on the gradient: 1 if it did nothing, 0 if it skipped the step."""
        return self._scalar("guard")

    @property
    def output_max(self) -> Any:
        """Largest `|output|` of the model over the batch; NaN where the step does not see the outputs."""
        return self._scalar("output_max")

    @property
    def output_logsumexp(self) -> Any:
        """Mean over the batch of `logsumexp(outputs)^2`, the z of a z-loss; NaN where the outputs are no logits."""
        return self._scalar("output_logsumexp")

    @property
    def learning_rate(self) -> Any:
        """Learning rate used in this step; NaN where the optimizer does not tell."""
        return self._scalar("learning_rate")

    @property
    def loss_scale(self) -> Any:
        """Loss scale used in this step; 1 without loss scaling."""
        return self._scalar("loss_scale")

    @property
    def skipped(self) -> Any:
        """1 where loss or gradient was not finite and the state was left as it was, else 0."""
        return self._scalar("skipped")

    @property
    def skips(self) -> Any:
        """Number of skipped steps since the state was made."""
        return self._scalar("skips")

    @property
    def metrics(self) -> dict[str, tuple[Any, Any]]:
        """Each metric's `(sum, count)` over the batch, so that intervals add up exactly."""
        start = len(SCALARS)
        return {
            name: (self.packed[..., start + 2 * i], self.packed[..., start + 2 * i + 1])
            for i, name in enumerate(self.layout.metrics)
        }

    def _block(self, start: int, columns: tuple[str, ...], width: int) -> list[Any]:
        """Columns of `width` values each, one after the other from `start` on."""
        return [self.packed[..., start + i * width : start + (i + 1) * width] for i in range(len(columns))]

    def _rows_end(self) -> int:
        return len(SCALARS) + 2 * len(self.layout.metrics) + len(COLUMNS) * len(self.layout.layers)

    @property
    def layers(self) -> Layers:
        """Per-layer signals, each `[L]` in `layout.layers` order; empty where this record has none."""
        start, n = len(SCALARS) + 2 * len(self.layout.metrics), len(self.layout.layers)
        return Layers._make([*self._block(start, COLUMNS, n), np.asarray(self.layout.sizes, np.float32)])

    @property
    def rare(self) -> Rare | None:
        """Signals that only some steps measure, or None."""
        if not self.layout.rare:
            return None
        start, n = self._rows_end(), len(self.layout.layers)
        scalars = (self.packed[..., start + i] for i in range(len(RARE_SCALARS)))
        return Rare(*scalars, *self._block(start + len(RARE_SCALARS), RARE_COLUMNS, n))

    @property
    def taps(self) -> Taps | None:
        """Signals of the tapped activations, each `[T]` in `layout.taps` order, or None where this step has none."""
        if not self.layout.rare:
            return None
        start = self._rows_end() + len(RARE_SCALARS) + len(RARE_COLUMNS) * len(self.layout.layers)
        return Taps(*self._block(start, TAP_COLUMNS, len(self.layout.taps)))


def outputs(sums: Sums) -> dict[str, Any]:
    """What an objective reported of its outputs, as means over microbatches; NaN what it did not.

    Example:
      >>> {name: float(value) for name, value in outputs({"_output_max": (6.0, 2.0)}).items()}
      {'output_max': 3.0, 'output_logsumexp': nan}
    """
    nan = (jnp.float32(jnp.nan), jnp.float32(1))
    pairs = {name: sums.get(name, nan) for name in OUTPUT_SIGNALS}
    return {name.lstrip("_"): total / count for name, (total, count) in pairs.items()}


def pack(
    sums: Sums,
    scalars: Mapping[str, Any],
    rows: Sequence[jax.Array] | None = None,
    rare: Mapping[str, Any] | None = None,
    taps: jax.Array | None = None,
    layout: Layout | None = None,
) -> Measurements:
    """Packs one step's record.

    Args:
      sums: metrics of the batch.
      scalars: by the names of `SCALARS`; those that are missing are NaN.
      rows: in the order of `COLUMNS`, one `[L]` or several `[n, L]` at a time; or None for a record without rows.
      rare: by the names of `RARE_SCALARS` and `RARE_COLUMNS`, or None.
      taps: `[len(TAP_COLUMNS), T]`.
      layout: names of layers and taps; the rest is filled in here.

    Returns:
      The record.

    Example:
      >>> m = pack({"accuracy": (1.0, 2.0)}, {"loss": 0.5})
      >>> float(m.loss), m.layout.metrics, bool(jnp.isnan(m.grad_norm))
      (0.5, ('accuracy',), True)
    """
    nan = jnp.float32(jnp.nan)
    shown = {name: pair for name, pair in sums.items() if name not in OUTPUT_SIGNALS}
    layout = (layout or Layout((), ()))._replace(metrics=tuple(shown), rare=rare is not None)
    if rows is None:
        layout = layout._replace(layers=(), sizes=(), fans=())
    values = [scalars.get(name, nan) for name in SCALARS]
    values += [value for pair in shown.values() for value in pair]
    blocks = [jnp.ravel(columns) for columns in rows or ()]
    if rare is not None and taps is not None:
        blocks.append(_vector([rare.get(name, nan) for name in RARE_SCALARS]))
        missing = jnp.full(len(layout.layers), nan)
        blocks += [jnp.asarray(rare.get(name, missing), jnp.float32) for name in RARE_COLUMNS]
        blocks.append(jnp.ravel(taps))
    packed = jnp.concatenate([_vector(values), *blocks])
    assert packed.shape == (layout.length,)
    return Measurements(packed, layout)


def join(early: Measurements, last: Measurements) -> Measurements:
    """The records of S - 1 steps `[S - 1, n]` and of a last one that measured more, `[m]`, as one `[S, m]`.

    Example:
      >>> early = pack({}, {"loss": 1.0})
      >>> early = Measurements(early.packed[None], early.layout)
      >>> last = pack({}, {"loss": 2.0}, (), {}, jnp.zeros((7, 0)))
      >>> [float(x) for x in join(early, last).loss]
      [1.0, 2.0]
    """
    missing = last.layout.length - early.layout.length
    padded = jnp.pad(early.packed, ((0, 0), (0, missing)), constant_values=jnp.nan)
    return Measurements(jnp.concatenate([padded, last.packed[None]]), last.layout._replace(early=early.layout))


def _vector(values: Sequence[Any]) -> jax.Array:
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in values])
