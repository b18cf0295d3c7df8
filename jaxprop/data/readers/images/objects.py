"""Images whose objects are to be found, without labels: boxes are told in the pixels that a file has on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprop.config.schema.data import DataSection
from jaxprop.data.bad import BadInputs
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.readers.images.decode import Form, UnreadableError, decode, size_of
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

    form = learned.form._replace(trained=True)

    def opened(index: int, wanted: Form) -> tuple[np.ndarray, tuple[int, int]]:
        """An image as it is wanted, and its own height and width."""
        part, row = where[index]
        if row in part.problems:
            raise DataError(f"{part.name(row)}: {part.problems[row]}")
        try:
            content = part.read(row)
            own = content.shape[:2] if isinstance(content, np.ndarray) else size_of(content)
            return decode(content, wanted), (int(own[0]), int(own[1]))
        except UnreadableError as error:
            raise DataError(f"{part.name(row)}: {error}") from error

    def pixels(index: int) -> np.ndarray:
        return opened(index, Form())[0]

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        # From the file itself, as in training: an image that was decoded before is resized to slightly other pixels.
        fitted = [opened(index, form) for index in indices.tolist()]
        images, sizes = (list(column) for column in zip(*fitted, strict=True))
        return {"inputs": standardized(np.stack(images)), "image_size": np.array(sizes, np.float32)}

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
