"""Which layout a path has: a folder a class, a list, IDX, CIFAR, Parquet, Arrow or tar; told by the contents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaxprop.data.kinds import TAKES, mistaken, unfit
from jaxprop.data.readers.images import binaries, folder, manifest, tables, tar
from jaxprop.data.readers.images.records import Columns, Records
from jaxprop.errors import DataError, did_you_mean

_SHARDS = {".parquet": tables.read_tables, ".arrow": tables.read_tables, ".tar": tar.read_tar}
_KNOWN = (
    "a folder with a subfolder for each class, CSV or JSONL with columns image and label, MNIST's IDX, CIFAR's .bin, "
    "Parquet or Arrow, or tar shards"
)


def read_layout(path: str, split: str, columns: Columns, *, labelled: bool = True) -> Records:
    """Reads the records of a split, whatever layout they have.

    Args:
      path: a file or a folder.
      split: its name; of a folder with files for several splits, those of this one are read.
      columns: which columns of tables are used.
      labelled: whether there have to be labels.

    Raises:
      DataError: there is nothing there, or nothing that can be read.
    """
    place = check_there(path)
    try:
        if place.is_dir():
            return _folder(path, place, split, columns, labelled)
        return _file(path, place, columns, labelled)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def check_there(path: str) -> Path:
    """Returns the file or the folder of a path.

    Raises:
      DataError: there is none.
    """
    place = Path(path).expanduser()
    if not place.is_dir() and not place.is_file():
        beside = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
        what = "no such file or folder" if not os.path.lexists(place) else "neither a file nor a folder"
        raise DataError(f"{path}: {what} under {Path.cwd()}{did_you_mean(place.name, beside)}")
    return place


def _file(path: str, place: Path, columns: Columns, labelled: bool) -> Records:
    suffix = place.suffix.lower()
    if not place.stat().st_size:
        raise DataError(f"{path}: is empty; expected {_KNOWN}")
    if suffix in manifest.SUFFIXES:
        return manifest.read_manifest(path, columns, labelled=labelled)
    if suffix in _SHARDS:
        return _shards(path, [place], suffix, columns, labelled)
    if binaries.is_idx(place):
        return binaries.read_idx(path, labelled=labelled)
    if suffix == ".bin":
        return binaries.read_cifar(path, [place], labelled=labelled)
    if not labelled:
        why = unfit(path, "images") or f"is no image; this run takes {TAKES['images']}"
        raise DataError(f"{path}: {why}")
    raise DataError(f"{path}: {_unknown(path, place)}")


def _unknown(path: str, place: Path) -> str:
    name = place.name.lower()
    if name.startswith(("data_batch", "test_batch")) or name in ("train", "test", "meta"):
        return "looks like CIFAR as a Python pickle, which is never loaded; download the binary version, of .bin files"
    return mistaken(path, "images") or f"is no layout of images that is known; expected {_KNOWN}"


def _folder(path: str, place: Path, split: str, columns: Columns, labelled: bool) -> Records:
    cifar = binaries.cifar_files(place, split)
    if cifar:
        return binaries.read_cifar(path, cifar, labelled=labelled)
    idx = binaries.idx_file(place, split)
    if idx is not None:
        return binaries.read_idx(os.path.join(path, idx.name), labelled=labelled)
    for suffix in _SHARDS:
        files = of_split(sorted(file for file in place.iterdir() if file.suffix.lower() == suffix), split)
        if files:
            return _shards(path, files, suffix, columns, labelled)
    beside = manifest.usual_manifest(place)
    if beside is not None:
        return manifest.read_manifest(os.path.join(path, beside.name), columns, labelled=labelled)
    if (place / "batches.meta").is_file():
        raise DataError(f"{path}: {_unknown(path, place / 'data_batch_1')}")
    if not labelled:
        raise DataError(f"{path}: holds no images; this run takes {TAKES['images']}")
    return folder.read_folder(path)


def of_split(files: Sequence[Path], split: str) -> list[Path]:
    """Returns the files whose names begin with a split's, where any do; otherwise all of them.

    Example:
      >>> files = [Path("test-0.parquet"), Path("train-0.parquet")]
      >>> of_split(files, "train"), len(of_split([Path("0.tar"), Path("1.tar")], "train"))
      ([PosixPath('train-0.parquet')], 2)
    """
    names = {"train": ("train",), "validation": ("val", "dev"), "test": ("test",)}
    of = {name: [file for file in files if file.name.startswith(starts)] for name, starts in names.items()}
    return of[split] if any(of.values()) else list(files)


def _shards(path: str, files: Sequence[Path], suffix: str, columns: Columns, labelled: bool) -> Records:
    if suffix == ".tar":
        return tar.read_tar(path, files, labelled=labelled, label=columns.label, image=columns.image)
    return tables.read_tables(path, files, columns, labelled=labelled)
