"""An LSTM's loop over time by cuDNN, on an NVIDIA GPU. Pure.

The binding by itself was timed on an H100. How weights are packed for it is checked on a CPU, against the reference
that comes with it; no layer of jaxprop has run with it on a GPU yet.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.experimental import rnn

from jaxprop.errors import in_one_line
from jaxprop.models.lstm import Weights

FEWEST_UNITS = 1024  # on an H100, 1024 units gained 1.67 by cuDNN, and 256 took 1.48 times as long


def packed(weights: Weights) -> jax.Array:
    """Returns the parameters of an LSTM as cuDNN takes them, in one vector.

    cuDNN's are `W^T, U^T, b, b'`, with blocks in the order i, f, g, o; the second bias is 0 here.

    Args:
      weights: W, U and b, with blocks in the order i, f, o, g.

    Returns:
      `[4 H (D + H + 2)]`.

    Example:
      >>> packed(Weights(jnp.ones((2, 12)), jnp.ones((3, 12)), jnp.ones(12))).shape
      (84,)

    Reference:
      `jax.experimental.rnn`, which describes the layout.
    """

    def ordered(x: jax.Array) -> jax.Array:
        i, f, o, g = jnp.split(x, 4, -1)
        return jnp.concatenate([i, f, g, o], -1)

    kernels = [ordered(kernel).T.reshape(-1) for kernel in (weights.inputs, weights.states)]
    return jnp.concatenate([*kernels, ordered(weights.bias), jnp.zeros_like(weights.bias)])


def cudnn_lstm(
    reverse: bool,
    weights: Weights,
    x: jax.Array,
    carry: tuple[jax.Array, jax.Array],
    mask: None = None,
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Takes an LSTM through time, as `jaxprop.models.lstm.lstm`, whose arguments and result it has.

    JAX can neither take its curvature nor map it over several sets of parameters at once, which are taken one by one.

    Args:
      reverse: read from the end.
      weights: W, U and b.
      x: inputs `[T, B, D]` in float32.
      carry: h and c before the first step, `[B, H]` each.
      mask: None. cuDNN knows lengths alone, and a mask may have holes.

    Returns:
      The states after the last step, and the hidden states `[T, B, H]`.

    Example:
      >>> zero, weights = jnp.zeros((2, 3)), Weights(jnp.ones((4, 12)), jnp.ones((3, 12)), jnp.ones(12))
      >>> cudnn_lstm(False, weights, jnp.ones((5, 2, 4)), (zero, zero))[1].shape  # doctest: +SKIP
      (5, 2, 3)

    Reference:
      Appleyard et al., Optimizing Performance of Recurrent Neural Networks on GPUs, 2016.
      https://arxiv.org/abs/1604.01946
    """
    assert mask is None, "a sequence with a mask takes the plain loop"
    ordered = x[::-1] if reverse else x
    first = tuple(state[None] for state in carry)
    hidden, *last = _run(ordered.swapaxes(0, 1), *first, packed(weights))
    over_time = hidden.swapaxes(0, 1)
    return (last[0][0], last[1][0]), over_time[::-1] if reverse else over_time


def has_cudnn_lstm() -> bool:
    """Whether the default device has cuDNN's LSTM at the precision of products in use; JAX itself is asked.

    Example:
      >>> has_cudnn_lstm() and jax.default_backend() != "gpu"
      False
    """
    return jax.default_backend() == "gpu" and _works(jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]


@cache
def _works(precision: str | None) -> bool:
    version = jax.local_devices()[0].client.platform_version
    if "rocm" in version.lower():  # MIOpen, whose layout of the parameters is another
        return False
    shapes = [(8, 8, 8), (1, 8, 8), (1, 8, 8), (rnn.get_num_params_in_lstm(8, 8, 1, False),)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    try:
        jax.eval_shape(jax.grad(lambda *given: jnp.sum(_run(*given)[0])), *arguments)
    except Exception as error:  # no cuDNN, or none of this precision
        why = in_one_line(error)[:200] or type(error).__name__
        warnings.warn(
            f"LSTM layers take the plain loop: cuDNN's is not to be had at precision {precision} ({why}).", stacklevel=2
        )
        return False
    return True


def _sizes(x: jax.Array, h: jax.Array) -> dict[str, Any]:
    return {
        "input_size": x.shape[-1], "hidden_size": h.shape[-1], "num_layers": 1, "dropout": 0.0, "bidirectional": False,
        "precision": None,
    }  # fmt: skip


@jax.custom_vjp
def _run(x: jax.Array, h: jax.Array, c: jax.Array, flat: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hidden states `[B, T, H]` and the last states `[1, B, H]`, of inputs `[B, T, D]` and the first states."""
    return _run_forward(x, h, c, flat)[0]


def _run_forward(x: jax.Array, h: jax.Array, c: jax.Array, flat: jax.Array) -> tuple[Any, Any]:
    lengths = jnp.full(x.shape[0], x.shape[1], jnp.int32)
    return sequential_vmap(lambda *given: rnn.lstm_fwd(*given, **_sizes(x, h)))(x, h, c, flat, lengths)


def _run_backward(kept: Any, grads: Any) -> tuple[jax.Array, ...]:
    sizes = _sizes(*kept[:2])
    back = sequential_vmap(lambda kept, grads: rnn.lstm_bwd(**sizes, residuals=kept, gradients=grads)[:4])
    return back(kept, grads)


_run.defvjp(_run_forward, _run_backward)
