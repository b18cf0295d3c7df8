"""Layers of the parameters, and sums over each layer's entries, in float32. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh, PartitionSpec

from jaxprop.core import trees
from jaxprop.core.jaxprs.scans import Use, uses
from jaxprop.core.placing import Shards
from jaxprop.core.precision import wide
from jaxprop.types import PyTree

# A kernel costs more to compile than to run, so small leaves are copied into blocks that are reduced together. The CPU
# has the sums of larger ones from a library, which costs nothing to compile; what counts entries it has to compile.
BLOCK = 1024
SUMMED_ALONE = 4096
CHUNK = 2**22  # entries that are copied at a time
WIDTH = 32  # values of a row that are added up at a time
TOGETHER = 16  # arrays that one kernel sums


class Groups(NamedTuple):
    """How the leaves of the parameters fall into layers.

    Args:
      names: the L layers, in the order of their first leaf.
      sizes: parameters in each.
      fans: (inputs, outputs) of the largest kernel in each, that is of its entries by all axes but the last and by the
        last one; (0, 0) without a leaf of two axes.
      rows: for every leaf the layers it belongs to: one, or as many as a scan takes it apart into.
      shards: how the leaves are split over devices, or None where each device has all of them.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    fans: tuple[tuple[int, int], ...]
    rows: tuple[tuple[int, ...], ...]
    shards: Shards | None = None


def group_layers(params: PyTree, uses: Sequence[Use] | None = None) -> Groups:
    """Groups the leaves of the parameters into layers: a layer is the node that holds the leaf.

    Args:
      params: arrays, or their shapes.
      uses: of every leaf by the loss, for the order of the forward pass and the layers stacked on a leaf's first axis;
        without them layers come in the order of the leaves.

    Returns:
      The groups; layer i of a stack `blocks` is called `blocks[i]`.

    Example:
      >>> group_layers({"head": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}}).sizes
      (8,)
      >>> group_layers({"blocks": {"w": jnp.ones((2, 3))}}, [Use(at=0, rows=2)]).names
      ('blocks[0]', 'blocks[1]')
    """
    names, owners = trees.layer_names(params)
    leaves = jax.tree.leaves(params)
    known = [Use()] * len(leaves) if uses is None else uses
    first: dict[str, tuple[float, int, int]] = {}  # place of a layer's first use
    sizes: dict[str, int] = {}
    fans: dict[str, tuple[int, int]] = {}
    labels = []
    for leaf, owner, use in zip(leaves, owners, known, strict=True):
        labels.append([names[owner]] if use.rows is None else [f"{names[owner]}[{i}]" for i in range(use.rows)])
        shape = leaf.shape if use.rows is None else leaf.shape[1:]
        fan = (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (0, 0)
        for i, label in enumerate(labels[-1]):
            place = (math.inf if use.at is None else use.at, i, use.inside)
            first[label] = min(place, first.get(label, place))
            sizes[label] = sizes.get(label, 0) + math.prod(shape)
            fans[label] = max(fan, fans.get(label, fan), key=math.prod)
    ordered = sorted(first, key=lambda label: first[label])
    row = {label: i for i, label in enumerate(ordered)}
    rows = tuple(tuple(row[label] for label in of_leaf) for of_leaf in labels)
    return Groups(tuple(ordered), tuple(sizes[x] for x in ordered), tuple(fans[x] for x in ordered), rows)


def find_groups(jaxpr: ClosedJaxpr, params: PyTree) -> Groups:
    """Groups the parameters of a traced loss whose first arguments they are: forward order, stacks row by row.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda w: jax.lax.scan(lambda c, w: (c * w, None), 1.0, w)[0])(jnp.ones(3))
      >>> find_groups(jaxpr, jnp.ones(3)).names
      ('params[0]', 'params[1]', 'params[2]')
    """
    return group_layers(params, uses(jaxpr, len(jax.tree.leaves(params))))


def row_sums(groups: Groups, terms: Callable[..., tuple[jax.Array, ...]], *trees_: PyTree) -> jax.Array:
    """Sums functions of corresponding leaves over each layer, accumulated in float32.

    s_l = sum over the leaves i of layer l and their entries e of t(x_ie, y_ie, ...)

    Args:
      groups: the layers.
      terms: maps arrays, one of each tree, to a tuple of arrays of that shape, entry by entry; entries of 0 in every
        tree to 0, since short leaves are filled up with them.
      *trees_: pytrees shaped like the parameters, or lists of their leaves; None for a leaf left out.

    Returns:
      float32 `[terms, L]`.

    Example:
      >>> params = {"head": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}}
      >>> row_sums(group_layers(params), lambda w: (w**2,), params).tolist()
      [[8.0]]
    """

    def summed(columns: list[list[Any]], once: Once) -> jax.Array:
        sums, rows, owners = [], [], []
        for members in _bunches(columns):
            arrays = [_blocks(groups, column, members) for column in columns]
            sums.append(_line_sums([t.astype(jnp.float32) for t in terms(*arrays)]))
            rows += _rows_of(groups, columns[0], members)
            owners += _owners_of(groups, columns[0], members)
        found = jnp.stack([jnp.concatenate(of_term) for of_term in zip(*sums, strict=True)])
        return _by_row(once(found, owners), _places(rows, len(groups.names)))

    return _over_devices(groups, summed, [_leaves(groups, tree) for tree in trees_])


Once = Callable[[jax.Array, Sequence[int]], jax.Array]  # leaves of a sum only what no other device counts too


def _over_devices(
    groups: Groups, summed: Callable[[list[list[Any]], Once], jax.Array], columns: list[list[Any]]
) -> jax.Array:
    """Sums over leaves that are split over devices: each device sums its parts, and one collective adds them up.

    Left to the compiler, each leaf would have a collective of its own, and small ones would be gathered to be joined.
    """
    if groups.shards is None:
        return summed(columns, lambda values, _: values)
    mesh, specs = groups.shards
    # The rows of a stack are told apart by its first axis, which has to be whole for that.
    split = [
        PartitionSpec(None, *spec[1:]) if len(rows) > 1 and spec else spec
        for spec, rows in zip(specs, groups.rows, strict=True)
    ]

    def local(columns: list[list[Any]]) -> jax.Array:
        first = [_is_first(mesh, spec) for spec in split]

        def once(values: jax.Array, owners: Sequence[int]) -> jax.Array:
            counts = jnp.stack([first[owner] for owner in owners]) if owners else jnp.zeros((0,), bool)
            return jnp.where(counts, values, jnp.zeros_like(values))

        return lax.psum(summed(columns, once), mesh.axis_names)

    absent = [[leaf is None for leaf in column] for column in columns]
    given = [[leaf for leaf in column if leaf is not None] for column in columns]
    where = [[spec for spec, gone in zip(split, gone_of, strict=True) if not gone] for gone_of in absent]

    def whole(parts: list[list[Any]]) -> jax.Array:
        leaves = [iter(column) for column in parts]
        return local([[None if gone else next(of) for gone in row] for of, row in zip(leaves, absent, strict=True)])

    return jax.shard_map(whole, mesh=mesh, in_specs=(where,), out_specs=PartitionSpec(), check_vma=False)(given)


def _is_first(mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    """Whether this device is the first of those that hold the same part of an array."""
    taken = {name for entry in spec for name in ((entry,) if isinstance(entry, str) else entry or ())}
    copies = [lax.axis_index(name) == 0 for name in mesh.axis_names if name not in taken]
    return jnp.all(jnp.stack(copies)) if copies else jnp.array(True)


def _leaves(groups: Groups, tree: PyTree) -> list[Any]:
    # A None in the structure of the parameters is no leaf of theirs, one in a list of their leaves stands for a leaf.
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: x is None)
    return leaves if len(leaves) == len(groups.rows) else jax.tree.leaves(tree)


def _line_sums(terms: Sequence[jax.Array]) -> Sequence[jax.Array]:
    """Sums `[parts, ...]` over all axes but the first.

    Several terms are summed in one pass, so that what they share is computed once and never written to memory: on CPU
    an array that has to exist costs more than a sum.
    """
    axes = tuple(range(1, terms[0].ndim))
    if len(terms) == 1:
        return [lax.reduce_sum(terms[0], axes)]

    def add(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(x + y for x, y in zip(a, b, strict=True))

    # Measurements are not differentiated, and a reduction of several operands could not be.
    constant = tuple(lax.stop_gradient(term) for term in terms)
    return lax.reduce(constant, tuple(jnp.zeros((), term.dtype) for term in terms), add, axes)


def _by_row(values: jax.Array, places: Sequence[Sequence[int]]) -> jax.Array:
    """Adds up the columns of `values` `[n, parts]` that belong to each row, `[n, rows]`.

    By gathers, since the order in which a scatter adds may vary.
    """
    if [list(place) for place in places] == [[i] for i in range(values.shape[1])]:
        return values
    # Few at a time, or the longest row would set the width of a table that is a constant of the program.
    pieces = [(row, place[i : i + WIDTH]) for row, place in enumerate(places) for i in range(0, len(place) or 1, WIDTH)]
    most = max(len(piece) for _, piece in pieces)
    # What a row has too few of is taken from a zero that is put behind the values.
    table = np.array([[*piece, *[values.shape[1]] * (most - len(piece))] for _, piece in pieces], np.int32)
    padded = jnp.concatenate([values, jnp.zeros_like(values, shape=(len(values), 1))], 1)
    return _by_row(jnp.sum(padded[:, table], -1), _places([row for row, _ in pieces], len(places)))


def _places(rows: Sequence[int], count: int) -> list[list[int]]:
    """For each of `count` rows the indices at which `rows` names it."""
    places: list[list[int]] = [[] for _ in range(count)]
    for i, row in enumerate(rows):
        places[row].append(i)
    return places


def _bunches(columns: Sequence[Sequence[Any]]) -> list[list[int]]:
    """Indices of leaves to reduce together: small ones of the same dtypes, by the chunk, and every other leaf alone."""
    bunches: list[list[int]] = []
    filling: dict[Any, tuple[int, list[int]]] = {}
    for i, leaves in enumerate(zip(*columns, strict=True)):
        if any(leaf is None for leaf in leaves):
            continue
        if _is_alone(leaves[0]):
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


def _is_alone(leaf: jax.Array) -> bool:
    """Whether a leaf is reduced by itself: it is large, or its sharding is part of its type and would be lost."""
    return leaf.size >= SUMMED_ALONE or any(axis is not None for axis in jax.typeof(leaf).sharding.spec)


def _blocks(groups: Groups, leaves: Sequence[Any], members: Sequence[int]) -> jax.Array:
    """A bunch as `[parts, ...]`, each part of one row: a leaf that is alone row by row, small ones in filled blocks."""
    if len(members) == 1 and _is_alone(leaves[members[0]]):
        leaf, labels = leaves[members[0]], groups.rows[members[0]]
        stacked = leaf.ndim > 0 and len(labels) == leaf.shape[0] and len(set(labels)) == len(labels) > 1
        return leaf if stacked else lax.expand_dims(leaf, (0,))
    pieces = []
    # Functions of lax, as every leaf of every model comes by here while a step is traced.
    for i in members:
        n = len(groups.rows[i])
        x = lax.reshape(leaves[i], (n, leaves[i].size // max(n, 1)))
        excess = -x.shape[1] % BLOCK
        filled = [x, lax.full((n, excess), 0, x.dtype)] if excess else [x]
        pieces += filled if n == 1 else [lax.concatenate(filled, 1)]
    if not pieces:
        return jnp.zeros((0, BLOCK), jnp.float32)
    joined = lax.concatenate([lax.reshape(piece, (piece.size,)) for piece in pieces], 0)
    return lax.reshape(joined, (joined.size // BLOCK, BLOCK))


def _rows_of(groups: Groups, leaves: Sequence[Any], members: Sequence[int]) -> list[int]:
    """The row of each part of `_blocks`."""
    rows = []
    for i in members:
        size = leaves[i].size // max(len(groups.rows[i]), 1)
        rows += [row for row in groups.rows[i] for _ in range(1 if _is_alone(leaves[i]) else -(-size // BLOCK))]
    return rows


def _owners_of(groups: Groups, leaves: Sequence[Any], members: Sequence[int]) -> list[int]:
    """The leaf of each part of `_blocks`."""
    return [i for i in members for _ in _rows_of(groups, leaves, [i])]


# -- norms --------------------------------------------------------------------------------------


class Norms(NamedTuple):
    """Norms of a tree.

    Args:
      layers: L2 norm of each layer, `[L]`.
      total: global L2 norm.
      finite: whether every entry is finite, boolean scalar.
    """

    layers: jax.Array
    total: jax.Array
    finite: jax.Array


def squares(groups: Groups, tree: PyTree) -> jax.Array:
    """Sum of squares of each layer, float32 `[L]`.

    Example:
      >>> params = {"w": jnp.full(3, 2.0)}
      >>> squares(group_layers(params), params).tolist()
      [12.0]
    """
    return row_sums(groups, lambda x: (square(x),), tree)[0]


def square(x: jax.Array) -> jax.Array:
    """`|x|^2`, in float32 or wider, also of complex numbers."""
    if jnp.iscomplexobj(x):
        return jnp.square(wide(x.real)) + jnp.square(wide(x.imag))
    return jnp.square(wide(x))


def norm(tree: PyTree) -> jax.Array:
    """Global L2 norm of a tree, a scalar in float32 or wider.

    Example:
      >>> norm({"w": jnp.ones((2, 2)), "b": jnp.zeros(3)}).item()
      2.0
    """
    return norms(group_layers(tree), tree).total


def norms(groups: Groups, tree: PyTree) -> Norms:
    """L2 norm of each layer and of all, right wherever the entries are finite.

        ||x|| = sqrt(sum x^2) where that neither overflows nor underflows, else sqrt(sum (s x)^2) / s

    with s of 2^-80 or 2^80. The plain sum of squares is infinite from entries of 2e19 on and 0 below 1e-23. On CPU the
    other sums are a branch that is hardly ever taken, so they cost nothing. On an accelerator a branch would make the
    host wait; there the sums at all three scales are taken.

    Args:
      groups: the layers.
      tree: arrays in the structure of the parameters.

    Returns:
      The norms; a layer with an entry that is not finite has a norm that is not finite.

    Example:
      >>> tree = {"a": jnp.array([3e30, 4e30]), "b": jnp.array([3e-30, 4e-30])}
      >>> found = norms(group_layers(tree), tree)
      >>> [f"{x:.1e}" for x in found.layers.tolist()], bool(found.finite)
      (['5.0e+30', '5.0e-30'], True)

    Reference:
      Blue, A Portable Fortran Program to Find the Euclidean Norm of a Vector, 1978.
    """
    leaves = [jnp.abs(x) if jnp.iscomplexobj(x) else x for x in jax.tree.leaves(tree)]
    if not any(leaf.size for leaf in leaves):
        return Norms(jnp.zeros(len(groups.names), jnp.float32), jnp.float32(0), jnp.array(True))

    def summed(columns: list[list[Any]], once: Once) -> jax.Array:
        (leaves,) = columns
        bunches = _bunches([leaves])
        rows = [row for members in bunches for row in _rows_of(groups, leaves, members)]
        owners = [owner for members in bunches for owner in _owners_of(groups, leaves, members)]

        def lines(leaves: list[jax.Array]) -> list[jax.Array]:
            return [_blocks(groups, leaves, members) for members in bunches]

        sums = lax.platform_dependent(
            leaves, cpu=partial(_sums_by_branch, lines), default=lambda leaves: _sums_at_all_scales(lines(leaves))
        )
        # The last row is the sum of all.
        return _by_row(once(sums, owners), [*_places(rows, len(groups.names)), list(range(len(rows)))])

    sums = _over_devices(groups, summed, [leaves])
    found = _roots(sums)
    return Norms(found[:-1], found[-1], jnp.isfinite(sums[1, -1]))


def _scales(dtype: Any) -> list[jax.Array]:
    factor = 2.0 ** (jnp.finfo(dtype).maxexp * 5 // 8)
    return [jnp.asarray(scale, dtype) for scale in (1.0, 1 / factor, factor)]


def _least(dtype: Any) -> float:
    """The smallest sum of squares that has lost nothing to underflow: 1e-30 in float32."""
    return 1e8 * float(jnp.finfo(dtype).tiny)


def _widest(lines: Sequence[jax.Array]) -> Any:
    """The dtype to take norms in: float32, or float64 where any of the arrays has that."""
    return jnp.float64 if any(x.dtype == jnp.float64 for x in lines) else jnp.float32


def _sums_by_branch(lines: Callable[..., list[jax.Array]], leaves: list[jax.Array]) -> jax.Array:
    """Sums of squares of every part at three scales, `[3, parts]`, each from the scale that is right for it.

    The branch joins the small leaves once more: what is joined for two readers is a kernel, which takes 0.1 s to
    compile, and for one it is not.
    """
    dtype = _widest(leaves)
    _, down, up = _scales(dtype)
    plain = jnp.concatenate([_line_sums([jnp.square(x.astype(dtype))])[0] for x in lines(leaves)])
    low = plain < float(jnp.finfo(dtype).max) / plain.size  # so low that all of them add up; NaN is not
    scale = jnp.where(low, jnp.where(plain > _least(dtype), jnp.ones_like(plain), up), down)
    found = lax.cond(
        jnp.all(scale == 1), lambda *_: plain, lambda *args: _scaled_sums(lines(args[0]), args[1]), leaves, scale
    )
    # As a square, since the compiler would multiply the two constants first, and 2^-160 is 0.
    shrunk = jnp.where(scale == down, found, jnp.square(_root(plain) * down))
    return jnp.stack([plain, shrunk, jnp.where(scale == up, found, jnp.zeros_like(plain))])


def _scaled_sums(lines: list[jax.Array], scale: jax.Array) -> jax.Array:
    """`sum (s x)^2` of every part with its own s; arrays of one shape together, in one kernel to compile."""
    ends = list(itertools.accumulate(len(x) for x in lines))
    alike: dict[Any, list[int]] = {}
    for i, x in enumerate(lines):
        alike.setdefault(jax.typeof(x), []).append(i)
    sums: dict[int, jax.Array] = {}
    for which in (same[i : i + TOGETHER] for same in alike.values() for i in range(0, len(same), TOGETHER)):
        scales = [scale[ends[i] - len(lines[i]) : ends[i]] for i in which]
        terms = [
            jnp.square(lines[i].astype(s.dtype) * lax.expand_dims(s, tuple(range(1, lines[i].ndim))))
            for i, s in zip(which, scales, strict=True)
        ]
        sums |= zip(which, _line_sums(terms), strict=True)
    return jnp.concatenate([sums[i] for i in range(len(lines))])


def _sums_at_all_scales(lines: list[jax.Array]) -> jax.Array:
    """The same without a branch, as three reductions.

    A compiler can make those while it writes the gradient, which is then not read again. With one reduction of three
    operands it did not.
    """
    dtype = _widest(lines)
    return jnp.stack(
        [
            jnp.concatenate([_line_sums([jnp.square(x.astype(dtype) * scale)])[0] for x in lines])
            for scale in _scales(dtype)
        ]
    )


def _roots(sums: jax.Array) -> jax.Array:
    """Square roots of sums of squares, from that of the three scales `[3, n]` which neither over- nor underflows."""
    plain, shrunk, grown = sums
    factor = _scales(sums.dtype)[2]
    # What is so small is finite at the other scale, too. Of zeros that the compiler knows, it may multiply constants
    # first, and 0 times the square of the factor is no number.
    other = jnp.where(jnp.isnan(grown), _root(plain), _root(grown) / factor)
    small = jnp.where(plain > _least(sums.dtype), _root(plain), other)
    return jnp.where(jnp.isfinite(plain), small, jnp.where(jnp.isfinite(shrunk), _root(shrunk) * factor, plain))


def _root(x: jax.Array) -> jax.Array:
    """Square root whose derivative at 0 is 0, not infinite."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), x)
