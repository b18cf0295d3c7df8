"""Inputs that are kept as bytes and become floats within the train step: a quarter of what goes to a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprop.types import Source, Stored

_Take = Callable[[np.ndarray], dict[str, np.ndarray]]


def as_bytes(kept: _Take, take: _Take, centre: Any = None, factor: Any = None) -> Stored:
    """Returns how records whose inputs are kept as bytes are taken, and become `(x - centre) * factor` in float32.

    A difference and then a product are rounded alike by NumPy and in a compiled program. A product and then a sum are
    not: compilers make one operation of them, which rounds once.

    Args:
      kept: indices to a batch with `inputs` uint8 `[B, ...]`.
      take: indices to the batch that this becomes.
      centre, factor: float32, of any shape that broadcasts; by default inputs keep their values.

    Example:
      >>> pixels, take = np.uint8([[0], [255]]), lambda i: {"inputs": (pixels[i] - np.float32(127.5)) * np.float32(2)}
      >>> stored = as_bytes(lambda i: {"inputs": pixels[i]}, take, np.float32(127.5), np.float32(2))
      >>> stored.widen(stored.take(np.array([1])))["inputs"].tolist()
      [[255.0]]
    """

    def widen(batch: Any) -> Any:
        kept = batch["inputs"]
        if kept.dtype != np.uint8:
            return batch
        wide = jnp.asarray(kept).astype(jnp.float32)
        return {**batch, "inputs": wide if centre is None else (wide - centre) * factor}

    return Stored(kept, widen, take)


def as_kept(source: Source) -> Source:
    """Returns a source of batches as the train step takes them: as they are kept, where that is in fewer bytes.

    Args:
      source: of training records.

    Example:
      >>> take = lambda i: {"inputs": np.float32(i)}
      >>> as_kept(Source(2, take, {}, "", stored=as_bytes(lambda i: {"inputs": i}, take))).take(1)
      {'inputs': 1}
    """
    kept = source.stored
    return source if kept is None or kept.of is not source.take else source._replace(take=kept.take)


def standardized(pixels: np.ndarray, centre: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Returns `(x - centre) * factor` of pixels, in float32.

    Args:
      pixels: uint8 `[B, H, W, C]`.
      centre, factor: float32 `[C]`.

    Example:
      >>> standardized(np.full((1, 1, 2, 1), 255, np.uint8), np.float32([127.5]), np.float32([2])).tolist()
      [[[[255.0], [255.0]]]]
    """
    values, width = pixels.astype(np.float32, order="C"), pixels.shape[-2]
    # Row by row: NumPy's loop over the channels alone, which are few, takes ten times as long.
    rows = values.reshape(-1, width * centre.size)
    rows -= np.tile(centre, width)
    rows *= np.tile(factor, width)
    return values
