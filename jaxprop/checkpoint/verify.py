"""Reads a checkpoint and compares what was read with what was saved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.checkpoint import leaves, manifest
from jaxprop.checkpoint.arrays import read_arrays
from jaxprop.checkpoint.digests import digest
from jaxprop.checkpoint.failures import DamagedError, reason
from jaxprop.checkpoint.folder import holds_link
from jaxprop.types import TrainState

_NEEDED = ("leaves", "key_impls", "stream", "config", "metrics")
_TRIED = 8  # leaves that cannot be read, after which it is taken that none can
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"


def read_verified(path: Path, plain: Path, abstract_state: TrainState) -> tuple[dict[str, Any], Any]:
    """Reads a checkpoint whose every leaf is what was saved.

    Args:
      path: of the checkpoint.
      plain: the same by a name that Orbax can read.
      abstract_state: what to restore into.

    Returns:
      The manifest, which has no `digests` where the checkpoint is of a format without, so that only its being
      readable was verified; and the state.

    Raises:
      DamagedError: it is not what was saved; names the leaf.
      CheckpointError: the state does not fit.
    """
    record = manifest.read(path)
    if lacking := [name for name in _NEEDED if name not in record]:
        raise DamagedError(path, f"its {manifest.path_of(path).relative_to(path)} lacks {', '.join(lacking)}")
    places = leaves.check_fit(record["leaves"], abstract_state, str(path))
    if (link := holds_link(path)) is not None:
        raise DamagedError(path, f"{link} is a link, and nothing is read from outside a checkpoint")
    numbered = zip(places, jax.tree.leaves(abstract_state), strict=True)
    wanted = {str(i): leaf for i, leaf in numbered if np.size(leaf)}
    names = {number: record["leaves"][int(number)][0] for number in wanted}
    arrays = _read(path, plain, wanted, names)
    _compare(path, arrays, wanted, names, record.get("digests"))
    return record, leaves.unpack(arrays, record["key_impls"], abstract_state, places)


def _read(path: Path, plain: Path, wanted: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    try:
        return read_arrays(plain, wanted)
    except Exception as error:
        if isinstance(error, MemoryError) or _OUT_OF_MEMORY in str(error):
            raise
        unreadable = _first_unreadable(plain, wanted)
        what = "its arrays cannot be read" if unreadable is None else f"{names[unreadable]} cannot be read"
        kind = re.match("[A-Z_]+(?=: )", str(error))  # what follows TensorStore's codes is for its authors
        raise DamagedError(path, f"{what} ({kind[0] if kind else reason(error)})") from error


def _first_unreadable(plain: Path, wanted: Mapping[str, Any]) -> str | None:
    """Returns the number of a leaf that cannot be read where others can, or None where it is not a leaf's fault."""
    bad, can_any = None, len(wanted) == 1
    if jax.process_count() > 1:  # the others do not read one by one
        return None
    for tried, (number, leaf) in enumerate(wanted.items(), start=1):
        try:
            read_arrays(plain, {number: leaf})
        except Exception:
            bad = bad or number
        else:
            can_any = True
        if bad is not None and (can_any or tried >= _TRIED):
            break
    return bad if can_any else None


def _compare(
    path: Path, arrays: Mapping[str, Any], wanted: Mapping[str, Any], names: Mapping[str, str],
    saved: Mapping[str, str] | None,
) -> None:  # fmt: skip
    """Raises DamagedError where an array is not what was saved."""
    for number, leaf in wanted.items():
        expected = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        dtype = expected.dtype if hasattr(expected, "dtype") else np.asarray(expected).dtype
        array = arrays[number]
        if np.shape(array) != np.shape(expected) or array.dtype != dtype:
            raise DamagedError(path, f"{names[number]} has another shape or type than was saved")
    if saved is None:
        return
    found = digest({number: arrays[number] for number in wanted})()
    differ = [names[number] for number, value in found.items() if saved.get(number) != value]
    if differ:
        more = f", and so do {len(differ) - 1} more" if len(differ) > 1 else ""
        raise DamagedError(path, f"{differ[0]} differs from its digest{more}")


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
