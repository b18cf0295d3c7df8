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
      batch: a `jax.ShapeDtypeStruct` for every array of a batch, by key, of one example: without the leading axis B,
        which is not the model's. It may nest as the batch does.
      sizes: named sizes: `classes` or `targets` where an example has one answer, `vocabulary` where inputs are tokens.
        With a vocabulary alone every token has an answer, the next token.
    """

    batch: Mapping[str, PyTree]
    sizes: Mapping[str, int]


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
      loss_scale: dynamic loss scale (`jaxprop.core.precision.LossScale`) or `()` where none is used.
      health: what the step's own guards remember: `skips` (int32), the responses' `lr_scale`, `grad_limit`,
        `rate_limit` and the schedule's `rate_peak` since that was set (float32), the history of the spike guard, and
        the direction of the power iteration where curvature is on.
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
