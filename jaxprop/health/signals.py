"""What a train step measures of itself: rows for every layer, reduced in float32 inside the step. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprop import trees
from jaxprop.errors import UsageError
from jaxprop.health.scans import scan_lengths
from jaxprop.types import PyTree

DETAILS = ("lean", "rows", "full", "flush")
SPIKES = (None, "clip", "skip")
# A kernel costs more to compile than to run, so small leaves are copied into blocks that are reduced together. The CPU
# has the sums of larger ones from a library, which costs nothing to compile; what counts entries it has to compile.
BLOCK = 1024
SUMMED_ALONE = 4096
COUNTED_ALONE = 2**20 + 1
NEVER_ALONE = 2**62
CHUNK = 2**22  # entries that are copied at a time
WIDTH = 32  # values of a row that are added up at a time
CODE = 2.0 * BLOCK  # of an entry that is not finite; above all the zeros there can be in a block


class Signals(NamedTuple):
    """What a train step measures, how often, and how it guards itself.

    Args:
      every: steps between records with a row for every layer.
      rare_every: steps between records that hold everything, `m.rare` and `m.taps` too.
      flush_every: steps between measurements of what float16 would flush to zero, which take a backward pass in
        float32; used with a loss scale only.
      taps: measure tapped activations.
      curvature: measure the curvature along the gradient and the largest eigenvalue of the Hessian: two
        Hessian-vector products in every full record, and a copy of the parameters in the state.
      b2, eps: of Adam, for `adam_lag` and `tiny_second_moment`; b2 is None where what the optimizer calls `nu` is
        not a mean of squared gradients, as in Adamax, Yogi and AdaBelief.
      spikes: None, or what to do with a gradient norm far above its own history: `"clip"` it there, or `"skip"` it.
      respond: take updates at `min(lr_scale, rate_limit / rate_peak)` of the rate and clip gradients to `grad_limit`,
        all of `state.health`.
    """

    every: int = 1
    rare_every: int = 10
    flush_every: int = 100
    taps: bool = True
    curvature: bool = False
    b2: float | None = 0.999
    eps: float = 1e-8
    spikes: str | None = None
    respond: bool = False

    @property
    def guarded(self) -> bool:
        """Whether the step may change a gradient before the optimizer sees it."""
        return self.spikes is not None or self.respond

    def detail(self, first: int, last: int) -> str:
        """What the call that takes steps `first..last`, counted from 1, measures: a pure function of the numbers.

        Example:
          >>> [Signals(every=2, rare_every=10).detail(step, step) for step in (1, 2, 10, 100)]
          ['lean', 'rows', 'full', 'flush']
        """

        def due(every: int) -> bool:
            return last // every > (first - 1) // every

        if due(self.flush_every):
            return "flush"
        return "full" if due(self.rare_every) else "rows" if due(self.every) else "lean"


def settings(health: bool | Signals) -> Signals | None:
    """Returns what `health=` stands for: None for False, the defaults for True.

    Raises:
      UsageError: for an interval below 1, or an unknown response to spikes.

    Example:
      >>> settings(True).rare_every, settings(False)
      (10, None)
    """
    signals = health if isinstance(health, Signals) else Signals() if health else None
    if signals is None:
        return None
    for name in ("every", "rare_every", "flush_every"):
        if getattr(signals, name) < 1:
            raise UsageError(f"expected {name} of at least 1, got {getattr(signals, name)}")
    if signals.spikes not in SPIKES:
        raise UsageError(f"expected spikes of None, 'clip' or 'skip', got {signals.spikes!r}")
    return signals


# -- layers -------------------------------------------------------------------------------------


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


# -- rows ---------------------------------------------------------------------------------------


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


def swallowed_rows(groups: Groups, params: PyTree, updates: PyTree) -> jax.Array:
    """Share of entries whose update was nonzero and changed nothing, `w + dw = w` in the dtype of `w`, `[L]`.

    Example:
      >>> params, updates = {"w": jnp.ones(2)}, {"w": jnp.array([1e-9, 1e-3])}
      >>> swallowed_rows(group_layers(params), params, updates).tolist()
      [0.5]
    """

    def terms(w: jax.Array, dw: jax.Array) -> tuple[jax.Array, ...]:
        return ((w + dw.astype(w.dtype) == w) & (dw != 0),)

    return row_sums(groups, terms, params, updates)[0] / jnp.asarray(groups.sizes, jnp.float32)


def flushed_rows(groups: Groups, grads: PyTree, scale: jax.Array) -> jax.Array:
    """Share of nonzero gradient entries, taken in float32, that float16 flushes to 0 at a loss scale, `[L]`.

        mean(0 < |s g| < 2^-24) / mean(g != 0)

    Example:
      >>> grads = {"w": jnp.array([0.0, 1e-9, 1e-3])}
      >>> flushed_rows(group_layers(grads), grads, jnp.float32(1)).tolist()
      [0.5]

    Reference:
      Micikevicius et al., Mixed Precision Training, section 3.2, https://arxiv.org/abs/1710.03740
    """

    def terms(g: jax.Array) -> tuple[jax.Array, ...]:
        nonzero = g != 0
        return nonzero & (jnp.abs(_wide(g) * scale) < jnp.float32(2.0**-24)), nonzero

    flushed, nonzero = row_sums(groups, terms, grads)
    return flushed / jnp.maximum(nonzero, 1)
