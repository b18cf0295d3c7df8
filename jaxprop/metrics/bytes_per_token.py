"""How many bytes of text a token stands for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.examples import entry_weights
from jaxprop.types import Batch, Metric


def bytes_and_tokens(_: Any, batch: Batch) -> dict[str, jax.Array]:
    """Returns the weighted number of bytes and of tokens that a batch predicts.

    Args:
      batch: `labels` `[B, T]` and `bytes` `[B]`, which those of them stand for that count; if present, `mask` `[B, T]`
        and `weight` `[B]`.

    Example:
      >>> batch = {"labels": jnp.zeros((2, 3), jnp.int32), "bytes": jnp.array([9.0, 5.0])}
      >>> batch["weight"] = jnp.array([1.0, 0.0])
      >>> {name: total.item() for name, total in bytes_and_tokens(None, batch).items()}
      {'bytes': 9.0, 'tokens': 3.0}
    """
    weight, mask = entry_weights(batch, jnp.shape(batch["labels"]), jnp.dtype("float32"))
    told = jnp.asarray(batch["bytes"]).astype(weight.dtype)
    return {"bytes": jnp.sum(weight * told), "tokens": jnp.sum(weight[:, None] * mask)}


def _finish(total: Mapping[str, Any]) -> float:
    tokens = float(total["tokens"])
    return float(total["bytes"]) / tokens if tokens else float("nan")


bytes_per_token = Metric(bytes_and_tokens, _finish)
