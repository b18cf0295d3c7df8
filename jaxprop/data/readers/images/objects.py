"""Images whose objects are to be found, without labels: boxes are told in the pixels that a file has on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprop.config.schema.data import DataSection
from jaxprop.data.bad import BadInputs
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.readers.images.decode import Form, UnreadableError, decode
from jaxprop.data.readers.images.open import learned_of, standardizer, unlabelled
from jaxprop.data.readers.images.records import Records
from jaxprop.data.standard_input import STDIN
from jaxprop.errors import DataError
from jaxprop.types import Source

DRAWN = ".boxes.png"  # how the names of images end that boxes were drawn on; a folder's are not read again


def object_inputs(section: DataSection, task: str, prepared: Mapping[str, Any], paths: Sequence[str]) -> Source:
    """Opens images in which objects are to be found.

    Args:
      section: the run's `data` section.
      task: not looked at.
      prepared: what the run has learned of its training images.
      paths: as of `jaxprop.data.readers.images.open.image_inputs`.

    Returns:
      A source of `inputs` and of `image_size` `[B, 2]`, height and width of the image before it was resized.
      `info["names"]` are the paths, `info["bad"]` holds those that name no image, and `info["pixels"]` is a function:
      index -> pixels uint8 `[H, W, C]` as they are.

    Raises:
      DataError: the only path names no image. An image that cannot be read is an error when it is taken.
    """
    del task
    learned = learned_of(prepared)
    bad = BadInputs(() if STDIN in paths else paths)
    where: list[tuple[Records, int]] = []
    for path in paths:
        with bad.reading(path):
            for part in unlabelled(section, path, bad):
                where += [(part, row) for row in range(part.length) if not _drawn(path, part.name(row))]
                bad.good = len(where)
    if not where and not bad.found:
        raise DataError(f"{', '.join(paths) or 'no path'}: names no images")
    standardized = standardizer(learned)

    def pixels(index: int) -> np.ndarray:
        part, row = where[index]
        if row in part.problems:
            raise DataError(f"{part.name(row)}: {part.problems[row]}")
        try:
            return decode(part.read(row), Form())
        except UnreadableError as error:
            raise DataError(f"{part.name(row)}: {error}") from error

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        whole = [pixels(index) for index in indices.tolist()]
        form = learned.form._replace(trained=True)
        fitted = [_fitted(where[index], image, form) for index, image in zip(indices.tolist(), whole, strict=True)]
        sizes = np.array([image.shape[:2] for image in whole], np.float32)
        return {"inputs": standardized(np.stack(fitted)), "image_size": sizes}

    return Source(
        length=len(where),
        take=take,
        info={"names": [part.name(row) for part, row in where], "bad": bad.found, "pixels": pixels},
        fingerprint=fingerprint("objects to find", *dict.fromkeys(part.digest for part, _ in where)),
        prepared=prepared,
    )


def _drawn(path: str, name: str) -> bool:
    """Whether an image of a folder is one that boxes were drawn on."""
    return name.endswith(DRAWN) and Path(path).expanduser().is_dir()


def _fitted(place: tuple[Records, int], image: np.ndarray, form: Form) -> np.ndarray:
    part, row = place
    try:
        return decode(image[:, :, 0] if image.shape[2] == 1 else image, form)
    except UnreadableError as error:
        raise DataError(f"{part.name(row)}: {error}") from error
