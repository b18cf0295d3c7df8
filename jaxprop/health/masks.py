"""Which entries of an equation's inputs the bad entries of its outputs were made of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.health.interpret import Entry, bad_entries, bind

# Entry i of the output reads entry i of every input.
_ELEMENTWISE = """
    abs acos acosh add add_any asin asinh atan atan2 atanh cbrt ceil clamp conj convert_element_type copy copy_p cos
    cosh digamma div erf erf_inv erfc exp exp2 expm1 floor imag integer_pow is_finite lgamma log log1p logistic max min
    mul neg nextafter one_minus_square polygamma pow real reduce_precision rem round rsqrt select_n sharding_constraint
    sign sin sinh sqrt square
    stop_gradient sub tan tanh
"""
# Linear in each of their floating-point inputs, with weights that depend on nothing but the others.
_LINEAR = """
    broadcast_in_dim concatenate conv_general_dilated cumsum dot_general dynamic_slice dynamic_update_slice expand_dims
    gather pad reduce_sum reduce_window_sum reshape rev scatter scatter-add scatter_add slice squeeze transpose
"""
ELEMENTWISE, LINEAR = frozenset(_ELEMENTWISE.split()), frozenset(_LINEAR.split())


def sources(entry: Entry, wanted: Sequence[np.ndarray | None]) -> dict[int, np.ndarray]:
    """Returns the bad entries of every input that has any and that wanted entries of the outputs depend on.

    Where an operation's dependence is not known entry by entry, all bad entries of an input count.

    Args:
      entry: an equation that has been run.
      wanted: for every output the entries in question, or None.

    Returns:
      By the input's position.
    """
    bad = {i: bad_entries(value.array) for i, value in enumerate(entry.inputs)}
    bad = {i: entries for i, entries in bad.items() if entries.any()}
    if not bad or len(wanted) != 1 or wanted[0] is None:
        return bad
    if entry.primitive in ELEMENTWISE:
        read = {i: _read(entry, i, wanted[0]) for i in bad}
    elif entry.primitive in LINEAR:
        read = _pulled_back(entry, wanted[0], list(bad))
    else:
        return bad
    met = {i: bad[i] & read[i] for i in bad}
    return {i: entries for i, entries in met.items() if entries.any()}


def _read(entry: Entry, i: int, wanted: np.ndarray) -> np.ndarray:
    """The entries of an elementwise operation's input that the wanted ones read; a select reads one of its cases."""
    shape = np.shape(entry.inputs[i].array)
    if entry.primitive == "select_n":
        which = np.asarray(entry.inputs[0].array).astype(np.int32)
        wanted = wanted & (which == i - 1) if i > 0 else wanted
    return wanted if shape == wanted.shape else np.broadcast_to(wanted.any(), shape)


def _pulled_back(entry: Entry, wanted: np.ndarray, positions: list[int]) -> dict[int, np.ndarray]:
    """The same of a linear operation: its transpose, with nothing but ones in it, applied to the wanted entries."""
    arrays = [value.array for value in entry.inputs]
    floating = [i for i, array in enumerate(arrays) if jnp.issubdtype(jnp.result_type(array), jnp.inexact)]

    def operation(*ones: Any) -> Any:
        given = dict(zip(floating, ones, strict=True))
        return bind(entry.equation, *(given.get(i, array) for i, array in enumerate(arrays)))[0]

    ones = [jnp.ones(jnp.shape(arrays[i]), jnp.result_type(arrays[i])) for i in floating]
    output, pull = jax.vjp(operation, *ones)
    touched = dict(zip(floating, pull(jnp.asarray(wanted, output.dtype)), strict=True))
    return {i: np.asarray(touched[i] != 0) for i in positions}
