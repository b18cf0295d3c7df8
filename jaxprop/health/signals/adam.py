"""Signals of Adam's second moment, a row for every layer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprop.core import trees
from jaxprop.core.jaxprs.evaluate import run
from jaxprop.core.jaxprs.walk import body_of, is_call
from jaxprop.core.layers import Groups, row_sums
from jaxprop.core.measurements import NOT_APPLICABLE
from jaxprop.core.precision import wide
from jaxprop.types import PyTree

# What hands on a value, if in another dtype or shape.
HANDED_ON = ("convert_element_type", "copy", "broadcast_in_dim")


class Moments(NamedTuple):
    """The second moments of one Adam before and after an update, None for a leaf that it does not keep one of.

    Args:
      before, after: one array or None for each leaf of the parameters.
      decay: b2 of the optimizer, a number or a scalar array.
      count: updates made, those after this one included.
    """

    before: list[Any]
    after: list[Any]
    decay: Any
    count: Any


def moments(
    update: Callable[[PyTree, PyTree], PyTree],
    grads: PyTree,
    before: PyTree,
    after: PyTree,
    params: PyTree,
    decay: float | None = None,
) -> list[Moments]:
    """Finds the second moments in an optax state, what a NamedTuple with `count`, `mu` and `nu` calls `nu`, and its b2.

    b2 is read off the update itself, traced: nu is a moving average of squares where it is computed as
    `b2 nu + (1 - b2) x`. In AdaBelief, Adamax or Yogi it is computed otherwise, and there is no lag to speak of.

    Args:
      update: `(grads, opt_state) -> new opt_state`.
      grads: the gradient.
      before, after: the optimizer's state around one update.
      params: the parameters.
      decay: b2, where it is known otherwise.

    Returns:
      The moments of each Adam in the optimizer, of which `optax.partition` may hold several.

    Example:
      >>> import optax
      >>> from jaxprop.core.precision import promoting
      >>> params, tx = {"w": jnp.ones(2)}, optax.adam(0.1, b2=0.95)
      >>> update, state = promoting(lambda g, s: tx.update(g, s, params)[1]), tx.init(params)
      >>> [found] = moments(update, params, state, state, params)
      >>> round(found.decay, 2), found.count.item()
      (0.95, 0)
    """
    paths, leaves = trees.leaf_paths(params), jax.tree.leaves(params)
    old, new = _second_moments(before), _second_moments(after)
    fits = [path in old and old[path].array.shape == leaf.shape for path, leaf in zip(paths, leaves, strict=True)]
    kept = {path: old[path] for path, fit in zip(paths, fits, strict=True) if fit}
    firsts = {moment.optimizer: path for path, moment in reversed(kept.items())}
    decays = dict.fromkeys(firsts, decay)
    if firsts and decay is None:
        decays = _decays(update, grads, before, {number: old[path].place for number, path in firsts.items()})

    def of(number: int, moments: dict[str, _Moment]) -> list[Any]:
        return [moments[path].array if path in kept and old[path].optimizer == number else None for path in paths]

    return [
        Moments(of(number, old), of(number, new), decays[number], new[firsts[number]].count)
        for number in sorted(firsts)
        if decays[number] is not None
    ]


class _Moment(NamedTuple):
    """A second moment, the updates made, its place among the leaves of the state, and the number of its Adam."""

    array: Any
    count: Any
    place: int
    optimizer: int


def _second_moments(state: PyTree) -> dict[str, _Moment]:
    def is_adam(node: Any) -> bool:
        return isinstance(node, tuple) and {"count", "mu", "nu"} <= set(getattr(node, "_fields", ()))

    found, at, number = {}, 0, 0
    for node in jax.tree.leaves(state, is_leaf=is_adam):
        if is_adam(node):
            start = at + sum(len(jax.tree.leaves(getattr(node, f))) for f in node._fields[: node._fields.index("nu")])
            paths = trees.leaf_paths(node.nu)
            for i, (path, leaf) in enumerate(zip(paths, jax.tree.leaves(node.nu), strict=True)):
                found[path] = _Moment(leaf, node.count, start + i, number)
            number += 1
        at += len(jax.tree.leaves(node))
    return found


class _Made(NamedTuple):
    """What a value was made by: a primitive and its operands; or `input` and which one."""

    by: str
    of: Any


def _decays(update: Callable, grads: PyTree, state: PyTree, places: dict[int, int]) -> dict[int, Any]:
    """b2 in the update of each Adam, by the place of one of its moments among the leaves of the state."""
    traced = jax.make_jaxpr(update)(grads, state)
    inputs = jax.tree.leaves((grads, state))
    values: list[Any] = [_Made("input", i) for i in range(len(inputs))]
    made = run(traced, values, _follow, _number)
    first = len(inputs) - len(jax.tree.leaves(state))
    return {number: _decay(made[i], _Made("input", first + i), inputs) for number, i in places.items()}


def _decay(made: Any, old: _Made, inputs: list[Any]) -> Any:
    """b2 of a moment that is computed as `b2 nu + (1 - b2) x` from the old one; else None."""
    if not (isinstance(made, _Made) and made.by in ("add", "add_any")):
        return None
    products = [term.of for term in made.of if isinstance(term, _Made) and term.by == "mul"]
    scaled = next((product for product in products if old in product), None)
    if len(products) != 2 or scaled is None:
        return None
    other = products[1] if products[0] is scaled else products[0]
    decay = next(factor for factor in scaled if factor != old)
    if isinstance(decay, _Made):  # in the state, as `inject_hyperparams` keeps it
        return inputs[decay.of] if decay.by == "input" and jnp.ndim(inputs[decay.of]) == 0 else None
    complement = any(isinstance(factor, float) and abs(factor + decay - 1) < 1e-5 for factor in other)
    return decay if complement and 0 < decay < 1 else None


def _follow(equation: Any, inputs: list[Any]) -> list[Any]:
    name, body = equation.primitive.name, body_of(equation) if is_call(equation) else None
    if body is not None:
        return run(body, inputs, _follow, _number)
    if name in HANDED_ON:
        return [inputs[0]]
    return [_Made(name, inputs)] * len(equation.outvars)


def _number(value: Any) -> float | None:
    # What a function closes over may be traced itself, and no number yet.
    return float(value) if jnp.ndim(value) == 0 and not isinstance(value, Tracer) else None


def eps_of(found: Sequence[Moments], params: PyTree, eps: float | Mapping[str, float]) -> list[Any]:
    """Returns the epsilon of each Adam: that of the first parameter of which it keeps a second moment.

    Args:
      found: second moments of each Adam.
      params: the parameters.
      eps: of all, or by the paths of parameters.

    Example:
      >>> found = [Moments([None, jnp.zeros(2)], [None, jnp.zeros(2)], 0.999, jnp.int32(1))]
      >>> eps_of(found, {"a": 1, "b": 2}, {"a": 1e-8, "b": 1e-6})
      [1e-06]
    """
    if not isinstance(eps, Mapping):
        return [eps] * len(found)
    paths = trees.leaf_paths(params)
    first = (next(i for i, leaf in enumerate(one.after) if leaf is not None) for one in found)
    return [eps[paths[i]] for i in first]


def adam_rows(groups: Groups, found: Sequence[Moments], eps: Sequence[Any]) -> dict[str, jax.Array]:
    """Lag of Adam's second moment behind the gradient, and share of entries where its epsilon takes over.

        adam_lag = sqrt(mean(g^2 / max(v, eps^2))),   tiny_second_moment = mean(sqrt(v) < 10 eps),   v = nu / (1 - b2^t)

    The g^2 that Adam saw, after whatever clipping came before it, is `(nu_t - b2 nu_{t-1}) / (1 - b2)`.

    Args:
      groups: the layers.
      found: second moments around an update, of each Adam.
      eps: of each Adam.

    Returns:
      `{name: [L]}`, float32; -1 for a layer none of whose leaves has a second moment. Nothing without any Adam.

    Example:
      >>> from jaxprop.core.layers import group_layers
      >>> now = Moments([jnp.zeros(2)], [jnp.array([0.001, 0.0])], 0.999, jnp.int32(1))
      >>> rows = adam_rows(group_layers({"w": jnp.ones(2)}), [now], [1e-8])
      >>> round(rows["adam_lag"].item(), 3), rows["tiny_second_moment"].item()
      (0.707, 0.5)

    Reference:
      Wortsman et al., Small-scale proxies for large-scale Transformer training instabilities, 2023.
      https://arxiv.org/abs/2309.14322 (RMS of the update, g^2 / v)
    """
    if not found:
        return {}
    lags, ample, entries = (
        sum(parts) for parts in zip(*(_sums(groups, *one) for one in zip(found, eps, strict=True)), strict=True)
    )
    known, entries = entries > 0, np.maximum(entries, 1)
    rows = {"adam_lag": jnp.sqrt(lags / entries), "tiny_second_moment": jnp.maximum(entries - ample, 0) / entries}
    return {name: jnp.where(known, row, jnp.float32(NOT_APPLICABLE)) for name, row in rows.items()}


def _sums(groups: Groups, found: Moments, eps: float) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """Of one Adam and each layer: the sum of g^2 / v, how many v are not tiny, and the number of its entries."""
    decay = jnp.asarray(found.decay, jnp.float32)
    correction = 1 - jnp.power(decay, found.count.astype(jnp.float32))
    smallest = jnp.float32(max(eps, 1e-18) ** 2)  # a square that float32 still holds
    floor = jnp.maximum(smallest * correction, jnp.float32(1e-37))

    def terms(before: jax.Array, after: jax.Array) -> tuple[jax.Array, ...]:
        before, after = wide(before), wide(after)
        seen = jnp.maximum(after - decay.astype(after.dtype) * before, 0)
        return seen / jnp.maximum(after, floor.astype(after.dtype)), after >= (100 * smallest * correction).astype(
            after.dtype
        )

    lags, ample = row_sums(groups, terms, found.before, found.after)
    return lags * correction / (1 - decay), ample, _entries(groups, found.after)


def _entries(groups: Groups, leaves: list[Any]) -> np.ndarray:
    """Entries of each layer that are in the leaves."""
    counts = np.zeros(len(groups.names), np.float32)
    for leaf, rows in zip(leaves, groups.rows, strict=True):
        if leaf is not None:
            np.add.at(counts, list(rows), leaf.size / len(rows))
    return counts
