"""Whether a disk has room for checkpoints: its bytes, and its inodes, which run out first where files are small."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

FILES = 40  # files and folders of one checkpoint while it is written, with room to spare


class Room(NamedTuple):
    """Bytes and inodes, needed or free; None where a file system does not count its inodes."""

    bytes: int
    inodes: int | None


def room_of(arrays: Any) -> Room:
    """Returns what one checkpoint takes at most; arrays are compressed when they are written.

    Args:
      arrays: a pytree of arrays or `jax.ShapeDtypeStruct`s.

    Example:
      >>> room_of({"w": np.zeros((1000, 1000), np.float32)}).bytes
      4000000
    """
    sizes = [_size(leaf) for leaf in jax.tree.leaves(arrays)]
    return Room(sum(sizes), FILES + FILES * (jax.process_count() - 1))


def _size(leaf: Any) -> int:
    if hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return _size(jax.eval_shape(jax.random.key_data, leaf))
    return int(np.size(leaf)) * (leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype).itemsize


def free(folder: Path) -> Room | None:
    """Returns what is free on the disk of a folder, which need not exist; None where the system does not tell."""
    place = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if place is None or not hasattr(os, "statvfs"):
        return None
    found = os.statvfs(place)
    return Room(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def shortage(folder: Path, one: Room, copies: int) -> str | None:
    """Returns how the room on a disk falls short of so many checkpoints, with both numbers; None where it does not.

    Args:
      folder: the folder of checkpoints.
      one: what one of them takes.
      copies: how many are to be written.
    """
    there = free(folder)
    if there is None or copies < 1:
        return None
    if there.bytes < copies * one.bytes:
        return f"{_bytes(copies * one.bytes)} are needed and {_bytes(there.bytes)} are free"
    if there.inodes is not None and one.inodes is not None and there.inodes < copies * one.inodes:
        return f"{copies * one.inodes} inodes (files) are needed and {there.inodes} are free"
    return None


def _bytes(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
