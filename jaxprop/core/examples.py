"""What losses and metrics share: labels checked against outputs, and the entries of a batch that count. Pure.

An entry is one answer: an example, a token of it, or one of its K targets. Its weight is `weight[b] * mask[b, ...]`.
An entry of weight 0 counts for nothing whatever it holds. Its outputs and labels are replaced before anything is
computed of them, since a select afterwards leaves 0 x NaN in the gradient.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.precision import wide, wide_dtype
from jaxprop.errors import ShapeError
from jaxprop.types import Batch

ROUNDING = 1e-2  # how far shares of classes may be from adding up to 1, as bfloat16 makes them


def class_labels(outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns logits and labels of the entries that count, and which labels are classes, or shares of the classes.

    Args:
      outputs: logits `[B, C]` or `[B, T, V]`.
      batch: `labels` integer `[B]` or `[B, T]`, or shares of the classes, floats `[B, C]` or `[B, T, V]`; if present,
        `mask` and `weight`.

    Returns:
      Logits in float32 or wider, and labels; both 0 where an entry counts for nothing. Whether each label lies in
      `0..C-1`, a boolean: a label such as -100 or -1 that is not masked does not, and its loss is NaN. A negative
      index would silently count from the last class. Of shares, whether none is negative and they add up to 1.

    Raises:
      ShapeError: labels that are neither, or not one for each row of logits.

    Example:
      >>> batch = {"labels": jnp.array([1, -100, -100]), "weight": jnp.array([1.0, 1.0, 0.0])}
      >>> _, labels, known = class_labels(jnp.zeros((3, 2)), batch)
      >>> labels.tolist(), known.tolist()
      ([1, -100, 0], [True, False, True])
    """
    outputs, labels = jnp.asarray(outputs), _labels(batch)
    logits, entries = wide(outputs), outputs.shape[:-1]
    shares = 1 < outputs.ndim == labels.ndim and jnp.issubdtype(labels.dtype, jnp.floating)
    _expect_labels(labels, outputs.shape if shares else entries, outputs)
    if not (shares or jnp.issubdtype(labels.dtype, jnp.integer)):
        raise ShapeError(
            f"expected integer labels, the classes, got {labels.dtype}; use sigmoid_cross_entropy for labels in 0..1"
        )
    counts = counted(batch, entries)
    if shares:
        return _shares(logits, labels.astype(logits.dtype), counts)
    if counts is not None:
        labels, logits = jnp.where(counts, labels, 0), jnp.where(counts[..., None], logits, 0)
    return logits, labels, (labels >= 0) & (labels < outputs.shape[-1])


def _shares(logits: jax.Array, shares: jax.Array, counts: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    if counts is not None:
        shares, logits = (jnp.where(counts[..., None], x, 0) for x in (shares, logits))
    known = jnp.all(shares >= 0, -1) & (jnp.abs(jnp.sum(shares, -1) - 1) <= ROUNDING)
    return logits, shares, known if counts is None else known | ~counts


def targets(outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns outputs and labels of one shape, in float32 or wider, and 0 where an entry counts for nothing.

    Args:
      outputs: predictions `[B, ...]`; `[B, ..., 1]` fit labels without the last axis.
      batch: `labels` of the outputs' shape; if present, `mask` and `weight`.

    Raises:
      ShapeError: labels of another shape.

    Example:
      >>> outputs, labels = targets(jnp.array([[3.0], [jnp.nan]]), {"labels": jnp.ones(2), "mask": jnp.array([1, 0])})
      >>> outputs.tolist(), labels.tolist()
      ([3.0, 0.0], [1.0, 0.0])
    """
    outputs, labels = jnp.asarray(outputs), _labels(batch)
    if outputs.ndim == labels.ndim + 1 and outputs.shape[-1] == 1:
        outputs = outputs[..., 0]
    _expect_labels(labels, outputs.shape, outputs)
    outputs = wide(outputs)
    labels = labels.astype(outputs.dtype)
    if (counts := counted(batch, labels.shape)) is not None:
        outputs, labels = jnp.where(counts, outputs, 0), jnp.where(counts, labels, 0)
    return outputs, labels


def counted(batch: Batch, shape: tuple[int, ...]) -> jax.Array | None:
    """Returns which entries of an array `[B, ...]` have a weight that is not 0; None where all have.

    Example:
      >>> counted({"weight": jnp.array([1.0, 0.0])}, (2, 1)).tolist()
      [[True], [False]]
    """
    weight, mask = _weight(batch, shape), _mask(batch, shape)
    held = [part != 0 for part in (weight, mask) if part is not None]
    return jnp.broadcast_to(functools.reduce(jnp.logical_and, held), shape) if held else None


def row_weights(batch: Any) -> jax.Array | None:
    """Returns the weight of each example `[B]`, 0 where its mask leaves none of its entries; None where all count.

    Args:
      batch: if a mapping with them, `weight` `[B]` and `mask` `[B]` or `[B, ...]`. A mask of `boxes` leaves
        the weight as it is: an image without objects is an example, too.

    Example:
      >>> batch = {"weight": jnp.array([2.0, 2.0, 0.0]), "mask": jnp.array([[1, 0], [0, 0], [1, 1]])}
      >>> row_weights(batch).tolist()
      [2.0, 0.0, 0.0]
    """
    weight, mask = (batch.get(key) if isinstance(batch, Mapping) else None for key in ("weight", "mask"))
    weight = _numbers(weight) if weight is not None and jnp.ndim(weight) == 1 else None
    if mask is None or jnp.ndim(mask) == 0 or "boxes" in batch:  # an image without objects says where there are none
        return weight
    some = jnp.any(jnp.asarray(mask).astype(bool), tuple(range(1, jnp.ndim(mask))))
    if weight is None:
        return some.astype(jnp.float32)
    return jnp.where(some, weight, jnp.zeros((), weight.dtype)) if some.shape == weight.shape else weight


def entry_weights(batch: Batch, shape: tuple[int, ...], dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Returns the weight of each example `[B]` and the mask of each of its entries `[B, ...]`; 1 where not given.

    Args:
      batch: if present, `weight` `[B]` and `mask` `[B]` or `[B, ...]`, numbers of any kind; a mask need not be 0 or 1,
        and a weight may be negative.
      shape: of what is weighed.
      dtype: to return them in.

    Raises:
      ShapeError: a weight or mask of another shape. None is broadcast from the right.

    Example:
      >>> weight, mask = entry_weights({"mask": jnp.array([True, False])}, (2, 3), jnp.dtype("float32"))
      >>> weight.tolist(), mask.tolist()
      ([1.0, 1.0], [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    """
    weight, mask = _weight(batch, shape), _mask(batch, shape)
    weight = jnp.ones(shape[0], dtype) if weight is None else weight.reshape(-1).astype(dtype)
    mask = jnp.ones(shape, dtype) if mask is None else jnp.broadcast_to(mask.astype(dtype), shape)
    return weight, mask


def per_example(values: jax.Array, batch: Batch, *, tokens: bool) -> tuple[jax.Array, jax.Array]:
    """Averages `values [B, ...]` over each example's entries, and weighs the examples.

        l_b = sum_k m_bk v_bk / sum_k m_bk,   W_b = w_b sum_k m_bk   (over K where not of tokens)

    Args:
      values: losses of entries.
      batch: if present, `mask` m and `weight` w.
      tokens: whether every entry counts as one, so that `sum(W l) / sum(W)` is a mean over tokens of all examples;
        else an example counts as one.

    Returns:
      The mean `[B]`, 0 where nothing counts and NaN where masks cancel to 0, and the weight `[B]`.

    Example:
      >>> values, mask = jnp.array([[1.0, 3.0], [4.0, jnp.nan]]), jnp.array([[1, 1], [1, 0]])
      >>> [x.tolist() for x in per_example(values, {"mask": mask}, tokens=True)]
      [[2.0, 4.0], [2.0, 1.0]]
    """
    weight, mask = entry_weights(batch, values.shape, wide_dtype(values.dtype))
    axes = tuple(range(1, values.ndim))
    total, share = jnp.sum(jnp.where(mask != 0, mask * values, 0), axes), jnp.sum(mask, axes)
    mean = jnp.where(weight != 0, safe_mean(total, share, jnp.any(mask != 0, axes)), 0)
    return mean, weight * (share if tokens else share / math.prod(values.shape[1:]))


def weighted_sum(values: jax.Array, batch: Batch, *, tokens: bool) -> tuple[jax.Array, jax.Array]:
    """Returns the weighted sum of `values [B, ...]` and the sum of the weights, two scalars.

    Args:
      values, batch, tokens: as of `per_example`; the quotient is the mean of its examples by its weights.

    Example:
      >>> total, count = weighted_sum(jnp.array([1.0, jnp.nan]), {"weight": jnp.array([2.0, 0.0])}, tokens=False)
      >>> total.item(), count.item()
      (2.0, 2.0)
    """
    weight, mask = entry_weights(batch, values.shape, wide_dtype(values.dtype))
    mask = mask * weight.reshape(-1, *[1] * (values.ndim - 1))
    entries = 1 if tokens else math.prod(values.shape[1:])
    return jnp.sum(jnp.where(mask != 0, mask * values, 0)) / entries, jnp.sum(mask) / entries


def safe_mean(total: jax.Array, weight: jax.Array, some: jax.Array) -> jax.Array:
    """Returns `total / weight`; 0 where nothing counts, and NaN where weights of both signs cancel to 0.

    Args:
      total: `sum(w v)`.
      weight: `sum(w)`.
      some: whether any w is not 0.

    Example:
      >>> safe_mean(jnp.array([2.0, 0.0]), jnp.array([4.0, 0.0]), jnp.array([True, False])).tolist()
      [0.5, 0.0]
    """
    mean = total / jnp.where(weight != 0, weight, jnp.ones_like(weight))
    return jnp.where(weight != 0, mean, jnp.where(some, jnp.full_like(mean, jnp.nan), 0))


def _labels(batch: Batch) -> jax.Array:
    if "labels" not in batch:
        raise ShapeError(f"expected the batch to hold labels, got the keys {', '.join(map(str, batch))}")
    return jnp.asarray(batch["labels"])


def _expect_labels(labels: jax.Array, expected: tuple[int, ...], outputs: jax.Array) -> None:
    if labels.shape != expected:
        raise ShapeError(
            f"expected labels {list(expected)} for outputs {list(outputs.shape)}, got {list(labels.shape)}; "
            "check the number of outputs and the task"
        )


def _weight(batch: Batch, shape: tuple[int, ...]) -> jax.Array | None:
    """The batch's weight `[B, 1, ...]`, as many axes as `shape`."""
    if batch.get("weight") is None:
        return None
    weight = _numbers(batch["weight"])
    if weight.shape != shape[:1]:
        raise ShapeError(
            f"expected weight {list(shape[:1])}, one number an example, got {list(weight.shape)}; "
            "call what weighs tokens or targets mask"
        )
    return weight.reshape(-1, *[1] * (len(shape) - 1))


def _mask(batch: Batch, shape: tuple[int, ...]) -> jax.Array | None:
    """The batch's mask `[B, ..., 1]`, as many axes as `shape`."""
    if batch.get("mask") is None:
        return None
    mask = _numbers(batch["mask"])
    if mask.ndim == 0 or mask.shape != shape[: mask.ndim]:
        raise ShapeError(
            f"expected mask {list(shape)}, one number an answer, or its leading axes, got {list(mask.shape)}; "
            "give a mask of the inputs another key, such as input_mask"
        )
    return mask.reshape(*mask.shape, *[1] * (len(shape) - mask.ndim))


def _numbers(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if x.dtype == bool else x
