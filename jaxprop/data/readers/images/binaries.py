"""The binary files of MNIST (IDX, gzipped or not) and of CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxprop.data.fingerprint import fingerprint, fingerprint_of_files
from jaxprop.data.mapped import unchanged
from jaxprop.data.readers.images.records import Records
from jaxprop.errors import DataError

_GZIP = b"\x1f\x8b"
_IDX = {1: b"\0\0\x08\x01", 3: b"\0\0\x08\x03", 4: b"\0\0\x08\x04"}  # of unsigned bytes, by the number of axes
_MAX_EXPANDED = 2**32
_MAX_DENSE, _MAX_RATIO = 2**28, 100  # bytes of what expands more than so many times, as pictures hardly do
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_IDX_FILES = {"train": "train", "validation": "validation", "test": "t10k"}
_CIFAR = {1: "batches.meta.txt", 2: "fine_label_names.txt"}  # the names of the classes, by the labels of a record


def is_idx(file: Path) -> bool:
    """Whether a file begins as IDX does, or as IDX within gzip."""
    try:
        with file.open("rb") as raw:
            start = raw.read(4)
        if start[:2] == _GZIP:
            with gzip.open(file) as unpacked:
                start = unpacked.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return start in _IDX.values()


def idx_file(folder: Path, split: str) -> Path | None:
    """Returns the file of a split's images in a folder of IDX files; None where the folder has none."""
    images = sorted(file for file in folder.iterdir() if "images" in file.name and "idx3" in file.name)
    named = [file for file in images if file.name.startswith((_IDX_FILES[split], split))]
    return next(iter(named), None)


def read_idx(path: str, *, labelled: bool = True) -> Records:
    """Reads IDX images, and the labels in the file beside them: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`.

    Args:
      path: the file of images; mapped into memory, or unpacked into it where it is gzipped.
      labelled: whether the labels are read.

    Raises:
      DataError: a file is missing, damaged, or no IDX of unsigned bytes; or the two do not fit.
    """
    file = Path(path).expanduser()
    images = _idx(path, file)
    if images.ndim == 1:
        raise DataError(f"{path}: holds labels; name the file of images, the labels are found beside it")
    files, labels = [file], None
    if labelled:
        beside = _labels_beside(path, file)
        labels = _idx(str(beside), beside)
        if labels.shape != images.shape[:1]:
            raise DataError(f"{beside}: holds {len(labels)} labels, but {path} {len(images)} images; they must agree")
        files.append(beside)
    return Records(
        length=len(images),
        read=lambda index: np.asarray(images[index]),
        name=lambda index: f"{path}[{index}]",
        labels=None if labels is None else labels.tolist(),
        digest=fingerprint_of_files([(f.name, f) for f in files]),
    )


def _labels_beside(path: str, images: Path) -> Path:
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    other = name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz"
    found = next(
        (images.with_name(n) for n in (name, other) if n != images.name and images.with_name(n).is_file()), None
    )
    if found is None:
        raise DataError(f"{path}: the labels are not beside it, in {name}; put that file there")
    return found


def _idx(path: str, file: Path) -> np.ndarray:
    """The array of an IDX file: uint8 `[N]`, `[N, H, W]` or `[N, H, W, C]`."""
    try:
        with file.open("rb") as raw:
            packed = raw.read(2) == _GZIP
        with gzip.open(file) if packed else file.open("rb") as content:
            start = content.read(4)
            if start not in _IDX.values():
                raise DataError(f"{path}: is no IDX file of unsigned bytes, as MNIST has them")
            shape = tuple(int.from_bytes(content.read(4), "big") for _ in range(start[3]))
            size = math.prod(shape)
            if not 0 < size <= _MAX_EXPANDED:
                raise DataError(f"{path}: is empty, or larger than the {_MAX_EXPANDED // 2**30} GiB that are read")
            if packed and size > max(_MAX_DENSE, _MAX_RATIO * file.stat().st_size):
                raise DataError(
                    f"{path}: says that it expands to {size / 2**30:.3g} GiB, more than {_MAX_RATIO} times its size; "
                    "unpack it with gunzip"
                )
            if not packed:
                return np.memmap(file, np.uint8, "r", offset=content.tell(), shape=shape)
            values = content.read(size)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is damaged or cut short ({error}); download it again") from error
    if len(values) != size:
        raise DataError(f"{path}: is cut short: {len(values)} bytes of pixels, {size} by its header; download it again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def cifar_files(folder: Path, split: str) -> list[Path]:
    """Returns the files of a split in a folder of CIFAR binaries; an empty list where it has none."""
    names = {"train": ("data_batch_*.bin", "train.bin"), "test": ("test_batch.bin", "test.bin")}.get(split, ())
    return next((found for name in names if (found := sorted(folder.glob(name)))), [])


def read_cifar(path: str, files: Sequence[Path], *, labelled: bool = True) -> Records:
    """Reads CIFAR-10 or CIFAR-100 binaries, mapped into memory; of the two labels of CIFAR-100, the fine one.

    Args:
      path: of the file or the folder, for messages.
      files: the files.
      labelled: whether the labels are used.

    Raises:
      DataError: a file is no whole number of records, or cannot be read.
    """
    sizes = [file.stat().st_size for file in files]
    # Of equal length both ways only in multiples of 3,073 x 3,074 bytes; then the file's name decides.
    fits = [n for n in _CIFAR if all(size and size % (_PIXELS + n) == 0 for size in sizes)]
    fine = 2 in fits and (len(fits) == 1 or files[0].name in ("train.bin", "test.bin"))
    if not fits:
        raise DataError(
            f"{path}: is no whole number of CIFAR records (3,073 bytes, or 3,074 with two labels); it is cut short, or "
            "no CIFAR binary"
        )
    before = 2 if fine else 1
    shape = (-1, before + _PIXELS)
    try:
        parts = [np.memmap(file, np.uint8, "r").reshape(shape) for file in files]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    ends = np.cumsum([len(part) for part in parts])

    check = unchanged(parts)

    def read(index: int) -> np.ndarray:
        check()
        part = int(np.searchsorted(ends, index, side="right"))
        record = parts[part][index - int(ends[part])]  # counted from the part's end
        return np.ascontiguousarray(record[before:].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0))

    named = files[0].with_name(_CIFAR[before])
    names = named.read_text(encoding="utf-8", errors="replace").split() if named.is_file() else None
    return Records(
        length=int(ends[-1]),
        read=read,
        name=lambda index: f"{path}[{index}]",
        labels=np.concatenate([part[:, before - 1] for part in parts]).tolist() if labelled else None,
        digest=fingerprint("cifar", fingerprint_of_files([(file.name, file) for file in files])),
        class_names=names,
    )
