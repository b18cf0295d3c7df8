"""Files that are mapped into memory, and may change while they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxprop.errors import DataError


def unchanged(arrays: Iterable[Any]) -> Callable[[], None]:
    """Returns a function that raises DataError once a file behind some arrays is not what it was.

    A file that is cut short under a map ends the process when the missing part is read, and one that is written to
    gives batches that no fingerprint is of. Called before and after each reading, the function finds both; it costs a
    few microseconds. A file that is replaced by another leaves the map as it was.

    Args:
      arrays: those that are mapped count, others have no file.

    Example:
      >>> unchanged([np.zeros(3)])()
    """
    names = (array.filename for array in arrays if isinstance(array, np.memmap))
    files = {os.fspath(name): os.stat(name) for name in names if name is not None}

    def check() -> None:
        for path, was in files.items():
            try:
                now = os.stat(path)
            except OSError:
                continue
            if os.path.samestat(was, now) and (was.st_size, was.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
                raise DataError(
                    f"{path} has changed while it was read ({was.st_size:,} bytes, now {now.st_size:,}); write new "
                    "data to a file of another name, or rename a whole file to this one, and start the run again"
                )

    return check
