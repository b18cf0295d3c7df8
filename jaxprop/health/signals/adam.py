"""Signals of Adam's second moment, a row for every layer. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core import trees
from jaxprop.core.layers import Groups, _wide, row_sums
from jaxprop.types import PyTree


class Moments(NamedTuple):
    """Adam's second moment of every leaf before and after an update, None for a leaf without; and the updates made."""

    before: list[Any]
    after: list[Any]
    count: Any


def moments(before: PyTree, after: PyTree, params: PyTree) -> Moments | None:
    """Finds the second moments in two optax states: what a NamedTuple with `count`, `mu` and `nu` calls `nu`.

    Args:
      before, after: the optimizer's state around one update.
      params: the parameters.

    Returns:
      The moments, or None where the optimizer keeps none.

    Example:
      >>> import optax
      >>> params, tx = {"w": jnp.ones(2)}, optax.adam(0.1)
      >>> state = tx.init(params)
      >>> moments(state, state, params).count.item(), moments((), (), params)
      (0, None)
    """
    old, new = _second_moments(before), _second_moments(after)
    paths, leaves = trees.leaf_paths(params), jax.tree.leaves(params)
    fits = [path in old and old[path][0].shape == leaf.shape for path, leaf in zip(paths, leaves, strict=True)]
    if not any(fits):
        return None
    counts = [new[path][1] for path, fit in zip(paths, fits, strict=True) if fit]
    return Moments(
        [old[path][0] if fit else None for path, fit in zip(paths, fits, strict=True)],
        [new[path][0] if fit else None for path, fit in zip(paths, fits, strict=True)],
        counts[0],
    )


def _second_moments(state: PyTree) -> dict[str, tuple[jax.Array, jax.Array]]:
    def is_adam(node: Any) -> bool:
        return isinstance(node, tuple) and {"count", "mu", "nu"} <= set(getattr(node, "_fields", ()))

    found = {}
    for node in jax.tree.leaves(state, is_leaf=is_adam):
        if is_adam(node):
            for path, leaf in zip(trees.leaf_paths(node.nu), jax.tree.leaves(node.nu), strict=True):
                found[path] = (leaf, node.count)
    return found


def adam_lag(groups: Groups, found: Moments, b2: float, eps: float) -> jax.Array:
    """Lag of Adam's second moment behind the gradient, `[L]`.

        lag = sqrt(mean(g^2 / max(v, eps^2))),   v = nu / (1 - b2^t)

    The g^2 that Adam saw, after whatever clipping came before it, is `(nu_t - b2 nu_{t-1}) / (1 - b2)`.

    Args:
      groups: the layers.
      found: second moments around an update.
      b2, eps: Adam's.

    Returns:
      float32 `[L]`; NaN for a layer none of whose leaves has a second moment.

    Example:
      >>> from jaxprop.core.layers import group_layers
      >>> params = {"w": jnp.ones(2)}
      >>> now = Moments([jnp.zeros(2)], [jnp.full(2, 0.001)], jnp.int32(1))
      >>> round(adam_lag(group_layers(params), now, 0.999, 1e-8).item(), 3)
      1.0

    Reference:
      Wortsman et al., Small-scale proxies for large-scale Transformer training instabilities, 2023.
      https://arxiv.org/abs/2309.14322 (RMS of the update, g^2 / v)
    """
    correction = _correction(found, b2)
    smallest = jnp.maximum(_smallest(eps) * correction, jnp.float32(1e-37))

    def terms(before: jax.Array, after: jax.Array) -> tuple[jax.Array, ...]:
        # Scalars are left to the end, and b2 is negative: what shared a product or quotient with the optimizer would
        # have it written to memory, by a kernel for every leaf.
        return (jnp.maximum(_wide(after) + jnp.float32(-b2) * _wide(before), 0) / jnp.maximum(_wide(after), smallest),)

    (lags,) = row_sums(groups, terms, found.before, found.after)
    return jnp.sqrt(lags * correction / (jnp.float32(1 - b2) * _entries(groups, found.after)))


def tiny_second_moment(groups: Groups, found: Moments, b2: float, eps: float) -> jax.Array:
    """Share of entries where Adam's epsilon takes over, `mean(sqrt(v) < 10 eps)`, `[L]`.

    Args:
      groups: the layers.
      found: second moments around an update.
      b2, eps: Adam's.

    Returns:
      float32 `[L]`; NaN for a layer none of whose leaves has a second moment.

    Example:
      >>> from jaxprop.core.layers import group_layers
      >>> params = {"w": jnp.ones(2)}
      >>> now = Moments([jnp.zeros(2)], [jnp.array([0.001, 0.0])], jnp.int32(1))
      >>> tiny_second_moment(group_layers(params), now, 0.999, 1e-8).item()
      0.5
    """
    correction, smallest = _correction(found, b2), _smallest(eps)
    (tiny,) = row_sums(groups, lambda after: (_wide(after) / correction < 100 * smallest,), found.after, fill=jnp.inf)
    return tiny / _entries(groups, found.after)


def _correction(found: Moments, b2: float) -> jax.Array:
    return 1 - jnp.power(jnp.float32(b2), found.count.astype(jnp.float32))


def _smallest(eps: float) -> jax.Array:
    return jnp.float32(max(eps, 1e-18) ** 2)  # a square that float32 still holds


def _entries(groups: Groups, leaves: list[Any]) -> jax.Array:
    """Entries of each layer that are in the leaves; NaN where none is."""
    counts = np.zeros(len(groups.names), np.float32)
    for leaf, rows in zip(leaves, groups.rows, strict=True):
        if leaf is not None:
            np.add.at(counts, list(rows), leaf.size / len(rows))
    return jnp.asarray(np.where(counts > 0, counts, np.nan), jnp.float32)
