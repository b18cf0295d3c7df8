"""Losses: outputs and a batch to one loss and one weight per example; and a `Model` bound to one. Pure.

Everything is computed in float32, or in float64 where the outputs are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprop.config import schema
from jaxprop.errors import ShapeError, UsageError
from jaxprop.precision import cast_floating, cast_inputs
from jaxprop.taps import output_sums
from jaxprop.types import Batch, Loss, Metric, Model, Objective, PyTree, Sums

LossFn = Callable[..., Any]  # (params, batch, key) -> loss or (loss, aux)
PerExample = tuple[jax.Array, jax.Array]  # loss [B], weight [B]


def softmax_cross_entropy(
    outputs: jax.Array, batch: Batch, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> PerExample:
    """Softmax cross-entropy for classes or tokens.

    l = lse(o) - (1 - s) o_y - s mean_c(o_c) + z lse(o)^2, lse the log-sum-exp over classes. With tokens, the
    mean over those whose mask is 1, and the weight is multiplied by their number, so that
    sum(w l) / sum(w) is the mean over tokens.

    Args:
      outputs: logits `[B, C]` or `[B, T, V]`.
      batch: `labels` integer `[B]` or `[B, T]`; if present, `mask` `[B, T]` and `weight` `[B]`.
      label_smoothing: s, share of the target spread evenly over all classes.
      z_loss: z, keeps the log-sum-exp near 0.

    Returns:
      Loss in nats `[B]`, weight `[B]`.

    Raises:
      ShapeError: labels that do not fit the outputs.

    Example:
      >>> loss, weight = softmax_cross_entropy(jnp.zeros((1, 4)), {"labels": jnp.array([2])})
      >>> loss.round(3).tolist(), weight.tolist()
      ([1.3860000371932983], [1.0])

    Reference:
      Szegedy et al., Rethinking the Inception Architecture, 2015 (label smoothing); Chowdhery et al., PaLM,
      2022 (z-loss).
    """
    labels = _real(_labels(outputs, batch, classes=True), batch, outputs.shape[-1])
    logits = _wide(outputs)
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    if label_smoothing:
        # one-hot targets of [B, T, V] would be as large as the logits
        label_logits = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
        loss = loss + label_smoothing * (label_logits - logits.mean(-1))
    if z_loss:
        loss = loss + z_loss * jnp.square(jax.nn.logsumexp(logits, -1))
    return _per_example(loss, batch, masked=True)


def sigmoid_cross_entropy(outputs: jax.Array, batch: Batch, *, label_smoothing: float = 0.0) -> PerExample:
    """Independent binary cross-entropies, averaged over the K labels.

    l = mean_k(-y log sigmoid(o) - (1 - y) log sigmoid(-o)), y smoothed to (1 - s) y + s / 2.

    Args:
      outputs: logits `[B, K]`.
      batch: `labels` in 0..1 `[B, K]`; if present, `weight` `[B]`.
      label_smoothing: s.

    Returns:
      Loss in nats `[B]`, weight `[B]`.

    Raises:
      ShapeError: labels of another shape than the outputs.

    Example:
      >>> loss, _ = sigmoid_cross_entropy(jnp.zeros((1, 2)), {"labels": jnp.array([[0.0, 1.0]])})
      >>> loss.round(3).tolist()
      [0.6930000185966492]
    """
    logits, labels = _targets(outputs, batch)
    labels = (1 - label_smoothing) * labels + label_smoothing / 2
    return _per_example(optax.losses.sigmoid_binary_cross_entropy(logits, labels), batch)


def squared_error(outputs: jax.Array, batch: Batch) -> PerExample:
    """Half the squared error, averaged over the K targets.

    l = mean_k((o - y)^2) / 2

    Args:
      outputs: predictions `[B, K]`.
      batch: `labels` `[B, K]`, or `[B]` if K = 1; if present, `weight` `[B]`.

    Returns:
      Loss in squared units of the labels `[B]`, weight `[B]`.

    Raises:
      ShapeError: labels of another shape than the outputs.

    Example:
      >>> squared_error(jnp.array([[3.0]]), {"labels": jnp.array([1.0])})[0].tolist()
      [2.0]
    """
    return _per_example(optax.losses.l2_loss(*_targets(outputs, batch)), batch)


def huber(outputs: jax.Array, batch: Batch, *, delta: float = 1.0) -> PerExample:
    """Huber loss, averaged over the K targets: square near 0, linear beyond `delta`.

    l = mean_k(e^2 / 2 if |e| <= d else d (|e| - d / 2)), e = o - y

    Args:
      outputs: predictions `[B, K]`.
      batch: `labels` `[B, K]`, or `[B]` if K = 1; if present, `weight` `[B]`.
      delta: d, in units of the labels.

    Returns:
      Loss in squared units of the labels `[B]`, weight `[B]`.

    Raises:
      ShapeError: labels of another shape than the outputs.

    Example:
      >>> huber(jnp.array([[3.0]]), {"labels": jnp.array([1.0])})[0].tolist()
      [1.5]

    Reference:
      Huber, Robust Estimation of a Location Parameter, 1964.
    """
    return _per_example(optax.losses.huber_loss(*_targets(outputs, batch), delta=delta), batch)


LOSSES: dict[str, Callable[..., PerExample]] = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "squared_error": squared_error,
    "huber": huber,
}


def build(section: schema.LossSection) -> Loss:
    """Builds the loss a configuration names.

    Args:
      section: the section `task.loss`.

    Returns:
      A `Loss`.

    Example:
      >>> loss = build(schema.Huber(name="huber", delta=2.0))
      >>> loss(jnp.array([[3.0]]), {"labels": jnp.array([1.0])})[0].tolist()
      [2.0]
    """
    return partial(LOSSES[section.name], **section.model_dump(exclude={"name"}))


# -- a model bound to a loss --------------------------------------------------------------------


def loss_from(model: Model, loss: Loss, metrics: Mapping[str, Metric] | None = None) -> Objective:
    """Binds a model to a loss, as the train step and the eval step want it.

    loss = sum(w l) / sum(w), and 0 where every weight is 0.

    Params and the batch's floats are cast to the policy's compute dtype, but for labels, targets, mask and
    weight, and outputs to its output dtype; extras are not cast and keep their dtypes.

    Args:
      model: a `Model`.
      loss: `(outputs, batch) -> (per_example [B], weight [B])`. The built-in ones weigh by `batch["weight"]` `[B]`
        and, for tokens, `batch["mask"]` `[B, T]`; each is 1 if it is not there.
      metrics: name to `(outputs, batch) -> (sum, count)`, measured in training and evaluation.

    Returns:
      An `Objective`.

    Raises:
      UsageError: a metric is called `loss`.
      ShapeError: while tracing, if the loss returns anything but two arrays `[B]`.

    Example:
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
    metrics = {} if metrics is None else dict(metrics)
    if "loss" in metrics:
        raise UsageError("the name 'loss' is taken by the loss itself; call the metric something else")

    def mean_loss(
        params: PyTree, extras: PyTree, batch: Batch, key: jax.Array, policy: Any
    ) -> tuple[jax.Array, tuple[jax.Array, PyTree, Sums]]:
        outputs, new = _forward(model, params, extras, batch, policy, key=key, train=True)
        extras = jax.tree.map(lambda new, old: new.astype(old.dtype), new, extras)
        total, weight = _weighted_sum(loss, outputs, batch)
        mean = total / jnp.where(weight > 0, weight, jnp.ones_like(weight))
        return mean, (weight, extras, {**_measured(metrics, outputs, batch), **output_sums(outputs, batch)})

    return Objective(mean_loss, loss_sums(model, loss, metrics))


def loss_sums(model: Model, loss: Loss, metrics: Mapping[str, Metric]) -> Callable[..., Sums]:
    """Binds a model to a loss and metrics for evaluation, as sums that add up over batches.

    Args:
      model: a `Model`, applied with `train=False` and no key.
      loss, metrics: as in `loss_from`.

    Returns:
      `(params, extras, batch, policy) -> {name: (sum, count)}`, where `"loss"` is `(sum(w l), sum(w))`.

    Example:
      >>> import jaxprop
      >>> from jaxprop.metrics import accuracy
      >>> from jaxprop.precision import policy
      >>> model = jaxprop.from_functions(
      ...     lambda key, batch: ({}, {}), lambda params, extras, batch, *, key, train: (batch["inputs"], extras)
      ... )
      >>> batch = {"inputs": jnp.eye(2), "labels": jnp.array([0, 0])}
      >>> sums = loss_sums(model, softmax_cross_entropy, {"accuracy": accuracy})({}, {}, batch, policy("float32"))
      >>> [x.item() for x in sums["accuracy"]]
      [1.0, 2.0]
    """

    def sums(params: PyTree, extras: PyTree, batch: Batch, policy: Any) -> Sums:
        outputs, _ = _forward(model, params, extras, batch, policy, key=None, train=False)
        return {"loss": _weighted_sum(loss, outputs, batch), **_measured(metrics, outputs, batch)}

    return sums


def as_objective(loss_fn: LossFn | Objective) -> Objective:
    """Returns an `Objective` for a plain `(params, batch, key) -> loss` or `(loss, aux)`.

    Args:
      loss_fn: the function; an `Objective` is returned as it is.

    Returns:
      The objective, with the metrics of aux weighted like the loss.

    Raises:
      ShapeError: when traced, if the loss or an entry of aux is not a scalar.

    Example:
      >>> as_objective(lambda params, batch, key: params["w"] ** 2).mean_loss is not None
      True
    """
    if isinstance(loss_fn, Objective):
        return loss_fn

    def mean_loss(params, extras, batch, key, policy):
        out = loss_fn(cast_floating(params, policy.compute), cast_inputs(batch, policy.compute), key)
        loss, aux = out if isinstance(out, tuple) else (out, {})
        aux = dict(aux)
        if "loss" in aux:
            raise UsageError("the name 'loss' is taken by the loss itself; call that entry of aux something else")
        for name, value in {"loss": loss, **aux}.items():
            if jnp.shape(value) != ():
                raise ShapeError(
                    f"expected the {name} returned by loss_fn to be a scalar, got shape {jnp.shape(value)}; "
                    "average it over the batch, for example with jnp.mean"
                )
        weight = jnp.asarray(aux.pop("weight", 1.0), jnp.float32)
        sums = {name: (jnp.asarray(value, jnp.float32) * weight, weight) for name, value in aux.items()}
        return jnp.asarray(loss, policy.output), (weight, extras, sums)

    def sums(params, extras, batch, policy):
        loss, (weight, _, metrics) = mean_loss(params, extras, batch, None, policy)
        return {"loss": (loss * weight, weight), **metrics}

    return Objective(mean_loss, sums)


def _forward(
    model: Model, params: PyTree, extras: PyTree, batch: Batch, policy: Any, *, key: Any, train: bool
) -> tuple[Any, PyTree]:
    params = cast_floating(params, policy.compute)
    batch = cast_inputs(batch, policy.compute)
    outputs, extras = model.apply(params, extras, batch, key=key, train=train)
    return cast_floating(outputs, policy.output), extras


def _weighted_sum(loss: Loss, outputs: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    returned = loss(outputs, batch)
    shapes = [jnp.shape(x) for x in returned] if isinstance(returned, tuple) else [jnp.shape(returned)]
    if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 1:
        raise ShapeError(f"expected the loss to return (per_example [B], weight [B]), got shapes {shapes}")
    per_example, weight = returned
    weight = weight.astype(per_example.dtype)
    # A select: what counts for nothing may be anything, and 0 x NaN is NaN.
    return jnp.sum(jnp.where(weight > 0, weight * per_example, 0)), jnp.sum(weight)


def _measured(metrics: Mapping[str, Metric], outputs: Any, batch: Batch) -> Sums:
    outputs = jax.lax.stop_gradient(outputs)
    return {name: metric(outputs, batch) for name, metric in metrics.items()}


# -- shared by the losses -----------------------------------------------------------------------


def _wide(outputs: jax.Array) -> jax.Array:
    return outputs.astype(jnp.float64 if outputs.dtype == jnp.float64 else jnp.float32)


def _labels(outputs: jax.Array, batch: Batch, *, classes: bool) -> jax.Array:
    """The batch's labels, checked against the outputs: one class a row, or one target an output."""
    labels = jnp.asarray(batch["labels"])
    expected = outputs.shape[:-1] if classes else outputs.shape
    if labels.shape != expected:
        raise ShapeError(
            f"expected labels {list(expected)} for outputs {list(outputs.shape)}, got {list(labels.shape)}; "
            "check the number of outputs and the task"
        )
    if classes and not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ShapeError(f"expected integer labels, the classes, got {labels.dtype}; use sigmoid_cross_entropy")
    return labels


def _real(labels: jax.Array, batch: Batch, classes: int) -> jax.Array:
    """Labels brought into 0..classes-1 where they count for nothing: what is masked often holds -100, no class."""
    counts = jnp.ones(labels.shape, bool)
    for name in ("mask", "weight"):
        if batch.get(name) is not None and jnp.ndim(batch[name]) <= labels.ndim:
            held = jnp.asarray(batch[name]) > 0
            counts &= held.reshape(held.shape + (1,) * (labels.ndim - held.ndim))
    return jnp.where(counts, labels, jnp.clip(labels, 0, classes - 1))


def _targets(outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Outputs and labels of one shape and dtype; outputs `[B, 1]` fit labels `[B]`."""
    if outputs.ndim == jnp.ndim(batch["labels"]) + 1 and outputs.shape[-1] == 1:
        outputs = outputs[..., 0]
    labels, outputs = _labels(outputs, batch, classes=False), _wide(outputs)
    return outputs, labels.astype(outputs.dtype)


def _per_example(loss: jax.Array, batch: Batch, masked: bool = False) -> PerExample:
    """Averages losses `[B, ...]` over all axes but the first, and weighs by the real tokens if masked."""
    weight = batch.get("weight")
    weight = jnp.ones(loss.shape[0], loss.dtype) if weight is None else jnp.asarray(weight).astype(loss.dtype)
    if not masked or loss.ndim == 1:
        return loss.reshape(loss.shape[0], -1).mean(-1), weight
    mask = batch.get("mask")
    mask = jnp.ones_like(loss) if mask is None else jnp.asarray(mask).astype(loss.dtype)
    axes = tuple(range(1, loss.ndim))
    tokens = mask.sum(axes)
    return jnp.where(mask > 0, mask * loss, 0).sum(axes) / jnp.maximum(tokens, 1), weight * tokens
