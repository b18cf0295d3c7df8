"""Looks at a file or a folder, and writes a configuration that trains on it."""

from __future__ import annotations

from collections.abc import Callable

from jaxprop.data.kinds import KINDS, kind_of
from jaxprop.errors import UsageError
from jaxprop.tools.init.folders import arrays, huggingface, images, text
from jaxprop.tools.init.objects import objects
from jaxprop.tools.init.recordings import recordings
from jaxprop.tools.init.tables import table

__all__ = ["WRITERS", "starter"]

WRITERS: dict[str, Callable[[str, str], str]] = {
    "table": table,
    "images": images,
    "coco": objects,
    "text": text,
    "arrays": arrays,
    "speech": recordings,
    "huggingface": huggingface,
}


def starter(path: str, name: str) -> str:
    """Returns the text of a configuration for the data at a path, with comments on what was guessed.

    Args:
      path: a file or a folder that exists.
      name: of the configuration.

    Raises:
      UsageError: no reader reads what is there.
      DataError: it is damaged.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> file = Path(tempfile.mkdtemp()) / "small.csv"
      >>> _ = file.write_text("size,color\\n1,red\\n2,blue\\n1,red\\n")
      >>> [line for line in starter(str(file), "small").splitlines() if line.startswith("task")]
      ['task: {name: classify}        # color holds 2 different texts']
    """
    kind = KINDS[kind_of(path)]
    if kind.reader is None:
        raise UsageError(f"{path}: is {kind.what}; {kind.keys}")
    return WRITERS[kind.reader](path, name)
