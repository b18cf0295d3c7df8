"""The contracts every module of jaxprop stands on. Nothing here computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

PyTree = Any
# Arrays by key, each with a leading axis B; a value may be a tree of them. A plain loss takes any pytree instead.
Batch = Mapping[str, PyTree]
Schedule = Callable[[Any], Any]  # step -> learning rate
Sums = dict[str, Any]  # a metric's name -> what its update returned: (sum, count), a pytree that adds up, or Rows
Loss = Callable[[Any, Batch], tuple[Any, Any]]  # (outputs, batch) -> (per_example [B], weight [B])


class Buckets(NamedTuple):
    """Lengths that batches may be padded to, so that a batch of short records has little padding.

    Args:
      sizes: the lengths, ascending; `take` pads to the last one.
      of: `() -> int [N]`, the place in `sizes` of the smallest length that holds each record.
      cut: `(batch, size) -> batch`, for records that a size holds.
    """

    sizes: tuple[int, ...]
    of: Callable[[], np.ndarray]
    cut: Callable[[dict[str, np.ndarray], int], dict[str, np.ndarray]]


class Stored(NamedTuple):
    """Records as they are kept, in fewer bytes than the model computes with, such as the pixels of images.

    Args:
      take: maps indices `[B]` in `0..N-1` to a batch, some of whose arrays are as they are kept.
      widen: `batch -> batch` makes of it what `Source.take` returns, to the bit; any other batch it leaves as it is. It
        is traced within the train step, so that only the bytes go to a device.
      of: the `Source.take` that it stands for; a source whose `take` was replaced is taken by that.
    """

    take: Callable[[np.ndarray], dict[str, np.ndarray]]
    widen: Callable[[Any], Any]
    of: Callable[[np.ndarray], dict[str, np.ndarray]]


class Source(NamedTuple):
    """Records of one split of a data set, by index.

    Args:
      length: number of records, N.
      take: maps indices `[B]` in `0..N-1` to a batch: a dict of arrays with leading axis B.
      info: what a task needs to know of the data, such as `{"classes": 10}`, and what a person is told of them:
        `class_names`, `target_names`, `notes`. `target_scale`, pairs (mean, std), says that labels are standardized.
      fingerprint: hex digest of the contents; a resume refuses data that has changed.
      prepared: what has been learned of the training data to prepare them by, as JSON values: statistics, categories,
        a vocabulary. It is stored with the run, and prepares what the run evaluates and predicts later.
      labels: `() -> labels [N, ...]` of all records, where these are at hand without the records; None elsewhere.
      buckets: where records have several lengths; training batches are then of records of similar length.
      names: `indices -> ` what a person calls each record, such as `wine.csv:3` or `photos/cat/1.png`; None where
        records have no place of their own.
      stored: where the records are kept in fewer bytes: how these are taken, for training; None elsewhere.
    """

    length: int
    take: Callable[[np.ndarray], dict[str, np.ndarray]]
    info: Mapping[str, Any]
    fingerprint: str
    prepared: Mapping[str, Any] = {}
    labels: Callable[[], np.ndarray] | None = None
    buckets: Buckets | None = None
    names: Callable[[np.ndarray], list[str]] | None = None
    stored: Stored | None = None


class Reader(NamedTuple):
    """How one kind of data is read, a `data.name`.

    Args:
      open: `(section, task, prepared) -> {split: Source}`; splits are `train`, `validation` and `test`, of which the
        last two may be missing. `prepared` is None for a new run, which learns it from the training split. Otherwise
        it is what an earlier run has stored: then it prepares all splits, and the training split may be missing.
      inputs: `(section, task, prepared, paths) -> Source` of records without labels, to predict; `paths` are what the
        user has named: files, folders, or `-` for standard input. `info["names"]` says what each record is, such as
        `wine.csv:3`, and `info["bad"]` lists the records that cannot be used, each a `jaxprop.data.bad.BadInput`. No
        number of these is an error. Where there may be any number of records, and where they come one by one through
        standard input, an iterator of such sources. None where a kind of data has no files.
      together: `(sections, task) -> [{split: Source}]`, as `open` for a new run, of several sections whose records are
        prepared alike: by what is learned of the training records of all. None where nothing is learned, or where what
        is learned cannot be of several.
    """

    open: Callable[[Any, str, Mapping[str, Any] | None], dict[str, Source]]
    inputs: Callable[[Any, str, Mapping[str, Any], Sequence[str]], Source | Iterable[Source]] | None = None
    together: Callable[[Sequence[Any], str], list[dict[str, Source]]] | None = None


class Spec(NamedTuple):
    """What a built-in model must know of the data before it can be built.

    Args:
      batch: a `jax.ShapeDtypeStruct` for every array of a batch, by key, of one example: without the leading axis B,
        which is not the model's. It may nest as the batch does.
      sizes: named sizes: `classes` or `targets` where an example has one answer, `vocabulary` where inputs are tokens.
        With a vocabulary alone every token has an answer, the next token. Where a batch has `categories`, integers
        `[B, K]`, the size of this name is a tuple: how many categories each of the K columns has.
    """

    batch: Mapping[str, PyTree]
    sizes: Mapping[str, Any]


class Rows(NamedTuple):
    """What a metric that does not add up keeps of a batch: one entry an example, gathered over batches and devices.

    Args:
      values: pytree of arrays `[B, ...]`.
      weight: `[B]`; examples of weight 0, which are padding, are left out on the host. By default `batch["weight"]`.
    """

    values: PyTree
    weight: Any = None


class Metric(NamedTuple):
    """A figure of a whole split: measured on the device batch by batch, added up, and finished on the host.

    Args:
      update: `(outputs, batch) -> total`, a pytree of arrays that add up over batches and devices, traced in the step;
        or `Rows(...)`, arrays that are gathered instead. A total `(sum, count)` of two scalars is also reported in
        each record of training, as sum / count.
      finish: total -> a number, reported by the metric's name, or `{name: number}`. It is given NumPy arrays: float64
        or int64 sums; or the values of all rows, `[N, ...]`, in the split's order and without padding.
      weighted: of rows, `values -> (weights [N] -> {name: number})`: the figures of the same examples, each counted as
        often as its weight says, an integer. It makes figures of many choices of the examples cheap; without it each
        choice goes through `finish`.

    Example:
      >>> Metric(lambda outputs, batch: (outputs.sum(), outputs.size), lambda total: total[0] / total[1])._fields
      ('update', 'finish', 'weighted')
    """

    update: Callable[[Any, Any], Any]
    finish: Callable[[Any], Any]
    weighted: Callable[[Any], Callable[[np.ndarray], Mapping[str, float]]] | None = None

    def __call__(self, outputs: Any, batch: Any) -> Any:
        """Returns what `update` does."""
        return self.update(outputs, batch)


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
      sums: `(params, extras, batch, policy) -> {name: total}` in evaluation mode, `"loss"` among them, a
        `(sum, count)`.
      metrics: by name, how the totals are finished; one that is not named is a `(sum, count)`.
      cast: keys of the batch whose floats are cast to the compute dtype; True for all of them.
      model: the `Model` it was made from; None for a plain function.
      beside: arrays that it reads besides parameters and batch, such as those of a teacher; the train step hands them
        to its program as arguments, through `jaxprop.core.handed`.
    """

    mean_loss: Callable[..., tuple[jax.Array, tuple[jax.Array, PyTree, Sums]]]
    sums: Callable[..., Sums]
    metrics: Mapping[str, Metric] = {}
    cast: tuple[str, ...] | bool = ()
    model: Model | None = None
    beside: PyTree = None


class HealthState(NamedTuple):
    """What the step's own guards remember; a step without guard and responses only counts its skips.

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
    lr_scale: Any = ()
    grad_limit: Any = ()
    rate_limit: Any = ()
    rate_peak: Any = ()
    spikes: PyTree = ()
    direction: PyTree = ()


class Average(NamedTuple):
    """Averages over the updates, in float32 or wider: of the trained parameters, and of the floats in extras."""

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
      ema: averages of the trained parameters and of extras, a tuple of several, or `()` where none is kept.
    """

    step: Any
    params: PyTree
    extras: PyTree
    opt_state: PyTree
    key: Any
    loss_scale: PyTree
    health: HealthState
    ema: Average | tuple[Average, ...]
