"""What the step differentiates: a `Model` bound to a loss, or a plain loss function. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.precision import cast_floating, cast_inputs
from jaxprop.core.taps import output_sums
from jaxprop.errors import ShapeError, UsageError
from jaxprop.types import Batch, Loss, Metric, Model, Objective, PyTree, Sums

LossFn = Callable[..., Any]  # (params, batch, key) -> loss or (loss, aux)


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
      >>> from jaxprop.losses.softmax import softmax_cross_entropy
      >>> import jaxprop
      >>> from jaxprop.metrics.accuracy import accuracy
      >>> from jaxprop.core.precision import policy
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
