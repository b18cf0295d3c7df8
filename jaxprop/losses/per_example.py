"""What the losses share: labels checked against outputs, and one loss and weight per example. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.errors import ShapeError
from jaxprop.types import Batch

PerExample = tuple[jax.Array, jax.Array]  # loss [B], weight [B]


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
