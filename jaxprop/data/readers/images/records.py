"""Images by index before they are decoded, as every layout on disk gives them, and the reading of single files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.readers.images.decode import MAX_BYTES, UnreadableError


class Records(NamedTuple):
    """The records of one split.

    Args:
      length: number of records, N.
      read: `index -> ` an encoded image, or pixels uint8 `[H, W]` or `[H, W, 3]`; raises UnreadableError. It may be
        called from several threads, and pickled.
      name: `index -> ` what a record is called in messages, such as `photos/cat/1.png` or `train.csv:3`.
      labels: one a record, as the files have them: text, numbers, or lists of these; None where there are none.
      digest: of the contents, independent of where they lie.
      class_names: of labels that are integers, where the files name them.
      problems: why a record cannot be used, by index, where the files say so before any image is read.
      notes: what a person is told.
    """

    length: int
    read: Callable[[int], bytes | np.ndarray]
    name: Callable[[int], str]
    labels: Sequence[Any] | None
    digest: str
    class_names: Sequence[str] | None = None
    problems: Mapping[int, str] = {}
    notes: Sequence[str] = ()


class Columns(NamedTuple):
    """Which columns of a table hold what, and where the files lie that it names.

    Args:
      image: name of the column of images, or of their paths; None for the usual names.
      label: name of the column of labels; None for the usual names.
      root: folder of the paths; None for the table's own.
    """

    image: str | None = None
    label: str | None = None
    root: str | None = None


def read_within(root: Path, relative: str) -> bytes:
    """Reads a file that lies in a folder, whoever has written its path.

    Args:
      root: the folder, resolved.
      relative: path of the file in it.

    Raises:
      UnreadableError: the path leads out of the folder, by itself or by a link; or the file cannot be read.

    Example:
      >>> read_within(Path("/tmp"), "../etc/passwd")
      Traceback (most recent call last):
      ...
      jaxprop.data.readers.images.decode.UnreadableError: leads out of the folder /tmp, which no path may
    """
    pure = PurePath(relative)
    if pure.is_absolute():
        raise UnreadableError(f"is an absolute path; write it as it lies in the folder {root}")
    if ".." in pure.parts:
        raise UnreadableError(f"leads out of the folder {root}, which no path may")
    try:
        file = (root / pure).resolve()
        if not file.is_relative_to(root):
            raise UnreadableError(f"is a link that leads out of the folder {root}, which no path may; copy the file")
        if not file.is_file():  # which a pipe is not, that would never end
            raise UnreadableError("is a folder, not an image" if file.is_dir() else "is not there: no such file")
        if file.stat().st_size > MAX_BYTES:
            raise UnreadableError(f"has more than the {MAX_BYTES // 2**20} MiB that are read of one image")
        return file.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a null byte in the path, a loop of links
        raise UnreadableError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
