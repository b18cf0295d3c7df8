"""An LSTM's loop over time for a CPU, with a backward pass of its own. Pure.

The plain loop takes `h U`, `[B, H] x [H, 4 H]`. A library that multiplies matrices packs its right factor before it
begins, here U anew in each step. So states are columns in this loop: `U^T h`, `[4 H, H] x [H, B]`, packs the state.
The inputs are projected in the same product, since columns that were projected before would have to be turned. And an
array of `[T, 4 H, B]` takes as long to be written for the first time as its contents take to be computed, since the
kernel fills its pages with zeros. So the gradients of the gates lie where the gates were.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SHORTEST = 8  # steps from which on the loop gains what the transposed kernels cost
NARROWEST = 8  # sequences from which on a product of a step keeps a core as busy as that of all steps


class Weights(NamedTuple):
    """Parameters of an LSTM, their blocks in the order i, f, o, g.

    Args:
      inputs: W `[D, 4 H]`.
      states: U `[H, 4 H]`.
      bias: b `[4 H]`.
    """

    inputs: jax.Array
    states: jax.Array
    bias: jax.Array


class _Kept(NamedTuple):
    """What the forward pass keeps.

    Args:
      weights: as given.
      x: inputs `[T, B, D]`.
      first: states before the first step, `[B, H]` each.
      hidden: states after each step, `[T, B, H]`.
      cells: the same of the cells, `[T, H, B]`.
      gates: i, f, o and g, `[T, 4 H, B]`.
      mask: `[T, B]`, or None.
    """

    weights: Weights
    x: jax.Array
    first: tuple[jax.Array, jax.Array]
    hidden: jax.Array
    cells: jax.Array
    gates: jax.Array
    mask: jax.Array | None


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def lstm(
    reverse: bool,
    weights: Weights,
    x: jax.Array,
    carry: tuple[jax.Array, jax.Array],
    mask: jax.Array | None = None,
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Takes an LSTM through time: `i, f, o = sigmoid(z)`, `g = tanh(z_g)`, `c = f c + i g`, `h = o tanh(c)`.

    Here `z = x W + h U + b`. JAX refuses forward mode through it, except through its gradient.

    Args:
      reverse: read from the end.
      weights: W, U and b.
      x: inputs `[T, B, D]`.
      carry: h and c before the first step, `[B, H]` each.
      mask: boolean `[T, B]`; where it is False the states stay as they were.

    Returns:
      The states after the last step, and the hidden states `[T, B, H]`.

    Example:
      >>> zero, weights = jnp.zeros((2, 3)), Weights(jnp.ones((4, 12)), jnp.ones((3, 12)), jnp.ones(12))
      >>> (h, c), hidden = lstm(False, weights, jnp.ones((5, 2, 4)), (zero, zero))
      >>> hidden.shape, bool(jnp.all(h == hidden[-1]))
      ((5, 2, 3), True)

    Reference:
      Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; Gers et al., Learning to Forget, 2000.
    """
    across, bias = _across(weights)

    def step(states: Any, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[Any, jax.Array]:
        states, _ = _turn(across, bias, states, *inputs)
        return states, states[0].T

    states, hidden = lax.scan(step, _columns(carry), (x, mask), reverse=reverse)
    return _columns(states), hidden


def _forward(
    reverse: bool, weights: Weights, x: jax.Array, carry: tuple[jax.Array, jax.Array], mask: jax.Array | None
) -> tuple[Any, _Kept]:
    across, bias = _across(weights)

    def step(states: Any, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[Any, Any]:
        states, gates = _turn(across, bias, states, *inputs)
        return states, (states[0].T, states[1], gates)

    states, (hidden, cells, gates) = lax.scan(step, _columns(carry), (x, mask), reverse=reverse)
    return (_columns(states), hidden), _Kept(weights, x, carry, hidden, cells, gates, mask)


def _backward(reverse: bool, kept: _Kept, grads: Any) -> tuple[Weights, jax.Array, Any, None]:
    (of_hidden_last, of_cell_last), of_hidden = grads
    kernel, (hidden, cell), held = kept.weights.states, kept.first, kept.gates
    time, wide, batch = held.shape
    # The loop goes against that of the forward pass: from `last` to `first`, `ahead` being where it was before.
    first, last, ahead = (time - 1, 0, -1) if reverse else (0, time - 1, 1)

    def real(t: Any) -> jax.Array | None:
        return None if kept.mask is None else _at(kept.mask, t)

    def written(held: jax.Array, of_gates: jax.Array, t: Any) -> jax.Array:
        return _put(held, of_gates.T.reshape(wide, batch), t)

    def back(t: Any, came: Any, held: jax.Array, after: jax.Array, before: jax.Array) -> Any:
        of_state, of_cell = came
        of_state = of_state + _at(of_hidden, t).T
        return _turn_back(of_state, of_cell, _at(held, t), after, before, real(t))

    def before(t: Any) -> jax.Array:
        return jnp.where(t == first, cell.T, _at(kept.cells, jnp.clip(t - ahead, 0, time - 1)))

    def step(carried: Any, t: jax.Array) -> tuple[Any, None]:
        of_gates, stayed, of_cell, after, held, _ = carried
        # Written a step late: of two readers of one place XLA does not know that both come before a writer.
        held, earlier = written(held, of_gates, t + ahead), before(t)
        came = _plus(kernel @ of_gates, stayed), of_cell
        return (*back(t, came, held, after, earlier), earlier, held, came), None

    came, earlier = _columns((of_hidden_last, of_cell_last)), before(last)
    carried = (*back(last, came, held, _at(kept.cells, last), earlier), earlier, held, came)
    # Of the step before the first only what came to it counts; written after the loop, all would be copied.
    rest = jnp.arange(time, dtype=jnp.int32) - ahead
    (*_, held, of_carry), _ = lax.scan(step, carried, rest, reverse=not reverse)

    states = [kept.hidden[1:], hidden[None]] if reverse else [hidden[None], kept.hidden[:-1]]
    flat = held.reshape(time * batch, wide)
    flat_states = jnp.concatenate(states).reshape(time * batch, -1)
    of_weights = Weights(kept.x.reshape(time * batch, -1).T @ flat, flat_states.T @ flat, flat.sum(0))
    return of_weights, (flat @ kept.weights.inputs.T).reshape(kept.x.shape), _columns(of_carry), None


lstm.defvjp(_forward, _backward)


def _across(weights: Weights) -> tuple[jax.Array, jax.Array]:
    """Both kernels as one, `[4 H, D + H]`, and the bias, `[4 H, 1]`."""
    return jnp.concatenate([weights.inputs, weights.states]).T, weights.bias[:, None]


def _turn(
    across: jax.Array, bias: jax.Array, states: Any, x: jax.Array, real: jax.Array | None
) -> tuple[Any, jax.Array]:
    """One step, of states `[H, B]` with inputs `[B, D]`; returns the gates too, `[4 H, B]`."""
    scale, shift = _sigmoids(states[0].shape[0], x.dtype)
    z = across @ jnp.concatenate([x.T, states[0]]) + bias
    # One function for all rows, sigmoid(z) = (1 + tanh(z / 2)) / 2, is one loop over memory.
    gates = jnp.tanh(z * scale) * scale + shift
    i, f, o, g = jnp.split(gates, 4)
    cell = f * states[1] + i * g
    after = o * jnp.tanh(cell), cell
    return (after if real is None else tuple(jnp.where(real, *pair) for pair in zip(after, states, strict=True))), gates


def _turn_back(
    of_state: jax.Array,
    of_cell: jax.Array,
    gates: jax.Array,
    after: jax.Array,
    before: jax.Array,
    real: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """One step back: gradients of z and of the cell, between them what passes by the step where it has not changed h.

    Args:
      of_state, of_cell: gradients of h and c after the step, `[H, B]`.
      gates: `[4 H, B]`.
      after, before: the cells, `[H, B]`.
      real: `[B]`, or None.
    """
    i, f, o, g = jnp.split(gates, 4)
    squashed = jnp.tanh(after)
    changed = of_state if real is None else jnp.where(real, of_state, 0)
    inner = (of_cell if real is None else jnp.where(real, of_cell, 0)) + changed * o * (1 - squashed * squashed)
    of_gates = jnp.concatenate([
        inner * g * i * (1 - i), inner * before * f * (1 - f), changed * squashed * o * (1 - o), inner * i * (1 - g * g)
    ])  # fmt: skip
    if real is None:
        return of_gates, None, inner * f
    return of_gates, jnp.where(real, 0, of_state), jnp.where(real, inner * f, of_cell)


def _sigmoids(width: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Scale and shift that make a tanh of each row `[4 H, 1]` what it is: a sigmoid of the first three blocks."""
    sigmoid = jnp.asarray(np.arange(4 * width) < 3 * width)[:, None]
    return jnp.where(sigmoid, 0.5, 1.0).astype(dtype), jnp.where(sigmoid, 0.5, 0.0).astype(dtype)


def _columns(states: Any) -> Any:
    return tuple(x.T for x in states)


def _at(x: jax.Array, t: Any) -> jax.Array:
    # An index that may be negative is a select, with which the loop that reads was measured to take 1.3 times as long.
    start = (t, *(0,) * (x.ndim - 1))
    return lax.dynamic_slice(x, start, (1, *x.shape[1:]), allow_negative_indices=False)[0]


def _put(x: jax.Array, value: jax.Array, t: Any) -> jax.Array:
    return lax.dynamic_update_slice(x, value[None], (t, *(0,) * (x.ndim - 1)), allow_negative_indices=False)


def _plus(x: jax.Array, more: jax.Array | None) -> jax.Array:
    return x if more is None else x + more
