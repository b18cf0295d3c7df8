"""Random crops of padded images. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.data.augment.inputs import images
from jaxprop.errors import ShapeError
from jaxprop.types import Batch

PADDING = {"zeros": "constant", "edge": "edge", "reflect": "reflect"}  # our names -> those of jnp.pad


def crop(key: jax.Array, batch: Batch, *, pad: int, mode: str = "zeros") -> Batch:
    """Pads each image by `pad` pixels on every side and cuts a window of the old size out, at a random place.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, H, W, C]`.
      pad: pixels; the image moves by -pad to pad along each axis, each equally likely.
      mode: what is padded with: `zeros`, the `edge`, or the image mirrored (`reflect`).

    Returns:
      The batch with other inputs, of the same shape and dtype.

    Raises:
      ShapeError: the inputs are no images, or smaller than the padding.

    Example:
      >>> batch = {"inputs": jnp.ones((2, 4, 4, 1))}
      >>> crop(jax.random.key(0), batch, pad=1)["inputs"].shape
      (2, 4, 4, 1)

    Reference:
      Lee et al., Deeply-Supervised Nets, 2014, section 4.1.
    """
    x = images(batch, "crop", moves=True)
    count, *shape = x.shape
    if pad >= min(shape[:2]):
        raise ShapeError(f"crop: expected pad below the side of the images ({min(shape[:2])}), got {pad}")
    if pad == 0:
        return batch
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=PADDING[mode])
    top, left = jax.random.randint(key, (2, count), 0, 2 * pad + 1, jnp.int32)

    def window(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (top, left, jnp.zeros_like(top)), shape)

    return {**batch, "inputs": jax.vmap(window)(padded, top, left)}
