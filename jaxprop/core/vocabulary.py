"""Logits over a vocabulary, made a stretch of tokens at a time where they would not fit in memory. Pure.

The logits `[B, T, V]` of a language model and their gradient can be the largest arrays of a step. Inside `chunking` a
model hands out its last hidden states and the kernel of its head instead, and `over_chunks` makes the logits of one
stretch after the other, in the backward pass again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.overrides import HEAD, note
from jaxprop.core.placing import splits
from jaxprop.core.precision import wide
from jaxprop.core.taps import tap
from jaxprop.types import Batch, PyTree

OF_TOKENS = ("labels", "mask")  # what of a batch is cut along its tokens, as losses and metrics read it

_chunks: ContextVar[int] = ContextVar("chunks", default=1)


@partial(jax.tree_util.register_dataclass, data_fields=["hidden", "kernel", "bias"], meta_fields=["chunks"])
@dataclasses.dataclass(frozen=True)
class ChunkedLogits:
    """Logits `hidden @ kernel + bias` that are not there yet.

    Args:
      hidden: last hidden states `[B, T, D]`.
      kernel: of the head, `[D, V]`, in the dtype that logits are computed in.
      bias: of the head, `[V]`, or None.
      chunks: number of stretches of tokens in which they are made.
    """

    hidden: jax.Array
    kernel: jax.Array
    bias: jax.Array | None
    chunks: int

    def whole(self) -> jax.Array:
        """Returns all of the logits, `[B, T, V]`."""
        return _logits(self.hidden, self.kernel, self.bias)


@contextlib.contextmanager
def chunking(chunks: int) -> Iterator[None]:
    """Has models traced inside hand out `ChunkedLogits` where every token has an answer.

    Args:
      chunks: number of stretches; 1 for logits as they are.

    Example:
      >>> with chunking(4):
      ...     logits_of(jnp.ones((1, 8, 2)), jnp.ones((2, 3))).chunks
      4
    """
    token = _chunks.set(chunks)
    try:
        yield
    finally:
        _chunks.reset(token)


def logits_of(hidden: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> ChunkedLogits | None:
    """Returns what a model hands out in place of its logits; None outside `chunking`.

    Args:
      hidden: last hidden states `[B, T, D]`.
      kernel, bias: of the head; what is computed is computed in the kernel's dtype.

    Example:
      >>> logits_of(jnp.ones((1, 8, 2)), jnp.ones((2, 3))) is None
      True
    """
    chunks = min(_chunks.get(), hidden.shape[1])
    if chunks < 2:
        return None
    note(HEAD)
    return ChunkedLogits(hidden, kernel, bias, chunks)


def over_chunks(
    function: Callable[..., tuple[PyTree, PyTree]], logits: ChunkedLogits, *batches: Batch
) -> tuple[PyTree, PyTree]:
    """Calls a function of logits and batches for each stretch of tokens; adds up what adds up.

    The backward pass makes the logits of a stretch again, so that those of one stretch are in memory at a time. The
    gradient of the kernel is added up in float32.

    Args:
      function: `(logits [B, t, V], *batches) -> (sums, largest)`, both trees of arrays.
      logits: with T tokens, which need not be a multiple of the chunks: the last stretch is shorter then.
      *batches: of whose `labels` and `mask` `[B, T]` a stretch is cut; all else is given to every call.

    Returns:
      The sums, and the largest of each array in `largest`.

    Example:
      >>> logits = ChunkedLogits(jnp.arange(6.0).reshape(1, 6, 1), jnp.ones((1, 2)), None, chunks=4)
      >>> sums, largest = over_chunks(lambda x, batch: (x.sum(), x.max()), logits, {})
      >>> sums.item(), largest.item()
      (30.0, 5.0)
    """
    hidden, kernel, bias = logits.hidden, logits.kernel, logits.bias
    size = -(-hidden.shape[1] // logits.chunks)
    count, left = divmod(hidden.shape[1], size)
    # A gradient of 16 bits, to which each stretch adds, would lose its last digits.
    summed, dtypes = jax.tree.map(wide, (kernel, bias)), jax.tree.map(lambda x: x.dtype, (kernel, bias))

    def of_stretch(head: PyTree, hidden: jax.Array, cut: Any) -> tuple[PyTree, PyTree]:
        narrow = jax.tree.map(lambda x, dtype: x.astype(dtype), head, dtypes)
        with jax.named_scope("head"):
            made = tap(_logits(hidden, *narrow), "head", "output")
        return function(made, *({**batch, **part} for batch, part in zip(batches, cut, strict=True)))

    remade = jax.checkpoint(of_stretch, policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False)

    def step(_: None, stretch: tuple[jax.Array, Any]) -> tuple[None, tuple[PyTree, PyTree]]:
        return None, remade(summed, *stretch)

    parts = hidden, tuple(_of_tokens(batch, hidden.shape[:2]) for batch in batches)
    whole = jax.tree.map(lambda x: _stacked(x[:, : count * size], count), parts)
    found = jax.lax.scan(step, None, whole)[1]  # [count, ...]
    if left:
        last = jax.checkpoint(of_stretch, policy=jax.checkpoint_policies.nothing_saveable)
        rest = last(summed, *jax.tree.map(lambda x: x[:, count * size :], parts))
        found = jax.tree.map(lambda x, more: jnp.concatenate([x, more[None]]), found, rest)
    sums, largest = found
    return jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), sums), jax.tree.map(lambda x: x.max(0), largest)


def _of_tokens(batch: Batch, shape: tuple[int, ...]) -> dict[str, jax.Array]:
    held = {name: batch[name] for name in OF_TOKENS if batch.get(name) is not None}
    return {name: jnp.asarray(x) for name, x in held.items() if jnp.shape(x)[:2] == shape}


def _stacked(x: jax.Array, count: int) -> jax.Array:
    """`[B, count * t, ...]` as `[count, B, t, ...]`."""
    return jnp.moveaxis(x.reshape(x.shape[0], count, -1, *x.shape[2:]), 1, 0)


def _logits(hidden: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    x = hidden.astype(kernel.dtype)
    if splits("sequence"):
        made = x @ kernel
    else:  # on CPU the gradient of a product with two leading axes takes twice the time
        made = (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])
    return made if bias is None else made + bias
