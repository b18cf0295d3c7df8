"""Along which axes a traced function sums over its arguments, and along which it spreads them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxprop.core.jaxprs.evaluate import run
from jaxprop.core.jaxprs.walk import body_of, is_call, scan_parts

# What hands on an array entry for entry.
_SAME = frozenset({
    "convert_element_type", "copy", "copy_p", "sharding_constraint", "optimization_barrier", "stop_gradient",
    "reduce_precision", "neg",
})  # fmt: skip


class Axes(NamedTuple):
    """The axes of an argument by what a function does with them.

    Args:
      summed: those that are contracted, as the inputs of a dense layer's kernel, or by which rows are looked up.
      spread: those that remain, as its outputs, or the one axis of a bias.
    """

    summed: frozenset[int]
    spread: frozenset[int]


class _Value(NamedTuple):
    """What is known of an array: whether it depends on the data, and which arguments' axes each of its own is."""

    data: bool
    axes: tuple[frozenset[tuple[int, int]], ...] | None = None  # None where no argument's entries are in it as they are


_PLAIN, _DATA = _Value(False), _Value(True)


def roles(jaxpr: ClosedJaxpr, count: int) -> list[Axes]:
    """Finds how a function uses the axes of its first arguments, such as parameters.

    Products and convolutions sum over the axes that they contract, a lookup over the one that it indexes; whatever else
    meets the data, such as a bias or a scale, spreads. Arguments are followed through transposes, reshapes, slices,
    casts, factors, jit, remat, custom derivatives, scans and branches. One that is used in several ways has the axes
    of all of them.

    Args:
      jaxpr: of the whole function, from `jax.make_jaxpr`; its other arguments are data.
      count: how many of its first arguments to look at.

    Returns:
      For each, its axes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> jaxpr = jax.make_jaxpr(lambda w, b, x: x @ w.T + b)(jnp.ones((3, 2)), jnp.ones(3), jnp.ones((4, 2)))
      >>> w, b = roles(jaxpr, 2)
      >>> sorted(w.summed), sorted(w.spread), sorted(b.spread)
      ([1], [0], [0])
    """
    found: list[tuple[set[int], set[int]]] = [(set(), set()) for _ in range(count)]
    given = [
        _Value(False, tuple(frozenset({(i, axis)}) for axis in range(len(_shape(var))))) if i < count else _DATA
        for i, var in enumerate(jaxpr.jaxpr.invars)
    ]
    _Walk(found).through(jaxpr, given)
    return [Axes(frozenset(summed), frozenset(spread)) for summed, spread in found]


class _Walk:
    def __init__(self, found: list[tuple[set[int], set[int]]]):
        self.found = found

    def through(self, jaxpr: ClosedJaxpr, given: Sequence[_Value]) -> list[_Value]:
        return run(jaxpr, given, self.apply, lambda _constant: _PLAIN)

    def apply(self, equation: JaxprEqn, given: list[_Value]) -> Sequence[_Value]:
        """The values of an equation's outputs; what becomes of arguments in it is noted."""
        name, outputs = equation.primitive.name, len(equation.outvars)
        if all(value.axes is None for value in given) and not _runs_others(equation):
            return [_DATA if any(value.data for value in given) else _PLAIN] * outputs
        if name == "scan":
            return self._scan(equation, given)
        if name == "cond":
            return self._branches(equation, given)
        body = body_of(equation)
        if body is not None and (is_call(equation) or len(body.jaxpr.invars) == len(given)):
            return self.through(body, given)
        if name in ("dot_general", "conv_general_dilated", "gather"):
            for value, summed in zip(given, _summed(equation), strict=False):
                self._note(value, summed)
            return [_DATA] * outputs
        moved = _moved(equation, given)
        if moved is not None:
            return [moved] * outputs
        for value in given:
            self._note(value, ())
        return [_DATA if any(value.data for value in given) else _PLAIN] * outputs

    def _note(self, value: _Value, summed: Sequence[int]) -> None:
        for axis, sources in enumerate(value.axes or ()):
            for argument, own in sources:
                self.found[argument][0 if axis in summed else 1].add(own)

    def _scan(self, equation: JaxprEqn, given: list[_Value]) -> list[_Value]:
        """A turn of a loop: constants as they are, rows of what is taken apart, and what is carried as data."""
        body, (consts, carried) = body_of(equation), scan_parts(equation)
        assert body is not None
        carry = [value if value.axes is None else _DATA for value in given[consts : consts + carried]]
        rows = [
            value if value.axes is None else value._replace(axes=value.axes[1:]) for value in given[consts + carried :]
        ]
        out = self.through(body, [*given[:consts], *(_Value(True) for _ in carry), *rows])
        stacked = [value if value.axes is None else value._replace(axes=(frozenset(), *value.axes)) for value in out]
        return [_DATA] * carried + stacked[carried:]

    def _branches(self, equation: JaxprEqn, given: list[_Value]) -> list[_Value]:
        outs = [self.through(branch, given[1:]) for branch in equation.params["branches"]]
        return [_Value(any(value.data for value in values), _same_axes(values)) for values in zip(*outs, strict=True)]


def _runs_others(equation: JaxprEqn) -> bool:
    return equation.primitive.name in ("scan", "cond") or body_of(equation) is not None


def _summed(equation: JaxprEqn) -> tuple[Sequence[int], ...]:
    """Of each operand of a product, a convolution or a lookup, the axes that it sums over."""
    parameters = equation.params
    if equation.primitive.name == "dot_general":
        left, right = parameters["dimension_numbers"][0]
        return left, right
    if equation.primitive.name == "gather":
        return parameters["dimension_numbers"].start_index_map, ()
    images, kernel, _ = parameters["dimension_numbers"]
    return images[1:], kernel[1:]


def _moved(equation: JaxprEqn, given: list[_Value]) -> _Value | None:
    """Arguments' entries in other places, or times a factor; None where they meet the data, or are no more."""
    name, parameters = equation.primitive.name, equation.params
    first, shape = given[0], _shape(equation.outvars[0])
    data = any(value.data for value in given)
    axes = first.axes
    if axes is not None and name == "transpose":
        return _Value(data, tuple(axes[axis] for axis in parameters["permutation"]))
    if axes is not None and name == "reshape":
        return _Value(data, _reshaped(axes, _shape(equation.invars[0]), shape))
    if axes is not None and name == "squeeze":
        return _Value(data, tuple(own for axis, own in enumerate(axes) if axis not in parameters["dimensions"]))
    if axes is not None and name == "broadcast_in_dim":
        whole = [frozenset[tuple[int, int]]()] * len(shape)
        for axis, own in zip(parameters["broadcast_dimensions"], axes, strict=True):
            whole[axis] = own
        return _Value(data, tuple(whole))
    if axes is not None and name in ("slice", "dynamic_slice", "split", "rev", "pad"):
        return _Value(data, axes)
    if name in ("concatenate", *_SAME) or (not data and _is_alike(equation, given)):
        return _Value(
            data, _same_axes([value for value in given if value.axes is None or len(value.axes) == len(shape)])
        )
    if axes is not None and not data and name.startswith(("reduce_", "arg")) and "axes" in parameters:
        return _Value(data, tuple(own for axis, own in enumerate(axes) if axis not in parameters["axes"]))
    return None


def _is_alike(equation: JaxprEqn, given: list[_Value]) -> bool:
    """Whether an operation is entry by entry: its operands are scalars, or broadcast to the shape of what comes out."""
    shape = _shape(equation.outvars[0])
    shapes = [_shape(atom) for atom in equation.invars if _shape(atom)]
    return bool(given) and all(
        len(one) == len(shape) and all(a in (1, b) for a, b in zip(one, shape, strict=True)) for one in shapes
    )


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _same_axes(values: Sequence[_Value]) -> tuple[frozenset[tuple[int, int]], ...] | None:
    known = [value.axes for value in values if value.axes]
    if not known:
        return None
    return tuple(frozenset().union(*(axes[i] for axes in known)) for i in range(len(known[0])))


def _reshaped(
    axes: tuple[frozenset[tuple[int, int]], ...], before: Sequence[int], after: Sequence[int]
) -> tuple[frozenset[tuple[int, int]], ...]:
    """The axes of a reshaped array: those that were joined are all of theirs, a divided one is in each of its parts."""
    made: list[frozenset[tuple[int, int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        first, last = (i, i + 1), (j, j + 1)
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while math.prod(before[first[0] : i]) != math.prod(after[last[0] : j]):
            if math.prod(before[first[0] : i]) < math.prod(after[last[0] : j]):
                i += 1
            else:
                j += 1
        together = frozenset().union(*axes[first[0] : i])
        made += [together] * (j - last[0])
    return tuple(made)
