"""Random mirror images. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.data.augment.inputs import along, images
from jaxprop.data.augment.objects import boxes_of, with_boxes
from jaxprop.types import Batch


def flip(key: jax.Array, batch: Batch, *, horizontal: float = 0.5, vertical: float = 0.0) -> Batch:
    """Mirrors each image at random.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, H, W, C]`; if present, `boxes` `[B, N, 4]`.
      horizontal: probability that left and right are exchanged.
      vertical: probability that top and bottom are exchanged.

    Returns:
      The batch with other inputs and boxes, of the same shapes and dtypes.

    Raises:
      ShapeError: the inputs are no images.

    Example:
      >>> batch = {"inputs": jnp.arange(3.0).reshape(1, 1, 3, 1)}
      >>> flip(jax.random.key(0), batch, horizontal=1.0)["inputs"].ravel().tolist()
      [2.0, 1.0, 0.0]
    """
    x, moved = images(batch, "flip", moves=True, boxes=True), boxes_of(batch)
    keys = jax.random.split(key)
    for own, axis, probability in zip(keys, (2, 1), (horizontal, vertical), strict=True):
        if probability:
            turned = jax.random.bernoulli(own, probability, x.shape[:1])
            x = jnp.where(along(turned, x), jnp.flip(x, axis), x)
            if moved is not None:
                first, last = (0, 2) if axis == 2 else (1, 3)
                mirrored = moved.at[..., first].set(x.shape[axis] - moved[..., last])
                mirrored = mirrored.at[..., last].set(x.shape[axis] - moved[..., first])
                moved = jnp.where(turned[:, None, None], mirrored, moved)
    return with_boxes({**batch, "inputs": x}, moved)
