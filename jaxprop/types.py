"""The contracts every module of jaxprop stands on. Nothing here computes."""

from __future__ import annotations

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


class HealthState(NamedTuple):
    """What the step's own guards remember.

    Args:
      skips: steps not taken since the state was made, int32 scalar.
      lr_scale: factor that responses put on the learning rate, float32 scalar.
      grad_limit: norm that responses clip gradients to; the largest float32 where there is none.
      rate_limit: what the schedule's highest rate is scaled to; the largest float32 where there is none.
      rate_peak: highest rate the schedule has asked for since that limit was set.
      spikes: history of the spike guard.
      direction: of the power iteration, shaped like the trained parameters where curvature is measured; else `()`.
    """

    skips: Any
    lr_scale: Any
    grad_limit: Any
    rate_limit: Any
    rate_peak: Any
    spikes: PyTree
    direction: PyTree = ()


class Average(NamedTuple):
    """Exponential moving averages, in float32 or wider: of the trained parameters, and of the floats in extras."""

    params: PyTree
    extras: PyTree


class TrainState(NamedTuple):
    """Everything a resume needs and nothing else; a pytree that stays on the device.

    Args:
      step: number of train steps taken, int32 scalar; skipped steps count.
      params: parameters, any pytree; what of them is not trained is carried along.
      extras: what the model carries besides parameters (batch statistics), any pytree.
      opt_state: the optax state.
      key: the run's base PRNG key; a step uses `fold_in(key, step)`.
      loss_scale: dynamic loss scale (`jaxprop.core.precision.LossScale`) or `()` where none is used.
      health: what the step's own guards remember.
      ema: moving averages of the trained parameters and of extras, or `()` where none is kept.
    """

    step: Any
    params: PyTree
    extras: PyTree
    opt_state: PyTree
    key: Any
    loss_scale: PyTree
    health: HealthState
    ema: Average | tuple[()]
