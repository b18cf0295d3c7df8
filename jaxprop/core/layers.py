"""Layers of the parameters, and sums over each layer's entries, in float32. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprop.core import trees
from jaxprop.core.jaxprs.scans import scan_lengths
from jaxprop.types import PyTree

# A kernel costs more to compile than to run, so small leaves are copied into blocks that are reduced together. The CPU
# has the sums of larger ones from a library, which costs nothing to compile; what counts entries it has to compile.
BLOCK = 1024
SUMMED_ALONE = 4096
COUNTED_ALONE = 2**20 + 1
NEVER_ALONE = 2**62
CHUNK = 2**22  # entries that are copied at a time
WIDTH = 32  # values of a row that are added up at a time
CODE = 2.0 * BLOCK  # of an entry that is not finite; above all the zeros there can be in a block


class Groups(NamedTuple):
    """How the leaves of the parameters fall into layers.

    Args:
      names: the L layers, in the order of their first leaf.
      sizes: parameters in each.
      fans: (inputs, outputs) of the largest kernel in each, that is of its entries by all axes but the last and by the
        last one; (0, 0) without a leaf of two axes.
      rows: for every leaf the layers it belongs to: one, or as many as a scan takes it apart into.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    fans: tuple[tuple[int, int], ...]
    rows: tuple[tuple[int, ...], ...]


def group_layers(params: PyTree, stacked: Sequence[int | None] | None = None) -> Groups:
    """Groups the leaves of the parameters into layers: a layer is the node that holds the leaf.

    Args:
      params: arrays, or their shapes.
      stacked: for every leaf the number of layers stacked on its first axis, or None where it is one layer's.

    Returns:
      The groups; layer i of a stack `blocks` is called `blocks[i]`.

    Example:
      >>> group_layers({"head": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}}).sizes
      (8,)
      >>> group_layers({"blocks": {"w": jnp.ones((2, 3))}}, [2]).names
      ('blocks[0]', 'blocks[1]')
    """
    names, owners = trees.layer_names(params)
    leaves = jax.tree.leaves(params)
    counts = [None] * len(leaves) if stacked is None else stacked
    index: dict[str, int] = {}
    sizes: list[int] = []
    fans: list[tuple[int, int]] = []
    rows = []
    for leaf, owner, count in zip(leaves, owners, counts, strict=True):
        labels = [names[owner]] if count is None else [f"{names[owner]}[{i}]" for i in range(count)]
        shape = leaf.shape if count is None else leaf.shape[1:]
        fan = (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (0, 0)
        for label in labels:
            if label not in index:
                index[label] = len(sizes)
                sizes.append(0)
                fans.append(fan)
            at = index[label]
            sizes[at] += math.prod(shape)
            fans[at] = max(fan, fans[at], key=math.prod)
        rows.append(tuple(index[label] for label in labels))
    return Groups(tuple(index), tuple(sizes), tuple(fans), tuple(rows))


def find_groups(jaxpr: Any, params: PyTree) -> Groups:
    """Groups the parameters of a traced loss whose first arguments they are; stacks that a scan runs over, row by row.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda w: jax.lax.scan(lambda c, w: (c * w, None), 1.0, w)[0])(jnp.ones(3))
      >>> find_groups(jaxpr, jnp.ones(3)).names
      ('params[0]', 'params[1]', 'params[2]')
    """
    return group_layers(params, scan_lengths(jaxpr, len(jax.tree.leaves(params))))


def row_sums(
    groups: Groups, terms: Callable[..., tuple[jax.Array, ...]], *trees_: PyTree, fill: float = 0.0
) -> jax.Array:
    """Sums functions of corresponding leaves over each layer, accumulated in float32.

    s_l = sum over the leaves i of layer l and their entries e of t(x_ie, y_ie, ...)

    Args:
      groups: the layers.
      terms: maps arrays, one of each tree, to a tuple of arrays of that shape, entry by entry.
      *trees_: pytrees shaped like the parameters, or lists of their leaves; None for a leaf left out.
      fill: an entry, the same in every tree, whose terms are all 0.

    Returns:
      float32 `[terms, L]`.

    Example:
      >>> params = {"head": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}}
      >>> row_sums(group_layers(params), lambda w: (w**2,), params).tolist()
      [[8.0]]
    """
    sums, rows = _part_sums(groups, terms, trees_, fill)
    return _by_row(sums, rows, len(groups.names))


def _part_sums(
    groups: Groups, terms: Callable[..., tuple[jax.Array, ...]], trees_: Sequence[PyTree], fill: float = 0.0
) -> tuple[jax.Array, list[int]]:
    """Sums over parts of layers, `[terms, parts]`, and the row of each part."""
    columns = [jax.tree.leaves(tree, is_leaf=lambda x: x is None) for tree in trees_]
    sums, rows = [], []
    for members in _bunches(columns, SUMMED_ALONE):
        arrays = [_blocks(groups, column, members, fill, SUMMED_ALONE) for column in columns]
        sums.append([lax.reduce_sum(t.astype(jnp.float32), [1]) for t in terms(*arrays)])
        rows += _rows_of(groups, columns[0], members, SUMMED_ALONE)
    return jnp.stack([jnp.concatenate(of_term) for of_term in zip(*sums, strict=True)]), rows


def _by_row(values: jax.Array, rows: Sequence[int], count: int) -> jax.Array:
    """Adds up the values `[n, parts]` of each row, `[n, count]`; by gathers, as a scatter's order may vary."""
    if list(rows) == list(range(count)):
        return values
    places: list[list[int]] = [[] for _ in range(count)]
    for i, row in enumerate(rows):
        places[row].append(i)
    # Few at a time, or the longest row would set the width of a table that is a constant of the program.
    pieces = [(row, place[i : i + WIDTH]) for row, place in enumerate(places) for i in range(0, len(place) or 1, WIDTH)]
    most = max(len(piece) for _, piece in pieces)
    # What a row has too few of is taken from a zero that is put behind the values.
    table = np.array([piece + [len(rows)] * (most - len(piece)) for _, piece in pieces], np.int32)
    padded = jnp.concatenate([values, jnp.zeros_like(values, shape=(len(values), 1))], 1)
    return _by_row(jnp.sum(padded[:, table], -1), [row for row, _ in pieces], count)


def _bunches(columns: Sequence[Sequence[Any]], alone: int) -> list[list[int]]:
    """Indices of leaves to reduce together: small ones of the same dtypes, by the chunk, and every other leaf alone."""
    bunches: list[list[int]] = []
    filling: dict[Any, tuple[int, list[int]]] = {}
    for i, leaves in enumerate(zip(*columns, strict=True)):
        if any(leaf is None for leaf in leaves):
            continue
        if leaves[0].size >= alone:
            bunches.append([i])
            continue
        dtypes = tuple(leaf.dtype for leaf in leaves)
        used, bunch = filling.get(dtypes, (CHUNK, []))
        if used + leaves[0].size > CHUNK:
            used, bunch = 0, []
            bunches.append(bunch)
        bunch.append(i)
        filling[dtypes] = used + leaves[0].size, bunch
    return bunches or [[]]


def _blocks(groups: Groups, leaves: Sequence[Any], members: Sequence[int], fill: float, alone: int) -> jax.Array:
    """A bunch as `[parts, m]`, each part of one row: a large leaf row by row, small ones in blocks, filled up."""
    counts = [len(groups.rows[i]) for i in members]
    # Functions of lax, as every leaf of every model comes by here while a step is traced.
    flat = [lax.reshape(leaves[i], (n, leaves[i].size // max(n, 1))) for i, n in zip(members, counts, strict=True)]
    if len(flat) == 1 and flat[0].size >= alone:
        return flat[0]
    pieces = []
    for x in flat:
        excess = -x.shape[1] % BLOCK
        filled = [x, lax.full((len(x), excess), fill, x.dtype)] if excess else [x]
        pieces += filled if len(x) == 1 else [lax.concatenate(filled, 1)]
    if not pieces:
        return jnp.zeros((0, BLOCK), jnp.float32)
    joined = lax.concatenate([lax.reshape(piece, (piece.size,)) for piece in pieces], 0)
    return lax.reshape(joined, (joined.size // BLOCK, BLOCK))


def _rows_of(groups: Groups, leaves: Sequence[Any], members: Sequence[int], alone: int) -> list[int]:
    """The row of each part of `_blocks`."""
    rows = []
    for i in members:
        size = leaves[i].size // max(len(groups.rows[i]), 1)
        rows += [row for row in groups.rows[i] for _ in range(1 if leaves[i].size >= alone else -(-size // BLOCK))]
    return rows


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


def squares(groups: Groups, *trees_: PyTree) -> jax.Array:
    """Sum of squares of each layer, float32 `[trees, L]`.

    Example:
      >>> params = {"w": jnp.full(3, 2.0)}
      >>> squares(group_layers(params), params).tolist()
      [[12.0]]
    """
    return row_sums(groups, _squared, *trees_)


def norm(tree: PyTree) -> jax.Array:
    """Global L2 norm of a tree, a float32 scalar.

    Example:
      >>> norm({"w": jnp.ones((2, 2)), "b": jnp.zeros(3)}).item()
      2.0
    """
    return jnp.sqrt(jnp.sum(_part_sums(group_layers(tree), _squared, [tree])[0]))


def _squared(*leaves: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(jnp.square(_wide(x)) for x in leaves)


def gradient_counts(groups: Groups, grads: PyTree) -> jax.Array:
    """Number of gradient entries that are not finite, and share that is exactly 0, float32 `[2, L]`.

    Args:
      groups: the layers.
      grads: the gradient.

    Returns:
      Counts and shares.

    Example:
      >>> grads = {"w": jnp.array([3.0, 0.0, jnp.inf, 4.0])}
      >>> gradient_counts(group_layers(grads), grads).tolist()
      [[1.0], [0.25]]
    """
    leaves, parts, rows = jax.tree.leaves(grads), [], []
    for members in _bunches([leaves], COUNTED_ALONE):
        # Blocks for large leaves too. Both counts are in one sum over a block: float32 holds it to the last digit, and
        # a second kernel would be felt in the time to compile.
        blocks = _blocks(groups, leaves, members, 1.0, NEVER_ALONE)
        code = jnp.where(jnp.abs(blocks) < jnp.inf, jnp.where(blocks == 0, 1.0, 0.0), CODE).astype(jnp.float32)
        parts.append(jnp.sum(code, 1))
        rows += _rows_of(groups, leaves, members, NEVER_ALONE)
    code = jnp.concatenate(parts)
    nonfinite = jnp.floor(code / CODE)
    counts = _by_row(jnp.stack([nonfinite, code - CODE * nonfinite]), rows, len(groups.names))
    return counts / np.array([[1] * len(groups.sizes), groups.sizes], np.float32)
