"""The contracts every module of jaxprop stands on. Nothing here computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

PyTree = Any
Batch = Mapping[str, Any]  # NumPy or jax arrays, each with a leading axis B
Schedule = Callable[[Any], Any]  # step -> learning rate
Metric = Callable[[Any, Batch], tuple[Any, Any]]  # (outputs, batch) -> (sum, count)
Sums = dict[str, tuple[Any, Any]]  # a metric's name -> (sum, count)
Loss = Callable[[Any, Batch], tuple[Any, Any]]  # (outputs, batch) -> (per_example [B], weight [B])


class Source(NamedTuple):
    """Records of one split of a data set, by index.

    Args:
      length: number of records, N.
      take: maps indices `[B]` in `0..N-1` to a batch: a dict of arrays with leading axis B.
      info: what a task needs to know of the data, such as `{"classes": 10}`.
      fingerprint: hex digest of the contents; a resume refuses data that has changed.
    """

    length: int
    take: Callable[[np.ndarray], dict[str, np.ndarray]]
    info: Mapping[str, Any]
    fingerprint: str


class Spec(NamedTuple):
    """What a built-in model must know of the data before it can be built.

    Args:
      inputs: shape and dtype of `batch["inputs"]` for one example, without the leading B.
      outputs: number of classes, of vocabulary entries, or of regression targets.
    """

    inputs: jax.ShapeDtypeStruct
    outputs: int


class Model(NamedTuple):
    """A model of any framework as a pair of pure functions; see `jaxprop.models.adapters`.

    Args:
      init: `(key, batch) -> (params, extras)`; extras are batch statistics and the like.
      apply: `(params, extras, batch, *, key, train) -> (outputs, extras)`.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[Any, PyTree]]


class Objective(NamedTuple):
    """What the train step differentiates: a `Model` bound to a `Loss`, or a wrapped plain function.

    The step aggregates over microbatches and devices as `sum_k W_k l_k / sum_k W_k`, so an objective
    reports the weight its mean was taken over.

    Args:
      mean_loss: `(params, extras, batch, key, policy) -> (loss, (weight, extras, aux))` where `loss` is
        `sum(w l) / sum(w)` over the batch it was given, `weight` is `sum(w)`, and `aux` maps a metric's
        name to its `(sum, count)`. `policy` is the precision policy to cast by.
      sums: `(params, extras, batch, policy) -> {name: (sum, count)}` in evaluation mode, `"loss"` among them.
    """

    mean_loss: Callable[..., tuple[jax.Array, tuple[jax.Array, PyTree, Sums]]]
    sums: Callable[..., Sums]


class TrainState(NamedTuple):
    """Everything a resume needs and nothing else; a pytree that stays on the device.

    Args:
      step: number of train steps taken, int32 scalar; skipped steps count.
      params: trainable parameters, any pytree.
      extras: what the model carries besides parameters (batch statistics), any pytree.
      opt_state: the optax state.
      key: the run's base PRNG key; a step uses `fold_in(key, step)`.
      loss_scale: dynamic loss scale (`jaxprop.precision.LossScale`) or `()` where none is used.
      health: counters of the step's own guards, `{"skips": int32}`.
      ema: exponential moving average of `params`, or `()` where none is kept.
    """

    step: Any
    params: PyTree
    extras: PyTree
    opt_state: PyTree
    key: Any
    loss_scale: PyTree
    health: PyTree
    ema: PyTree


SCALARS = (
    "loss",
    "weight",
    "grad_norm",
    "param_norm",
    "update_norm",
    "learning_rate",
    "loss_scale",
    "skipped",
    "skips",
)
COLUMNS = ("grad_norm", "param_norm", "update_norm")


class Layers(NamedTuple):
    """One value a layer, float32 `[L]`: L2 norms over all parameters of the layer."""

    grad_norm: Any
    param_norm: Any
    update_norm: Any

    @property
    def update_ratio(self) -> Any:
        """Size of the step relative to the weights, `||dw|| / (||w|| + 1e-12)`, `[L]`."""
        return self.update_norm / (self.param_norm + np.float32(1e-12))


class Layout(NamedTuple):
    """Where each value lies in a packed record: scalars, then metric (sum, count) pairs, then layer columns."""

    metrics: tuple[str, ...]
    layers: tuple[str, ...]


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
      >>> m = Measurements(np.arange(9 + 2 + 3, dtype=np.float32), Layout(("accuracy",), ("head",)))
      >>> float(m.loss), m.metrics["accuracy"][1].item(), m.layers.update_norm.tolist()
      (0.0, 10.0, [13.0])
    """

    packed: Any
    layout: Layout = dataclasses.field(metadata={"static": True})

    def host(self) -> Measurements:
        """Returns the same record in host memory; waits for the step that made it."""
        return Measurements(np.asarray(self.packed), self.layout)

    def at(self, i: int) -> Measurements:
        """Returns the record of step `i` of the S that one call took."""
        return Measurements(self.packed[i], self.layout)

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

    @property
    def layers(self) -> Layers:
        """Per-layer norms, each `[L]` in `layout.layers` order."""
        start, n = len(SCALARS) + 2 * len(self.layout.metrics), len(self.layout.layers)
        return Layers(*(self.packed[..., start + i * n : start + (i + 1) * n] for i in range(len(COLUMNS))))
