"""Augmentation: random changes of training examples, as pure functions `(key, batch) -> batch` on the device.

Every augmentation takes its settings by keyword, as in `crop(key, batch, pad=4)`. It draws its random numbers for each
example by itself, and keeps the shapes and dtypes of the batch; `mixup` and `cutmix` turn integer labels into shares of
the classes, `mosaic` makes room for the boxes of four images, and `spec_augment` adds masks, which a model of audio
reads.

`flip`, `crop`, `scale` and `mosaic` move boxes with the pixels. What of a box leaves the image is cut off, and a box of
which less than `VISIBLE` is left is none any more. The others refuse batches with boxes if they move pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax

from jaxprop.config.schema import augment as schema
from jaxprop.data.augment.affine import affine
from jaxprop.data.augment.audio import background_noise, spec_augment, speed
from jaxprop.data.augment.boxes import cutout
from jaxprop.data.augment.colour import colour
from jaxprop.data.augment.crop import crop
from jaxprop.data.augment.flip import flip
from jaxprop.data.augment.mixing import cutmix, mixup
from jaxprop.data.augment.mosaic import mosaic
from jaxprop.data.augment.noise import noise
from jaxprop.data.augment.scale import scale
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.types import Batch, Spec

__all__ = [
    "AUGMENTATIONS", "Augmentation", "affine", "background_noise", "chain", "colour", "crop", "cutmix", "cutout",
    "flip", "make_augmentation", "mixup", "mosaic", "noise", "scale", "spec_augment", "speed",
]  # fmt: skip

Augmentation = Callable[[jax.Array, Batch], Batch]  # (key, batch) -> batch

AUGMENTATIONS: dict[str, Callable[..., Batch]] = {
    "crop": crop,
    "flip": flip,
    "affine": affine,
    "scale": scale,
    "colour": colour,
    "cutout": cutout,
    "mixup": mixup,
    "cutmix": cutmix,
    "mosaic": mosaic,
    "noise": noise,
    "spec_augment": spec_augment,
    "speed": speed,
    "background_noise": background_noise,
}


def chain(*augmentations: Augmentation) -> Augmentation:
    """Returns augmentations one after another as one, each with a key of its own.

    Args:
      augmentations: `(key, batch) -> batch`.

    Example:
      >>> import jax.numpy as jnp
      >>> augment = chain(partial(crop, pad=1), partial(flip, horizontal=0.5), partial(mixup, alpha=0.2, classes=10))
      >>> batch = {"inputs": jnp.zeros((4, 8, 8, 1)), "labels": jnp.array([3, 1, 4, 1])}
      >>> {name: x.shape for name, x in augment(jax.random.key(0), batch).items()}
      {'inputs': (4, 8, 8, 1), 'labels': (4, 10)}
    """

    def augment(key: jax.Array, batch: Batch) -> Batch:
        for i, one in enumerate(augmentations):
            batch = one(jax.random.fold_in(key, i), batch)
        return batch

    return augment


def make_augmentation(sections: Sequence[schema.Augmentation], spec: Spec) -> Augmentation | None:
    """Builds what a configuration lists under `data.augment`, and checks that it fits the data.

    Args:
      sections: the items of `data.augment`.
      spec: what the data look like; mixed labels need its number of classes.

    Returns:
      All of them as one; None where there is none.

    Raises:
      ConfigError: one of them does not fit the shapes or dtypes of the data.

    Example:
      >>> import jax.numpy as jnp
      >>> image = {"inputs": jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)}
      >>> augment = make_augmentation([schema.Crop(name="crop", pad=1)], Spec(image, {}))
      >>> augment(jax.random.key(0), {"inputs": jnp.zeros((2, 8, 8, 1))})["inputs"].shape
      (2, 8, 8, 1)
    """
    made = [_made(section, spec.sizes) for section in sections]
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), dict(spec.batch))
    for i, one in enumerate(made):
        try:
            batch = jax.eval_shape(one, jax.random.key(0), batch)
        except ShapeError as error:
            raise ConfigError(f"data.augment.{i}: {error}") from error
    return chain(*made) if made else None


def _made(section: schema.Augmentation, sizes: Mapping[str, int]) -> Augmentation:
    settings = section.model_dump(exclude={"name"})
    if isinstance(section, schema.Mixing):
        settings["classes"] = sizes.get("classes")
    return partial(AUGMENTATIONS[section.name], **settings)
