"""Images in Parquet or Arrow files: a column of encoded images, or of their paths, and one of labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprop.data.fingerprint import fingerprint, fingerprint_of_files
from jaxprop.data.readers.images.decode import UnreadableError
from jaxprop.data.readers.images.manifest import IMAGE_COLUMNS, LABEL_COLUMNS, find_column
from jaxprop.data.readers.images.records import Columns, Records, read_within
from jaxprop.data.readers.shards import Shards, open_shards


def read_tables(path: str, files: Sequence[Path], columns: Columns, *, labelled: bool = True) -> Records:
    """Opens the files; the images are read one by one when they are used.

    An image is bytes, a `{bytes, path}` as the library `datasets` writes it, or the path of a file.

    Args:
      path: of the file or the folder, for messages.
      files: in their order.
      columns: which are used, and the folder that paths are relative to.
      labelled: whether there has to be a column of labels.

    Raises:
      DataError: a file cannot be read, or has no such columns.
      MissingExtraError: pyarrow is not installed.
    """
    shards = open_shards(path, files)
    return records_of(path, shards, columns, labelled=labelled)


def records_of(path: str, shards: Shards, columns: Columns, *, labelled: bool = True) -> Records:
    """Returns the images of shards.

    Args:
      path: for messages.
      shards: the files.
      columns: which are used.
      labelled: whether there has to be a column of labels.
    """
    names, given = shards.columns, columns.image
    if given is None:
        encoded = [name for name in names if shards.holds_bytes(name)]
        given = encoded[0] if len(encoded) == 1 else None
    image = find_column(path, given, names, IMAGE_COLUMNS, "image_column")
    label = find_column(path, columns.label, names, LABEL_COLUMNS, "label_column") if labelled else None
    root = (shards.files[0].parent if columns.root is None else Path(columns.root).expanduser()).resolve()

    def read(index: int) -> bytes:
        return _content(shards.cell(image, index), root)

    return Records(
        length=shards.length,
        read=read,
        name=lambda index: f"{path}[{index}]",
        labels=None if label is None else shards.values(label),
        digest=fingerprint("tables", fingerprint_of_files([(os.path.basename(f), f) for f in shards.files])),
        class_names=None if label is None else shards.class_names(label),
    )


def _content(cell: Any, root: Path) -> bytes:
    path = None
    if isinstance(cell, dict):
        cell, path = cell.get("bytes"), cell.get("path")
    if isinstance(cell, bytes):
        return cell
    path = cell if isinstance(cell, str) else path
    if not isinstance(path, str) or not path:
        raise UnreadableError("has no image")
    return read_within(root, path)
