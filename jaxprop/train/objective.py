"""What the step differentiates: a `Model` bound to a loss, or a plain loss function. Pure."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core import taps
from jaxprop.core.examples import row_weights, safe_mean
from jaxprop.core.outputs import joined_outputs, output_parts
from jaxprop.core.overrides import cast_params, check_overrides, computing
from jaxprop.core.placing import gathered
from jaxprop.core.precision import cast_floating, cast_keys, lies_under
from jaxprop.core.trees import leaf_paths
from jaxprop.core.vocabulary import ChunkedLogits, chunking, over_chunks
from jaxprop.errors import JaxpropError, ShapeError, UsageError, one_of
from jaxprop.metrics import TOKENWISE
from jaxprop.metrics.totals import as_metric, is_sum_count, measure
from jaxprop.train.distillation import Teacher, check_teacher, distilled, with_outputs
from jaxprop.train.promotion import widening_paths
from jaxprop.types import Batch, Loss, Metric, Model, Objective, PyTree, Sums

LossFn = Callable[..., Any]  # (params, batch, key) -> loss or (loss, aux)
Cast = Sequence[str | int] | str | bool | None  # keys of a batch


def loss_from(
    model: Model,
    loss: Loss,
    metrics: Mapping[str, Metric | Callable] | None = None,
    *,
    cast: Cast = None,
    augment: Callable[[jax.Array, Batch], Batch] | None = None,
    vocabulary_chunks: int = 1,
    teacher: Teacher | None = None,
) -> Objective:
    """Binds a model to a loss, as the train step and the eval step want it.

    loss = sum(w l) / sum(w), 0 where every weight is 0, and NaN where weights of both signs cancel.

    Params and the batch's floats under `cast` are cast to the policy's compute dtype, and outputs to its output dtype;
    modules that an override of the policy names compute in its dtype;
    extras are not cast and keep their dtypes. Whatever an example of weight 0, or one whose mask leaves nothing of it,
    holds is replaced by zeros before the model sees it, so that a NaN there reaches nothing.

    Args:
      model: a `Model`.
      loss: `(outputs, batch) -> (per_example [B], weight [B])`. The built-in ones weigh by `batch["weight"]` `[B]`
        and by `batch["mask"]` `[B]` or `[B, ...]`; each is 1 if it is not there.
      metrics: by name, each a `Metric` or a function `(outputs, batch) -> (sum, count)`; measured in evaluation, and
        in training those that are a sum and a count.
      cast: keys of the batch that hold what the model computes with; `"inputs"` by default.
      augment: `(key, batch) -> batch`, random changes of the examples as in `jaxprop.data.augment`; made in training
        alone, with a key of their own.
      vocabulary_chunks: number of stretches of tokens in which the logits of a built-in model with an answer a token
        are made, in the backward pass again; see `jaxprop.core.vocabulary`. The loss of an example has to be the mean
        over its tokens then, by their mask, as that of `softmax_cross_entropy` is. Metrics other than
        `jaxprop.metrics.TOKENWISE` are given whole logits.
      teacher: a trained model that the model learns from in training, beside its labels; an evaluation has the plain
        loss. Training also reports the parts `task_loss` and `divergence`.

    Returns:
      An `Objective`.

    Raises:
      UsageError: a metric is called `loss`, or is neither; the teacher's weight or temperature cannot be, or
        `vocabulary_chunks` is given with one; while tracing, `cast` names no key of the batch.
      ShapeError: while tracing, if the loss returns anything but two arrays `[B]`.

    Example:
      >>> from jaxprop.losses.softmax import softmax_cross_entropy
      >>> import jaxprop, optax
      >>> model = jaxprop.from_functions(
      ...     lambda key, batch: ({"w": jnp.zeros((2, 3))}, {}),
      ...     lambda params, extras, batch, *, key, train: (batch["inputs"] @ params["w"], extras),
      ... )
      >>> batch = {"inputs": jnp.ones((4, 2)), "labels": jnp.array([0, 1, 2, 0])}
      >>> params, extras = model.init(jax.random.key(0), batch)
      >>> step = jaxprop.make_train_step(loss_from(model, softmax_cross_entropy), optax.sgd(0.1))
      >>> state = jaxprop.init_state(params, optax.sgd(0.1), key=jax.random.key(0), extras=extras)
      >>> state, m = step(state, batch)
      >>> round(float(m.loss), 4)
      1.0986
    """
    measured = {name: as_metric(name, metric) for name, metric in (metrics or {}).items()}
    if "loss" in measured:
        raise UsageError("the name 'loss' is taken by the loss itself; call the metric something else")
    narrow = _Cast(cast, default=("inputs",), where="loss_from(model, loss, cast=...)")
    check_teacher(teacher, vocabulary_chunks)
    learned, in_training = distilled(loss, measured, teacher)
    seen: set[str] = set()  # modules of any trace: one that an inner jit remembers is not called again

    def forward(
        params: PyTree, extras: PyTree, batch: Batch, key: Any, policy: Any, train: bool
    ) -> tuple[Any, PyTree, Batch]:
        batch, params = without_padding(batch), gathered(cast_params(params, policy))

        def apply(params: PyTree, batch: Batch) -> tuple[Any, PyTree]:
            return model.apply(params, extras, batch, key=key, train=train)

        with taps.counting(row_weights(batch)), computing(policy, seen), chunking(vocabulary_chunks):
            outputs, new = apply(params, narrow(apply, params, batch, policy))
        check_overrides(policy, params, seen)
        return outputs, new, batch

    def mean_loss(
        params: PyTree, extras: PyTree, batch: Batch, key: jax.Array, policy: Any
    ) -> tuple[jax.Array, tuple[jax.Array, PyTree, Sums]]:
        given = batch
        if augment is not None and key is not None:
            key, own = jax.random.split(key)
            with jax.named_scope("augment"):
                batch = augment(own, batch)
        outputs, new, batch = forward(params, extras, batch, key, policy, True)
        batch = with_outputs(teacher, batch, policy, narrow.keys)
        # By the labels as they were given: shares of classes look like targets.
        given = given if isinstance(given, Mapping) else {}
        (total, weight, totals, added), (some, largest) = _measured(learned, in_training, policy, outputs, batch, given)
        sums = {name: t for name, t in totals.items() if is_sum_count(t)} | joined_outputs(added, largest)
        # weights that cancel have no mean, and a microbatch of weight 0 would be left out in silence
        weight_or_nan = jnp.where((weight == 0) & some, jnp.nan, weight)
        return safe_mean(total, weight, some), (
            weight_or_nan,
            _like(new, extras, "the model's apply"),
            sums,
        )

    def sums(params: PyTree, extras: PyTree, batch: Batch, policy: Any) -> Sums:
        outputs, _, batch = forward(params, extras, batch, None, policy, False)
        (total, weight, totals, _), _ = _measured(loss, measured, policy, outputs, batch, {})
        return {"loss": (total, weight), **totals}

    return Objective(mean_loss, sums, measured, narrow.keys, model, None if teacher is None else teacher.arrays)


def as_objective(loss_fn: LossFn | Objective, cast: Cast = None, *, stateful: bool = False) -> Objective:
    """Returns an `Objective` for a plain `(params, batch, key) -> loss` or `(loss, aux)`.

    The batch is any pytree: a dict, a tuple, an array, a graph, or nothing. Its integers are never cast, and of its
    floats only those under `cast`; params are cast to the policy's compute dtype.

    Args:
      loss_fn: the function; an `Objective` is returned as it is. `aux` is a pytree of numbers to report, named by
        their keys: scalars as they are, larger arrays by their mean. `aux["weight"]`, a scalar, is the sum of weights
        that the mean was taken over: 1 if it is not there, and where it is 0 nothing counts, NaN neither.
      cast: keys of the batch, or paths into it, to cast to the compute dtype; True for all of it. In a tuple the keys
        are positions.
      stateful: the function is `(params, extras, batch, key) -> (loss, (extras, aux))`. The new extras have the
        structure and shapes of the old ones, and keep their dtypes. An evaluation drops them.

    Returns:
      The objective, with the numbers of aux weighted like the loss.

    Raises:
      UsageError: `loss_fn` takes other arguments; `cast` is given with an `Objective`, or names no key of the batch; an
        entry of aux is called `loss`; in evaluation, `loss_fn` needs a key.
      ShapeError: when traced, if the loss is not a scalar, or extras, aux or weight are not what they must be.

    Example:
      >>> from jaxprop.core.precision import policy
      >>> objective = as_objective(lambda params, batch, key: (params["w"] * batch[0].mean(), {"seen": batch[1]}))
      >>> loss, (weight, extras, sums) = objective.mean_loss(
      ...     {"w": jnp.float32(3)}, {}, (jnp.ones(2), jnp.arange(3)), None, policy("float32")
      ... )
      >>> loss.item(), sums["seen"][0].item()
      (3.0, 1.0)
    """
    if isinstance(loss_fn, Objective):
        if cast is not None or stateful:
            raise UsageError("cast and stateful belong to a plain loss function; give cast to loss_from(..., cast=...)")
        return loss_fn
    if not callable(loss_fn):
        raise UsageError(
            f"expected a loss function (params, batch, key) -> loss or an Objective, got {type(loss_fn).__name__}"
        )
    _check_takes(loss_fn, stateful)
    narrow = _Cast(cast, default=(), where="make_train_step(..., cast=...)")

    def call(params: PyTree, extras: PyTree, batch: PyTree, key: Any) -> tuple[Any, PyTree, Any]:
        if stateful:
            # Rebuilt in the trace of the call: Flax lets a variable change only in the trace that made it.
            extras = jax.tree.map(lambda x: x, extras)
            return _loss_and_extras(loss_fn(params, extras, batch, key), extras)
        out = loss_fn(params, batch, key)
        if isinstance(out, tuple | list) and len(out) != 2:
            raise ShapeError(f"expected loss_fn to return loss or (loss, aux), got {_described(out)}")
        loss, aux = out if _is_pair(out) else (out, None)
        return loss, extras, aux

    def mean_loss(
        params: PyTree, extras: PyTree, batch: PyTree, key: Any, policy: Any
    ) -> tuple[jax.Array, tuple[jax.Array, PyTree, Sums]]:
        check_overrides(policy, params)
        params = gathered(cast_params(params, policy, modules=False))  # which belong together is not known
        with computing(policy._replace(overrides=())):
            batch = narrow(lambda params, batch: call(params, extras, batch, key), params, batch, policy)
            loss, new, aux = call(params, extras, batch, key)
        if loss is None:
            raise ShapeError("expected loss_fn to return loss or (loss, aux), got None; end it with return loss")
        if jnp.shape(loss) != ():
            raise ShapeError(
                f"expected the loss returned by loss_fn to be a scalar, got shape {jnp.shape(loss)}; "
                "average it over the batch, for example with jnp.mean"
            )
        reported, loss = _reported(aux), jnp.asarray(loss, policy.output)
        if "weight" not in reported:
            one: Any = np.float32(1)  # no tracer, which tells accumulation that the loss gave no weight
            return loss, (one, new, {name: (value, one) for name, value in reported.items()})
        weight = reported.pop("weight")
        sums = {name: (jnp.where(weight != 0, value * weight, 0), weight) for name, value in reported.items()}
        return jnp.where(weight != 0, loss, jnp.zeros_like(loss)), (weight, new, sums)

    def sums(params: PyTree, extras: PyTree, batch: PyTree, policy: Any) -> Sums:
        try:
            loss, (weight, _, metrics) = mean_loss(params, extras, batch, None, policy)
        except Exception as error:
            if not isinstance(error, JaxpropError):
                _check_key(error, mean_loss, params, extras, batch, policy)
            raise
        if isinstance(weight, np.generic):
            # A mean over the batch counts by its examples, so that a smaller last batch counts for less.
            weight = jnp.float32(_size(batch))
            metrics = {name: (value * weight, weight) for name, (value, _) in metrics.items()}
        return {"loss": (loss * weight.astype(loss.dtype), weight), **metrics}

    return Objective(mean_loss, sums, {}, narrow.keys)


def without_padding(batch: PyTree) -> PyTree:
    """Returns the batch with zeros for all that its examples of weight 0 hold.

    An example has weight 0, too, where its mask leaves none of its entries. An entry that the mask leaves out may still
    be read by the others, as a prompt is; only a NaN or infinity in it is replaced.

    Args:
      batch: a mapping with `weight` `[B]` or `mask` `[B, ...]`, in which every array has the leading axis B; any other
        is returned as it is.

    Example:
      >>> batch = {"inputs": jnp.array([1.0, jnp.nan]), "weight": jnp.array([1.0, 0.0])}
      >>> without_padding(batch)["inputs"].tolist()
      [1.0, 0.0]
    """
    weight = row_weights(batch)
    leaves = [leaf for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf)]
    if weight is None or {jnp.shape(leaf)[0] for leaf in leaves} != {jnp.shape(weight)[0]}:
        return batch
    rows = weight != 0
    mask = None if batch.get("mask") is None else jnp.asarray(batch["mask"]).astype(bool)

    def clean(leaf: jax.Array) -> jax.Array:
        if not jnp.ndim(leaf) or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return leaf
        zero = jnp.zeros((), leaf.dtype)
        kept = jnp.where(_as_many_axes(rows, leaf), leaf, zero)
        if mask is None or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return kept
        entries = 1 < jnp.ndim(mask) < jnp.ndim(leaf) and jnp.shape(leaf)[: jnp.ndim(mask)] == jnp.shape(mask)
        return jnp.where(_as_many_axes(mask, leaf) | jnp.isfinite(kept), kept, zero) if entries else kept

    return {key: value if key in ("weight", "mask") else jax.tree.map(clean, value) for key, value in batch.items()}


def _as_many_axes(x: jax.Array, leaf: jax.Array) -> jax.Array:
    return x.reshape(*x.shape, *[1] * (jnp.ndim(leaf) - x.ndim))


class _Cast:
    """Casts what a batch holds under some keys, checks the keys, and tells once of arrays that should be among them."""

    def __init__(self, cast: Cast, *, default: tuple[str, ...], where: str):
        self.given, self._where, self._told = cast is not None, where, False
        self.keys: tuple[str, ...] | bool
        if cast is None:
            self.keys = default
        elif isinstance(cast, bool):
            self.keys = cast
        else:
            self.keys = (cast,) if isinstance(cast, str) else tuple(str(key) for key in cast)

    def __call__(self, function: Callable, params: PyTree, batch: PyTree, policy: Any) -> PyTree:
        if self.given and not isinstance(self.keys, bool):
            self._check(leaf_paths(batch))
        cast = cast_keys(batch, policy.compute, self.keys)
        if not self.given and not self._told:
            self._tell(widening_paths(function, params, cast, policy.compute), batch, policy)
        return cast

    def _check(self, paths: Iterable[str]) -> None:
        assert not isinstance(self.keys, bool)
        for key in self.keys:
            if not any(lies_under(path, [key]) for path in paths):
                raise UsageError(f"cast: {one_of(key, {path.split('/')[0] for path in paths}, 'key of the batch')}")

    def _tell(self, paths: Sequence[str], batch: PyTree, policy: Any) -> None:
        if not paths:
            return
        self._told = True
        assert not isinstance(self.keys, bool)
        tops = dict.fromkeys([*self.keys, *(path.split("/")[0] for path in paths)])
        keys = [key for key in tops if any(lies_under(path, [key]) for path in leaf_paths(batch))]
        positions = not isinstance(batch, Mapping) and all(key.isdecimal() for key in keys)
        names = ", ".join(key if positions else f'"{key}"' for key in keys) + ("," if len(keys) == 1 else "")
        fix = "True" if not isinstance(batch, Mapping | tuple | list) else f"({names})"
        what = "batch" if fix == "True" else f"batch's {' and '.join(paths)}"
        leaves = dict(zip(leaf_paths(batch), jax.tree.leaves(batch), strict=True))
        wide = " and ".join(sorted({str(leaves[path].dtype) for path in paths}))
        narrow = jnp.dtype(policy.compute).name
        warnings.warn(
            f"the {what} {'is' if len(paths) == 1 else 'are'} {wide}, so the loss is computed in {wide}, although the "
            f"precision of the step is {narrow}. To compute in {narrow}, name what the model computes with (not the "
            f"targets, nor weights):\n    {self._where.replace('...)', fix + ')')}\n"
            f"To go on in {wide} without this warning, write cast=().",
            stacklevel=2,
        )


def _check_takes(loss_fn: Callable, stateful: bool) -> None:
    """Raises UsageError where the loss function cannot be called with what it is going to be given."""
    arguments = ["params", "extras", "batch", "key"] if stateful else ["params", "batch", "key"]
    try:
        signature = inspect.signature(loss_fn)
    except (TypeError, ValueError):  # it has none to inspect
        return

    def takes(count: int) -> bool:
        try:
            signature.bind(*[None] * count)
        except TypeError:
            return False
        return True

    if takes(len(arguments)):
        return
    called, given = (", ".join(names) for names in (arguments, signature.parameters))
    fix = f"write lambda {called}: ... around it"
    if takes(4):
        fix = "give stateful=True if its second argument is the extras"
    elif stateful and takes(3):
        fix = "leave out stateful=True if it takes no extras"
    raise UsageError(f"expected a loss function ({called}), got one of ({given}); {fix}")


def _check_key(
    error: Exception, mean_loss: Callable, params: PyTree, extras: PyTree, batch: PyTree, policy: Any
) -> None:
    """Raises UsageError where a loss that failed without a key can be traced with one."""
    try:
        jax.eval_shape(lambda key: mean_loss(params, extras, batch, key, policy), jax.random.key(0))
    except Exception:
        return
    raise UsageError(
        "evaluation calls loss_fn with key=None, so that it leaves dropout out; let it draw random numbers only if key "
        "is not None"
    ) from error


def _size(batch: PyTree) -> int:
    """The number of examples, the first axis that all arrays share; 1 where they share none."""
    found = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    return found.pop()[0] if len(found) == 1 and () not in found else 1


def _loss_and_extras(out: Any, extras: PyTree) -> tuple[Any, PyTree, Any]:
    if not (_is_pair(out) and _is_pair(out[1])):
        raise ShapeError(
            f"expected a stateful loss_fn to return (loss, (extras, aux)), got {_described(out)}; "
            "write return loss, (extras, {}) where there is nothing to report"
        )
    loss, (new, aux) = out
    return loss, _like(new, extras, "loss_fn"), aux


def _is_pair(out: Any) -> bool:
    return isinstance(out, tuple | list) and len(out) == 2


def _described(out: Any) -> str:
    return f"{type(out).__name__} of {len(out)}" if isinstance(out, tuple | list) else type(out).__name__


def _like(new: PyTree, old: PyTree, who: str) -> PyTree:
    """New extras in the dtypes of the old ones."""
    given, returned = jax.tree.structure(old), jax.tree.structure(new)
    if str(given) != str(returned):
        raise ShapeError(
            f"expected {who} to return extras of the structure it was given, {given}, got {returned}; "
            "give init_state the extras= it starts from"
        )
    for path, a, b in zip(leaf_paths(old), jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        if jnp.shape(a) != jnp.shape(b):
            raise ShapeError(f"expected the new extras {path} to have the shape {jnp.shape(a)}, got {jnp.shape(b)}")
    return jax.tree.map(_in_dtype_of, new, old)


def _in_dtype_of(new: Any, old: Any) -> Any:
    return new if jnp.issubdtype(old.dtype, jax.dtypes.prng_key) else jnp.asarray(new).astype(old.dtype)


def _reported(aux: Any) -> dict[str, Any]:
    """The numbers of aux by name: scalars as they are, larger arrays by their mean."""
    if not isinstance(aux, Mapping):
        aux = aux._asdict() if hasattr(aux, "_asdict") else {"aux": aux}
    if jnp.shape(aux.get("weight", 0.0)) != ():
        raise ShapeError(
            f"expected aux['weight'] to be a scalar, the sum of weights, got shape {jnp.shape(aux['weight'])}; "
            "write jnp.sum(weight), or give it another name"
        )
    if "batch_stats" in aux:
        raise UsageError(
            "aux is only reported, so the batch_stats in it would be lost; give them as extras= to step.init, and with "
            "stateful=True return (loss, (extras, aux))"
        )
    found = {}
    for path, leaf in zip(leaf_paths(aux), jax.tree.leaves(aux), strict=True):
        if path == "loss":
            raise UsageError("the name 'loss' is taken by the loss itself; call that entry of aux something else")
        dtype = (
            jnp.result_type(leaf) if isinstance(leaf, bool | int | float | complex) else getattr(leaf, "dtype", None)
        )
        if dtype is None or not (jnp.issubdtype(dtype, jnp.bool_) or jnp.issubdtype(dtype, jnp.number)):
            raise ShapeError(
                f"expected aux to be a dict of numbers to report, such as {{'accuracy': accuracy}}, or any tree of "
                f"them; got {path}: {type(leaf).__name__}"
            )
        values = jax.lax.stop_gradient(
            jnp.abs(leaf) if jnp.issubdtype(dtype, jnp.complexfloating) else jnp.asarray(leaf)
        )
        found[path] = jnp.mean(values.astype(jnp.float32)) if values.ndim else values.astype(jnp.float32)
    return found


def _measured(
    loss: Loss, metrics: Mapping[str, Metric], policy: Any, outputs: Any, batch: Batch, given: Batch
) -> tuple[tuple[Any, Any, Sums, dict[str, jax.Array]], tuple[jax.Array, dict[str, jax.Array]]]:
    """What adds up over tokens, `sum(w l)`, `sum(w)`, metrics and signals of the outputs; and the largest of others."""

    def of_outputs(metrics: Mapping[str, Metric], outputs: Any, batch: Batch, given: Batch) -> Any:
        outputs = cast_floating(outputs, policy.output)
        total, weight, some = _weighted_sum(loss, outputs, batch)
        added, largest = output_parts(outputs, given)
        return (total, weight, measure(metrics, outputs, batch), added), (some, largest)

    if not isinstance(outputs, ChunkedLogits):
        return of_outputs(metrics, outputs, batch, given)
    tokenwise = {name: metric for name, metric in metrics.items() if metric in TOKENWISE}
    others = {name: metric for name, metric in metrics.items() if name not in tokenwise}
    with taps.counting(row_weights(batch)), computing(policy):
        added, largest = over_chunks(partial(of_outputs, tokenwise), outputs, batch, given)
        whole = measure(others, cast_floating(outputs.whole(), policy.output), batch)
    total, weight, totals, signals = added
    return (total, weight, totals | whole, signals), largest


def _weighted_sum(loss: Loss, outputs: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`sum(w l)`, `sum(w)`, and whether any w is not 0."""
    returned = loss(outputs, batch)
    shapes = [jnp.shape(x) for x in returned] if isinstance(returned, tuple) else [jnp.shape(returned)]
    if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 1:
        message = f"expected the loss to return (per_example [B], weight [B]), got shapes {shapes}"
        if len(shapes) == 2 and shapes[0] == shapes[1] and len(shapes[0]) > 1:
            message += (
                "; for losses l and weights w of tokens, return (w * l).sum(-1) / jnp.maximum(w.sum(-1), 1), w.sum(-1)"
            )
        raise ShapeError(message)
    per_example, weight = returned
    weight = weight.astype(per_example.dtype)
    # A select: what counts for nothing may be anything, and 0 x NaN is NaN.
    return jnp.sum(jnp.where(weight != 0, weight * per_example, 0)), jnp.sum(weight), jnp.any(weight != 0)
