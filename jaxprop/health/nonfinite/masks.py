"""Which entries of an equation's inputs the bad entries of its outputs were made of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.jaxprs.evaluate import bind
from jaxprop.health.nonfinite.interpret import Entry, bad_entries

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
    gather pad reduce_sum reduce_window_sum reshape rev scatter scatter-add scatter_add slice split squeeze transpose
"""
LINALG = ("cholesky", "eig", "eigh", "lu", "qr", "schur", "svd", "triangular_solve", "tridiagonal_solve")
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
    if not bad:
        return bad
    if entry.primitive in ELEMENTWISE and wanted[0] is not None:
        read = {i: _read(entry, i, wanted[0]) for i in bad}
    elif entry.primitive in LINEAR:
        read = _pulled_back(entry, wanted, list(bad))
    elif (mixed := _mixed_axes(entry)) is not None:
        read = {i: _along(np.shape(entry.inputs[i].array), mixed, wanted) for i in bad}
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
    if len(shape) != wanted.ndim:
        return np.full(shape, wanted.any())
    spread = tuple(i for i, size in enumerate(shape) if size != wanted.shape[i])  # axes of size 1 that are broadcast
    return np.asarray(wanted.any(axis=spread, keepdims=True)) if spread else wanted


def _pulled_back(entry: Entry, wanted: Sequence[np.ndarray | None], positions: list[int]) -> dict[int, np.ndarray]:
    """The same of a linear operation: its transpose, with nothing but ones in it, applied to the wanted entries."""
    arrays = [value.array for value in entry.inputs]
    floating = [i for i, array in enumerate(arrays) if jnp.issubdtype(jnp.result_type(array), jnp.inexact)]

    def operation(*ones: Any) -> Any:
        given = dict(zip(floating, ones, strict=True))
        return bind(entry.equation, [given.get(i, array) for i, array in enumerate(arrays)])

    ones = [jnp.ones(jnp.shape(arrays[i]), jnp.result_type(arrays[i])) for i in floating]
    outputs, pull = jax.vjp(operation, *ones)
    marks = [jnp.zeros_like(o) if w is None else jnp.asarray(w, o.dtype) for o, w in zip(outputs, wanted, strict=True)]
    touched = dict(zip(floating, pull(marks), strict=True))
    return {i: np.asarray(touched[i] != 0) for i in positions}


def _mixed_axes(entry: Entry) -> tuple[int, ...] | None:
    """The axes of an operation's inputs that it works along; None where that is not known. The others stay apart."""
    params, name, rank = entry.equation.params, entry.primitive, np.ndim(entry.inputs[0].array)
    if name in LINALG:
        return (rank - 2, rank - 1)
    if name == "fft":
        return tuple(range(rank - len(params["fft_lengths"]), rank))
    if "window_dimensions" in params:
        return tuple(i for i, size in enumerate(params["window_dimensions"]) if size != 1)
    if name.startswith(("reduce_", "arg")) and "axes" in params:
        return tuple(params["axes"])
    along = params.get("axis", params.get("dimension") if name == "sort" else None)
    return None if along is None else (along,)


def _along(shape: tuple[int, ...], mixed: tuple[int, ...], wanted: Sequence[np.ndarray | None]) -> np.ndarray:
    """The entries of an input that share their place, along all axes that are not mixed, with wanted ones."""
    apart = [i for i in range(len(shape)) if i not in mixed]
    touched = np.zeros([shape[i] for i in apart], bool)
    for entries in wanted:
        if entries is not None:
            # An output has lost the mixed axes, or has them where they were, of whatever size.
            kept = entries if entries.ndim == len(apart) else entries.any(axis=_mixed_of(entries, mixed, len(apart)))
            touched |= kept
    return np.broadcast_to(np.expand_dims(touched, mixed), shape)


def _mixed_of(entries: np.ndarray, mixed: tuple[int, ...], apart: int) -> tuple[int, ...]:
    return mixed if entries.ndim == apart + len(mixed) else tuple(range(apart, entries.ndim))
