"""The last layer of models that have an answer for each token. Pure."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from jaxprop.core.taps import tap
from jaxprop.core.vocabulary import logits_of
from jaxprop.models.layers import Embed, tied
from jaxprop.models.multipliers import times


def head_logits(x: jax.Array, head: nnx.Linear | Embed) -> Any:
    """Returns what a model with an answer a token ends with: logits `[B, T, V]` of `x [B, T, D]`, tapped as `head`.

    Args:
      x: last hidden states.
      head: a dense layer, or the embedding whose table is its kernel.

    Returns:
      The logits; inside `jaxprop.core.vocabulary.chunking`, that from which they are made a stretch at a time.

    Example:
      >>> import jax.numpy as jnp
      >>> head_logits(jnp.ones((1, 2, 8)), Embed(256, 8, stddev=1.0, rngs=nnx.Rngs(0))).shape
      (1, 2, 256)
    """
    if isinstance(head, Embed):
        later = logits_of(times(x, head.factor), head.embedding[...].T)
        return tap(tied(x, head), "head", "output") if later is None else later
    later = logits_of(x, head.kernel[...], None if head.bias is None else head.bias[...])
    return tap(head(x), "head", "output") if later is None else later
