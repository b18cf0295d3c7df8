"""Files of records as columns, which `pandas.DataFrame` and `polars.DataFrame` take as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprop.errors import RunFolderError
from jaxprop.sinks.lines import Tail

Columns = dict[str, "np.ndarray | list[Any]"]


def read_records(path: Path, keep: Callable[[dict[str, Any]], bool] | None = None) -> list[dict[str, Any]]:
    """Reads the records of a JSONL file; damaged lines, and a last one that is still being written, are left out.

    Args:
      path: the file; without it there are no records.
      keep: which records to return; default: all.

    Raises:
      RunFolderError: the file cannot be read.
    """
    try:
        return [record for block in Tail(path).more()[1] for record in block if keep is None or keep(record)]
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from error


def columns(records: Sequence[dict[str, Any]], first: Iterable[str] = ()) -> Columns:
    """Turns records into columns of one length, in the order in which the keys occur.

    Args:
      records: JSON objects.
      first: names of columns that come first, and are there without records too.

    Returns:
      An int64 array for whole numbers, a float64 array for numbers, with NaN where a record has none, and a list for
      everything else, with None where a record has none.

    Example:
      >>> columns([{"step": 1, "loss": 0.5}, {"step": 2, "split": "eval"}], first=["step", "split"])
      {'step': array([1, 2]), 'split': [None, 'eval'], 'loss': array([0.5, nan])}
    """
    names = dict.fromkeys([*first, *(name for record in records for name in record)])
    return {name: _column([record.get(name) for record in records]) for name in names}


def _column(values: list[Any]) -> np.ndarray | list[Any]:
    kinds = {type(value) for value in values}
    if kinds == {int}:
        return np.asarray(values, np.int64)
    if kinds <= {int, float, type(None)} and kinds != {type(None)}:
        return np.asarray([np.nan if value is None else value for value in values], np.float64)
    return values
