"""Gaussian noise. Pure."""

from __future__ import annotations

import jax

from jaxprop.core.precision import wide, wide_dtype
from jaxprop.data.augment.inputs import floats
from jaxprop.types import Batch


def noise(key: jax.Array, batch: Batch, *, std: float) -> Batch:
    """Adds Gaussian noise to every entry of the inputs.

        x <- x + std z,   z ~ N(0, 1)

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, ...]`.
      std: standard deviation, in units of the inputs.

    Returns:
      The batch with other inputs, of the same shape and dtype.

    Raises:
      ShapeError: the inputs are integers.

    Example:
      >>> import jax.numpy as jnp
      >>> noisy = noise(jax.random.key(0), {"inputs": jnp.zeros((100, 100))}, std=2.0)["inputs"]
      >>> round(float(noisy.std()), 1)
      2.0
    """
    x = floats(batch, "noise")
    drawn = jax.random.normal(key, x.shape, wide_dtype(x.dtype))
    return {**batch, "inputs": (wide(x) + std * drawn).astype(x.dtype)}
