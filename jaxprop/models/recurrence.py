"""Recurrences over time, with the gradient of their kernel as one product. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprop.core.forms import PLAIN, traced_for
from jaxprop.core.taps import collectors_of, filling, measuring, tap
from jaxprop.models.remat import NONE, checkpointed
from jaxprop.types import PyTree

STRETCHES = 8  # of a sequence whose gradients are looked at apart
WIDE = 512  # units from which on a GRU, whose projections have gradients of their own, gains by one product


class Cell(NamedTuple):
    """One recurrence: `step(carry, x, u, activation) -> carry` with the hidden state first in the carry.

    Args:
      gates: number of blocks of H in the projections.
      carries: number of arrays `[B, H]` carried from step to step.
      step: takes the projected input `x [B, gates H]` and `recur`, which projects the hidden state.
      sums: whether the two projections enter as their sum alone, so that both have the same gradient.
      kept: what of a step is kept for the backward pass where `run.remat` asks for nothing, as measured on CPU: that
        of an LSTM takes less time to compute its gates again from their sums than to keep all that they are made of.
    """

    gates: int
    carries: int
    step: Callable[..., tuple[jax.Array, ...]]
    sums: bool
    kept: str = NONE


def elman_step(carry: Any, x: jax.Array, recur: Callable, activation: Callable) -> tuple[jax.Array]:
    """h = a(x + U h)."""
    (h,) = carry
    return (activation(x + recur(h)),)


def gru_step(carry: Any, x: jax.Array, recur: Callable, activation: Callable) -> tuple[jax.Array]:
    """r, z = sigmoid(x + U h); n = a(x_n + r * (U_n h + b_n)); h = (1 - z) n + z h."""
    (h,) = carry
    x_gates, x_new = jnp.split(x, [2 * h.shape[-1]], -1)
    u_gates, u_new = jnp.split(recur(h), [2 * h.shape[-1]], -1)
    reset, update = jnp.split(jax.nn.sigmoid(x_gates + u_gates), 2, -1)
    new = activation(x_new + reset * u_new)
    return (new + update * (h - new),)


def lstm_step(carry: Any, x: jax.Array, recur: Callable, activation: Callable) -> tuple[jax.Array, jax.Array]:
    """i, f, o = sigmoid(x + U h); c = f c + i a(x_g + U_g h); h = o tanh(c)."""
    h, c = carry
    gates = x + recur(h)
    gated, new = jnp.split(gates, [3 * h.shape[-1]], -1)
    i, f, o = jnp.split(jax.nn.sigmoid(gated), 3, -1)
    c = f * c + i * activation(new)
    return o * jnp.tanh(c), c


CELLS: dict[str, Cell] = {
    "elman": Cell(1, 1, elman_step, sums=True),
    "gru": Cell(3, 1, gru_step, sums=False),
    "lstm": Cell(4, 2, lstm_step, sums=True, kept="dots"),
}


class Tapped(NamedTuple):
    """Name and kind of the tap on the hidden states, as `tap` takes them."""

    name: str
    kind: str


def recur(
    cell: Cell,
    activation: Callable[[jax.Array], jax.Array],
    kernel: jax.Array,
    bias: jax.Array | None,
    projected: jax.Array,
    carry: tuple[jax.Array, ...],
    mask: jax.Array | None = None,
    *,
    tapped: Tapped,
    reverse: bool = False,
    remat: str = NONE,
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Takes a cell through time: `carry_t = cell(carry_{t-1}, x_t, h_{t-1} U + b)`.

    The gradient of U is the sum of `h_{t-1}^T du_t` over time. Plain differentiation of a scan adds these products up
    one by one, which reads and writes an array as large as U in every step. Here the `du_t` are kept, and
    `dU = H^T dU_all` is one product over all of time and batch. JAX refuses forward mode through it, except through
    its gradient; `forms_for(PLAIN)` has the loop differentiated as it is.

    Args:
      cell: in `CELLS`.
      activation: of the candidate state.
      kernel: U `[H, gates H]`.
      bias: b `[gates H]`, or None.
      projected: the inputs' projections x `[T, B, gates H]`.
      carry: states before the first step, `[B, H]` each, the hidden one first.
      mask: boolean `[T, B]`; where it is False the states stay as they were.
      tapped: the tap on the hidden states, which has a row for each stretch of time.
      reverse: read from the end.
      remat: policy of rematerialization of a step.

    Returns:
      The states after the last step, and the hidden states `[T, B, H]`.

    Example:
      >>> x, zero = jnp.ones((5, 2, 3)), (jnp.zeros((2, 3)),)
      >>> after, hidden = recur(CELLS["elman"], jnp.tanh, jnp.eye(3), None, x, zero, tapped=Tapped("rnn", "tanh"))
      >>> hidden.shape, bool(jnp.all(after[0] == hidden[-1]))
      ((5, 2, 3), True)

    Reference:
      Appleyard et al., Optimizing Performance of Recurrent Neural Networks on GPUs, 2016.
      https://arxiv.org/abs/1604.01946
    """
    own = remat == NONE and traced_for() != PLAIN  # who asks for rematerialization wants the least memory
    run = partial(_scan, cell, activation, tapped, reverse, cell.kept if own else remat)
    moving = {"projected": projected, "carry": carry, "mask": mask}
    collectors = collectors_of(tapped.name)
    seeking = measuring() and not collectors  # taps are looked for, which a rule of its own would hide
    if seeking or not own or not (cell.sums or kernel.shape[0] >= WIDE):
        return run(kernel, bias, None, moving)
    return _with_one_product(run, cell.sums, reverse, kernel, bias, moving | {"collectors": collectors})


def _scan(
    cell: Cell, activation: Callable, tapped: Tapped, reverse: bool, remat: str,
    kernel: jax.Array, bias: jax.Array | None, added: jax.Array | None, moving: dict[str, Any],
) -> tuple[tuple[jax.Array, ...], jax.Array]:  # fmt: skip
    """The loop over time; `added` `[T, B, gates H]` is zeros whose gradient is that of `h U + b`."""
    projected = moving["projected"]
    time = projected.shape[0]
    stretches = min(STRETCHES, time)

    def step(carry: Any, inputs: tuple[Any, ...]) -> tuple[Any, jax.Array]:
        x, more, t, real = inputs

        def project(h: jax.Array) -> jax.Array:
            moved = h.astype(kernel.dtype) @ kernel  # in the dtype of an override, where there is one
            u = (moved if bias is None else moved + bias).astype(h.dtype)
            return u if more is None else u + more

        hidden, *rest = cell.step(carry, x, project, activation)
        if t is not None:
            hidden = tap(hidden, tapped.name, tapped.kind, (t * stretches // time, stretches))
        after = (hidden, *rest)
        if real is not None:
            after = tuple(jnp.where(real[:, None], new, old) for new, old in zip(after, carry, strict=True))
        return after, after[0]

    times = jnp.arange(time, dtype=jnp.int32) if measuring() else None
    inputs = (projected, added, times, moving["mask"])
    return jax.lax.scan(checkpointed(step, remat, in_scan=True), moving["carry"], inputs, reverse=reverse)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _with_one_product(
    run: Callable, sums: bool, reverse: bool, kernel: jax.Array, bias: jax.Array | None, moving: dict[str, Any]
) -> Any:
    del sums, reverse
    with filling(moving["collectors"]):
        return run(kernel, bias, None, moving)


def _forward(
    run: Callable, sums: bool, reverse: bool, kernel: jax.Array, bias: jax.Array | None, moving: dict[str, Any]
) -> tuple[Any, Any]:
    del reverse

    def inner(added: jax.Array | None, moving: dict[str, Any]) -> Any:
        with filling(moving["collectors"]):
            return run(kernel, bias, added, moving)

    added = None if sums else jnp.zeros_like(moving["projected"])
    outputs, pull = jax.vjp(inner, added, moving)
    return outputs, (pull, moving["carry"][0], outputs[1], kernel, bias)


def _backward(run: Callable, sums: bool, reverse: bool, kept: Any, grads: Any) -> tuple[Any, Any, PyTree]:
    del run
    pull, first, hidden, kernel, bias = kept
    of_added, of_moving = pull(grads)
    of_projection = of_moving["projected"] if sums else of_added  # [T, B, gates H]
    before = [hidden[1:], first[None]] if reverse else [first[None], hidden[:-1]]
    flat = of_projection.reshape(-1, of_projection.shape[-1]).astype(kernel.dtype)
    states = jnp.concatenate(before).reshape(-1, first.shape[-1]).astype(kernel.dtype)
    return states.T @ flat, None if bias is None else flat.sum(0), of_moving


_with_one_product.defvjp(_forward, _backward)
