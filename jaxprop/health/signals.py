"""What a train step measures of itself: rows for every layer, reduced in float32 inside the step. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop import trees
from jaxprop.errors import UsageError
from jaxprop.health.scans import scan_lengths
from jaxprop.types import PyTree

DETAILS = ("lean", "rows", "full", "flush")
SPIKES = (None, "clip", "skip")
# Reducing many small arrays costs a kernel each, so those of one shape are stacked first; copying large ones would
# cost more than the kernels.
STACKED_BELOW = 65_536
BUNCH = 256
LINE = 2048
CODE = 2.0 * LINE  # of an entry that is not finite; above all the zeros there can be in a line


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
      b2, eps: of the Adam-like optimizer, for `adam_lag` and `tiny_second_moment`.
      spikes: None, or what to do with a gradient norm far above its own history: `"clip"` it there, or `"skip"` it.
      respond: scale updates by `state.health["lr_scale"]`, and clip gradients to `state.health["grad_limit"]`.
    """

    every: int = 1
    rare_every: int = 10
    flush_every: int = 100
    taps: bool = True
    curvature: bool = False
    b2: float = 0.999
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
      rows: for every leaf the layers it belongs to: one, or as many as a scan takes it apart into.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
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
    rows = []
    for leaf, owner, count in zip(leaves, owners, counts, strict=True):
        labels = [names[owner]] if count is None else [f"{names[owner]}[{i}]" for i in range(count)]
        for label in labels:
            if label not in index:
                index[label] = len(sizes)
                sizes.append(0)
            sizes[index[label]] += int(np.prod(leaf.shape, dtype=np.int64)) // len(labels)
        rows.append(tuple(index[label] for label in labels))
    return Groups(tuple(index), tuple(sizes), tuple(rows))


def find_groups(jaxpr: Any, params: PyTree) -> Groups:
    """Groups the parameters of a traced loss whose first arguments they are; stacks that a scan runs over, row by row.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda w: jax.lax.scan(lambda c, w: (c * w, None), 1.0, w)[0])(jnp.ones(3))
      >>> find_groups(jaxpr, jnp.ones(3)).names
      ('params[0]', 'params[1]', 'params[2]')
    """
    return group_layers(params, scan_lengths(jaxpr, len(jax.tree.leaves(params))))


def row_sums(groups: Groups, terms: Callable[..., tuple[jax.Array, ...]], *trees_: PyTree) -> list[jax.Array]:
    """Sums functions of corresponding leaves over each layer, accumulated in float32.

    s_l = sum over the leaves i of layer l and their entries e of t(x_ie, y_ie, ...)

    Args:
      groups: the layers.
      terms: maps arrays, one of each tree, to a tuple of arrays of that shape, entry by entry.
      *trees_: pytrees shaped like the parameters, or lists of their leaves; None for a leaf left out.

    Returns:
      For each of the terms float32 `[L]`.

    Example:
      >>> params = {"head": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}}
      >>> [s.tolist() for s in row_sums(group_layers(params), lambda w: (w**2,), params)]
      [[8.0]]
    """
    columns = [jax.tree.leaves(tree, is_leaf=lambda x: x is None) for tree in trees_]
    parts: list[list[jax.Array]] = []
    rows: list[int] = []
    for members in _alike(groups, columns):
        arrays = [_stacked([column[i] for i in members], len(groups.rows[members[0]])) for column in columns]
        sums = [jnp.sum(t.astype(jnp.float32).reshape(t.shape[0], -1), 1) for t in terms(*arrays)]
        parts.append(sums)
        rows += [row for i in members for row in groups.rows[i]]
    if not parts:
        return [jnp.zeros(len(groups.names), jnp.float32)]
    return [_by_row(jnp.concatenate(sums), rows, len(groups.names)) for sums in zip(*parts, strict=True)]


def _by_row(values: jax.Array, rows: Sequence[int], count: int) -> jax.Array:
    """Adds up the values `[n, ...]` of each row; a gather of few, since a scatter compiles to a loop on CPU."""
    if list(rows) == list(range(count)):
        return values
    places: list[list[int]] = [[] for _ in range(count)]
    for i, row in enumerate(rows):
        places[row].append(i)
    most = max(map(len, places))
    # What a row has too few of is taken from a zero that is put behind the values.
    table = np.array([place + [len(rows)] * (most - len(place)) for place in places], np.int32)
    return jnp.sum(jnp.concatenate([values, jnp.zeros_like(values[:1])])[table], 1)


def _alike(groups: Groups, columns: list[list[Any]]) -> list[list[int]]:
    """Indices of leaves to reduce together: small ones of one shape, every other leaf alone."""
    together: dict[Any, list[int]] = {}
    for i, leaves in enumerate(zip(*columns, strict=True)):
        if any(leaf is None for leaf in leaves):
            continue
        small = leaves[0].size < STACKED_BELOW and len(groups.rows[i]) == 1
        key = tuple((leaf.shape, leaf.dtype) for leaf in leaves) if small else i
        together.setdefault(key, []).append(i)
    return list(together.values())


def _stacked(leaves: list[jax.Array], rows: int) -> jax.Array:
    """Leaves with one leading axis over their rows, `[rows, ...]`."""
    if len(leaves) > 1:
        return jnp.stack(leaves)
    return leaves[0] if rows > 1 else leaves[0][None]


# -- rows ---------------------------------------------------------------------------------------


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


def squares(groups: Groups, tree: PyTree) -> jax.Array:
    """Sum of squares of each layer, float32 `[L]`.

    Example:
      >>> params = {"w": jnp.full(3, 2.0)}
      >>> squares(group_layers(params), params).tolist()
      [12.0]
    """
    return row_sums(groups, lambda x: (jnp.square(_wide(x)),), tree)[0]


def gradient_counts(groups: Groups, grads: PyTree) -> tuple[jax.Array, jax.Array]:
    """Number of gradient entries that are not finite, and share that is exactly 0, each float32 `[L]`.

    Args:
      groups: the layers.
      grads: the gradient.

    Returns:
      Counts and shares.

    Example:
      >>> grads = {"w": jnp.array([3.0, 0.0, jnp.inf, 4.0])}
      >>> [x.tolist() for x in gradient_counts(group_layers(grads), grads)]
      [[1.0], [0.25]]
    """
    leaves, parts, rows = jax.tree.leaves(grads), [], []
    for members in _alike(groups, [leaves]):
        owned = [groups.rows[i] for i in members]
        stack = _stacked([leaves[i] for i in members], len(owned[0]))
        # Both counts in one sum, of at most 2,048 entries: float32 holds it to the last digit, and a second kernel for
        # every leaf would be felt in the time to compile.
        lines = _lines(stack)
        code = jnp.where(jnp.abs(lines) < jnp.inf, jnp.where(lines == 0, 1.0, 0.0), CODE).astype(jnp.float32)
        sums = jnp.sum(code, -1).reshape(stack.shape[0], -1)
        sums = jnp.pad(sums, [(0, 0), (0, -sums.shape[1] % BUNCH)]).reshape(-1, BUNCH)
        parts.append(sums)
        rows += [row for member in owned for row in member for _ in range(sums.shape[0] // stack.shape[0])]
    code = jnp.concatenate(parts)
    nonfinite = jnp.floor(code / CODE)
    counts = _by_row(jnp.sum(jnp.stack([nonfinite, code - CODE * nonfinite], -1), 1), rows, len(groups.names))
    return counts[:, 0], counts[:, 1] / jnp.asarray(groups.sizes, jnp.float32)


def _lines(stack: jax.Array) -> jax.Array:
    """`[n, ...]` as `[n, ..., m]` with m of at most LINE entries; what is padded counts for neither."""
    flat = stack if stack.ndim > 1 else stack[:, None]
    excess = flat.shape[-1] % LINE
    if flat.shape[-1] <= LINE:
        return flat
    widths = [(0, 0)] * (flat.ndim - 1) + [(0, (LINE - excess) % LINE)]
    return jnp.pad(flat, widths, constant_values=1).reshape(*flat.shape[:-1], -1, LINE)


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
    correction, smallest = _correction(found, b2), _smallest(eps)

    def terms(before: jax.Array, after: jax.Array) -> tuple[jax.Array, ...]:
        seen = jnp.maximum(_wide(after) - jnp.float32(b2) * _wide(before), 0) / jnp.float32(1 - b2)
        return (seen / jnp.maximum(_wide(after) / correction, smallest),)

    (lags,) = row_sums(groups, terms, found.before, found.after)
    return jnp.sqrt(lags / _entries(groups, found.after))


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
    (tiny,) = row_sums(groups, lambda after: (_wide(after) / correction < 100 * smallest,), found.after)
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


def noise(batch_square: jax.Array, micro_square: jax.Array, examples: int, microbatches: int) -> list[jax.Array]:
    """Unbiased estimates of the gradient's noise and signal, from microbatches of one step.

        E[S] = (m - |g|^2) / (1/b - 1/B),   E[G^2] = (B |g|^2 - b m) / (B - b)

    where m is the mean of `|g_k|^2` over microbatches of b examples and g the gradient of all B. The noise scale is
    `E[S] / E[G^2]` examples; each is noisy, so average them over steps before dividing.

    Args:
      batch_square: `|g|^2`.
      micro_square: m.
      examples: B.
      microbatches: B / b; with a single one there is no estimate, and both are NaN.

    Returns:
      E[S] and E[G^2], float32 scalars.

    Example:
      >>> [x.item() for x in noise(jnp.float32(2), jnp.float32(3), 8, 2)]
      [8.0, 1.0]

    Reference:
      McCandlish et al., An Empirical Model of Large-Batch Training, appendix A, https://arxiv.org/abs/1812.06162
    """
    if microbatches == 1:
        return [jnp.float32(jnp.nan)] * 2
    small = examples / microbatches
    trace = (micro_square - batch_square) / (1 / small - 1 / examples)
    signal = (examples * batch_square - small * micro_square) / (examples - small)
    return [trace, signal]
