"""Mixup and cutmix: examples that are mixed with another one of their batch, and their labels with them. Pure."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import betaincinv

from jaxprop.core.examples import row_weights
from jaxprop.core.precision import wide
from jaxprop.data.augment.boxes import inside
from jaxprop.data.augment.inputs import along, floats, images
from jaxprop.errors import ShapeError
from jaxprop.types import Batch

QUANTILES = 2**14 + 1  # of the Beta distribution, from 0 to its median


def mixup(
    key: jax.Array, batch: Batch, *, alpha: float = 0.2, classes: int | None = None, probability: float = 1.0
) -> Batch:
    """Averages each example with another one of its batch, and their labels with the same weights.

        x_i <- a_i x_i + (1 - a_i) x_j,   y_i <- a_i y_i + (1 - a_i) y_j,   a = max(b, 1 - b), b ~ Beta(alpha, alpha)

    Each example is given away once, to another one that counts: examples of weight 0, which are padding, stay as they
    are and reach no other one. Since a_i is at least 1/2, an example keeps its own weight.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, ...]`; `labels` integer `[B]`, or numbers `[B, ...]`; if present, `weight` and `mask`.
      alpha: 0 for no change; the larger, the more evenly two examples are mixed.
      classes: C; needed for integer labels, which become shares of the classes, float32 `[B, C]`.
      probability: that an example is mixed with another one.

    Returns:
      The batch with other inputs and labels. A label counts where it counts in both examples.

    Raises:
      ShapeError: the inputs are integers, there are no labels, or they cannot be mixed.

    Example:
      >>> batch = {"inputs": jnp.eye(2), "labels": jnp.array([0, 1])}
      >>> mixed = mixup(jax.random.key(0), batch, alpha=1.0, classes=2)
      >>> bool(jnp.allclose(mixed["inputs"], mixed["labels"]))
      True

    Reference:
      Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018.
    """
    x = floats(batch, "mixup")
    if not (alpha and probability):
        return batch
    pairing, drawing = jax.random.split(key)
    partner = partners(pairing, batch, x.shape[0])
    own = own_shares(drawing, x.shape[0], alpha, probability)
    inputs = _averaged(wide(x), partner, own).astype(x.dtype)
    return {**_with_labels(batch, partner, own, classes, "mixup"), "inputs": inputs}


def cutmix(
    key: jax.Array, batch: Batch, *, alpha: float = 1.0, classes: int | None = None, probability: float = 1.0
) -> Batch:
    """Pastes a box of another image of the batch into each image, and mixes their labels by area.

    The box covers 1 - max(b, 1 - b) of the image, b ~ Beta(alpha, alpha), with the proportions of the image, around any
    of its pixels with the same probability. What of it lies outside is lost, and labels are mixed by what is left.
    Pairs are made, and padding and weights treated, as in `mixup`.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, H, W, C]`; the rest as of `mixup`.
      alpha, classes, probability: as of `mixup`.

    Returns:
      The batch with other inputs and labels. A label counts where it counts in both examples.

    Raises:
      ShapeError: the inputs are no images, there are no labels, or they cannot be mixed.

    Example:
      >>> batch = {"inputs": jnp.eye(2)[:, None, None, :] * jnp.ones((1, 8, 8, 1)), "labels": jnp.array([0, 1])}
      >>> mixed = cutmix(jax.random.key(0), batch, classes=2)
      >>> bool(jnp.allclose(mixed["inputs"].mean((1, 2)), mixed["labels"]))
      True

    Reference:
      Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, 2019.
    """
    x = images(batch, "cutmix", moves=True)
    if not (alpha and probability):
        return batch
    pairing, drawing, placing = jax.random.split(key, 3)
    partner = partners(pairing, batch, x.shape[0])
    side = jnp.sqrt(1 - own_shares(drawing, x.shape[0], alpha, probability))
    height, width = (jnp.round(size * side).astype(jnp.int32) for size in x.shape[1:3])
    pasted = inside(placing, x, height, width)
    own = 1 - jnp.mean(pasted, (1, 2, 3), dtype=jnp.float32)
    return {**_with_labels(batch, partner, own, classes, "cutmix"), "inputs": jnp.where(pasted, x[partner], x)}


def partners(key: jax.Array, batch: Batch, count: int) -> jax.Array:
    """Returns for each example the number of the one that it is mixed with, int32 `[B]`.

    All examples that count form one ring in random order, so that each one has another partner than itself, unless it
    is the only one, and is the partner of one. The others are their own partners.

    Args:
      key: a PRNG key.
      batch: if present, `weight` and `mask` say which examples count.
      count: B.

    Example:
      >>> partners(jax.random.key(0), {"weight": jnp.array([1.0, 0.0, 1.0])}, 3).tolist()
      [2, 1, 0]
    """
    weight = row_weights(batch)
    counts = jnp.ones(count, bool) if weight is None else weight != 0
    order = jnp.argsort(jnp.where(counts, jax.random.uniform(key, (count,), jnp.float32), 2)).astype(jnp.int32)
    place, last = jnp.arange(count, dtype=jnp.int32), jnp.sum(counts, dtype=jnp.int32) - 1
    following = order[jnp.where(place < last, place + 1, 0)]
    return jnp.zeros(count, jnp.int32).at[order].set(jnp.where(place <= last, following, order))


def own_shares(key: jax.Array, count: int, alpha: float, probability: float) -> jax.Array:
    """Draws what each example keeps of itself, max(b, 1 - b) with b ~ Beta(alpha, alpha), float32 `[B]`.

    Args:
      key: a PRNG key.
      count: B.
      alpha: of the Beta distribution.
      probability: that it keeps less than all.

    Example:
      >>> own_shares(jax.random.key(0), 2, alpha=1.0, probability=0.0).tolist()
      [1.0, 1.0]
    """
    chosen, drawing = jax.random.split(key)
    # By the inverse of the distribution function: `jax.random.beta` takes seconds to compile.
    probabilities = np.linspace(0, 0.5, QUANTILES)
    quantiles = jnp.asarray(betaincinv(alpha, alpha, probabilities), jnp.float32)
    place = jax.random.uniform(drawing, (count,), jnp.float32) * (QUANTILES - 1)
    below = jnp.minimum(place.astype(jnp.int32), QUANTILES - 2)
    given = quantiles[below] + (place - below.astype(jnp.float32)) * (quantiles[below + 1] - quantiles[below])
    return jnp.where(jax.random.bernoulli(chosen, probability, (count,)), 1 - given, 1)


def _averaged(x: jax.Array, partner: jax.Array, own: jax.Array) -> jax.Array:
    share = along(own, x).astype(x.dtype)
    # A select, since 0 x NaN is NaN; a difference, which leaves equal examples equal to the bit.
    return jnp.where(share < 1, x + (1 - share) * (x[partner] - x), x)


def _with_labels(batch: Batch, partner: jax.Array, own: jax.Array, classes: int | None, name: str) -> dict[str, Any]:
    """The batch with labels mixed by `own` [B], and a mask of those that count in both examples."""
    labels = _numbers(batch, classes, name)
    mixed = {**batch, "labels": _averaged(wide(labels), partner, own).astype(labels.dtype)}
    if batch.get("mask") is not None:
        mask = jnp.asarray(batch["mask"])
        lost = (along(own, mask) < 1) & (mask[partner] == 0)
        mixed["mask"] = jnp.where(lost, jnp.zeros_like(mask), mask)
    return mixed


def _numbers(batch: Batch, classes: int | None, name: str) -> jax.Array:
    """Labels that can be averaged: those of classes become shares of the classes."""
    if batch.get("labels") is None:
        keys = ", ".join(map(str, batch))
        raise ShapeError(f"{name} mixes labels, too: expected batch['labels'], got the keys {keys}")
    labels = jnp.asarray(batch["labels"])
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return labels
    if labels.ndim != 1:
        raise ShapeError(f"{name} needs labels [B] or floating-point ones, got {labels.dtype} {list(labels.shape)}")
    if classes is None:
        raise ShapeError(f"{name} turns integer labels into shares of the classes; give it classes=, their number")
    return jax.nn.one_hot(labels, classes, dtype=jnp.float32)
