"""Random crops of padded images. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.data.augment.inputs import images
from jaxprop.data.augment.objects import boxes_of, expect_no_mirror, with_boxes
from jaxprop.errors import ShapeError
from jaxprop.types import Batch

PADDING = {"zeros": "constant", "edge": "edge", "reflect": "reflect"}  # our names -> those of jnp.pad


def crop(key: jax.Array, batch: Batch, *, pad: int, mode: str = "zeros") -> Batch:
    """Pads each image by `pad` pixels on every side and cuts a window of the old size out, at a random place.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, H, W, C]`; if present, `boxes` `[B, N, 4]` and `mask` `[B, N]`.
      pad: pixels; the image moves by -pad to pad along each axis, each equally likely.
      mode: what is padded with: `zeros`, the `edge`, or the image mirrored (`reflect`).

    Returns:
      The batch with other inputs and boxes, of the same shapes and dtypes.

    Raises:
      ShapeError: the inputs are no images, or smaller than the padding; or objects with boxes would be mirrored.

    Example:
      >>> batch = {"inputs": jnp.ones((2, 4, 4, 1))}
      >>> crop(jax.random.key(0), batch, pad=1)["inputs"].shape
      (2, 4, 4, 1)

    Reference:
      Lee et al., Deeply-Supervised Nets, 2014, section 4.1.
    """
    x, boxes = images(batch, "crop", moves=True, boxes=True), boxes_of(batch)
    expect_no_mirror(batch, mode, "crop")
    count, *shape = x.shape
    if pad >= min(shape[:2]):
        raise ShapeError(f"crop: expected pad below the side of the images ({min(shape[:2])}), got {pad}")
    if pad == 0:
        return batch
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=PADDING[mode])
    top, left = jax.random.randint(key, (2, count), 0, 2 * pad + 1, jnp.int32)

    def window(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (top, left, jnp.zeros_like(top)), shape)

    if boxes is not None:
        shift = jnp.stack([pad - left, pad - top] * 2, -1)[:, None].astype(boxes.dtype)  # [B, 1, 4]
        boxes = boxes + shift
    return with_boxes({**batch, "inputs": jax.vmap(window)(padded, top, left)}, boxes)
