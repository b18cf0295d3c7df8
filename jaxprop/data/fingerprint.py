"""Digests of data, so that a resume can refuse data that has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxprop.errors import DataError

# SHA-256 takes about two seconds per GiB, so larger memory-mapped files are sampled.
_FULL_HASH_BYTES = 64 * 2**20
_SAMPLED_BLOCKS = 64
_BLOCK_BYTES = 64 * 2**10


def fingerprint(*parts: str | np.ndarray) -> str:
    """Returns a SHA-256 over strings and arrays: dtype, shape, memory order and contents.

    Arrays in memory, and memory-mapped ones up to 64 MiB, are hashed completely. Of a larger memory-mapped
    array only 64 blocks of 64 KiB are hashed, evenly spaced from the first byte to the last. This detects a
    changed size or dtype and a rewritten file, but may miss a few edited examples.

    Args:
      parts: the strings and arrays that the data consist of, in a fixed order.

    Returns:
      64 hex digits.

    Example:
      >>> fingerprint("digits", np.zeros(3, np.float32))[:16]
      '4827dc4bbe7d43d6'
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"str {len(part.encode())} {part}".encode())
            continue
        order = "C" if part.flags.c_contiguous else "F" if part.flags.f_contiguous else "K"
        digest.update(f"array {part.dtype.str} {part.shape} {order} ".encode())
        for block in _blocks(part):
            digest.update(block)
    return digest.hexdigest()


def fingerprint_of_files(files: Sequence[tuple[str, Path]]) -> str:
    """Returns a SHA-256 over files: their names, their sizes, and their contents as `fingerprint` samples them.

    Files of more than 64 MiB together are sampled as if they were one: 64 blocks of 64 KiB.

    Args:
      files: the name of each file, which should not depend on where the data lie, and its path.

    Returns:
      64 hex digits.

    Raises:
      DataError: a file cannot be read.

    Example:
      >>> fingerprint_of_files([])[:16]
      'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    try:
        sizes = [path.stat().st_size for _, path in files]
        for (name, _), size in zip(files, sizes, strict=True):
            digest.update(f"file {size} {name}\n".encode(errors="surrogateescape"))
        total, ends = sum(sizes), np.cumsum([0, *sizes])
        if total <= _FULL_HASH_BYTES:
            for _, path in files:
                digest.update(path.read_bytes())
            return digest.hexdigest()
        for start in np.linspace(0, total - _BLOCK_BYTES, _SAMPLED_BLOCKS, dtype=np.int64).tolist():
            at = int(np.searchsorted(ends, start, side="right")) - 1
            with files[at][1].open("rb") as content:
                content.seek(start - int(ends[at]))
                digest.update(content.read(_BLOCK_BYTES))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _blocks(array: np.ndarray) -> list[memoryview]:
    # With order "K", `ravel` returns a view for both C and Fortran order, so a mapped file is not read here.
    content = array.ravel(order="K").view(np.uint8).data
    if not isinstance(array, np.memmap) or content.nbytes <= _FULL_HASH_BYTES:
        return [content]
    starts = np.linspace(0, content.nbytes - _BLOCK_BYTES, _SAMPLED_BLOCKS, dtype=np.int64)
    return [content[start : start + _BLOCK_BYTES] for start in starts.tolist()]
