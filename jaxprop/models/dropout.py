"""Dropout, whose rate may differ between the lanes of one compiled step. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

_KEPT: ContextVar[jax.Array | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def keeping(share: jax.Array) -> Iterator[None]:
    """Has the dropout that is traced inside keep a share of its inputs, whatever its own rate.

    Args:
      share: 1 - rate, a scalar; not the rate, since the difference in float32 would be rounded otherwise.

    Example:
      >>> layer = Dropout(0.5, rngs=nnx.Rngs(0))
      >>> with keeping(jnp.float32(1.0)):
      ...     layer(jnp.ones(3)).tolist()
      [1.0, 1.0, 1.0]
    """
    token = _KEPT.set(share)
    try:
        yield
    finally:
        _KEPT.reset(token)


class Dropout(nnx.Dropout):
    """Sets inputs to 0 at random, and divides the others by the share that is kept; only in training.

        y = m x / (1 - rate),   m ~ Bernoulli(1 - rate)

    Args:
      rate: share of the inputs that are set to 0.
      rngs: random streams, of which `dropout` is used.

    Example:
      >>> Dropout(0.0, rngs=nnx.Rngs(0))(jnp.ones(3)).tolist()
      [1.0, 1.0, 1.0]

    Reference: Srivastava et al., Dropout, JMLR 15, 2014.
    """

    def __call__(self, inputs: jax.Array, **options: Any) -> jax.Array:
        """Returns the inputs with some of them set to 0; as they are where the layer is deterministic."""
        share = _KEPT.get()
        if share is None or self.deterministic or self.rngs is None:
            return super().__call__(inputs, **options)
        mask = jax.random.bernoulli(self.rngs(), share, inputs.shape)
        return jax.lax.select(mask, inputs / share.astype(inputs.dtype), jnp.zeros_like(inputs))
