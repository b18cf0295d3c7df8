"""Arrays in `.npz` and `.npy` files: mapped into memory where they can be, and never unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.kinds import mistaken
from jaxprop.errors import DataError, did_you_mean

_FORMATS = {b"PK": ".npz", b"\x93N": ".npy"}
_DAMAGED = "is damaged, cut short or not a NumPy file; write it again with np.save or np.savez"
# Smaller members are read, and then checked against their checksum, which a mapped one is not.
_MAPPED_BYTES = 64 * 2**20
# Bytes of a compressed member, and of one that expands more than so many times, as data hardly do.
_MAX_EXPANDED, _MAX_DENSE, _MAX_RATIO = 2**34, 2**28, 100
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LOCAL_HEADER = 30  # bytes before the name of a member of a ZIP archive


class Named(NamedTuple):
    """An array, or what is indexed as one, and its name in messages, such as `train.npz:labels`."""

    name: str
    values: Any


def load_npz(path: str, required: Sequence[str], optional: Sequence[str] = ()) -> tuple[dict[str, Named], list[str]]:
    """Opens arrays of a `.npz` file; large ones that are not compressed are mapped into memory.

    Args:
      path: the file.
      required: names of arrays that it has to hold.
      optional: names of arrays that it may hold.

    Returns:
      The arrays by name, and the names of the file's other arrays.

    Raises:
      DataError: the file is missing, damaged, holds Python objects, lacks an array, or expands too far.
    """
    with reading(path), _find(path, ".npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for key in required:
            if key not in archive.files:
                example = ", ".join(f"{name}=..." for name in required)
                raise DataError(
                    f"{path}: has no array {key!r}{did_you_mean(key, archive.files)} (it holds: "
                    f"{', '.join(archive.files) or 'nothing'}); write np.savez({path!r}, {example})"
                )
        wanted = [key for key in (*required, *optional) if key in archive.files]
        members = {info.filename: info for info in archive.zip.infolist()}
        held = {key: _member(archive, path, key, members.get(f"{key}.npy")) for key in wanted}
        return held, [key for key in archive.files if key not in held]


def load_npy(path: str) -> Named:
    """Maps a `.npy` file into memory.

    Raises:
      DataError: the file is missing, damaged, or holds Python objects.
    """
    with reading(path):
        return Named(path, np.load(_find(path, ".npy"), mmap_mode="r", allow_pickle=False))


def kind_of(path: str) -> str | None:
    """Returns `.npz` or `.npy`, told by the contents of a file; None for any other."""
    try:
        with Path(path).expanduser().open("rb") as content:
            return _FORMATS.get(content.read(2))
    except OSError:
        return None


def _member(archive: np.lib.npyio.NpzFile, path: str, key: str, info: zipfile.ZipInfo | None) -> Named:
    name = f"{path}:{key}"
    with reading(name):
        if info is not None and info.file_size >= _MAPPED_BYTES and info.compress_type == zipfile.ZIP_STORED:
            mapped = _mapped(Path(path).expanduser(), info)
            if mapped is not None:
                return Named(name, mapped)
        if info is not None and info.file_size > _most(info):
            raise DataError(
                f"{name}: expands to {info.file_size / 2**30:.3g} GiB, more than is unpacked into memory; write it "
                "with np.savez, which does not compress, so that it is mapped instead"
            )
        values = archive[key]
        if not isinstance(values, np.ndarray):  # the bytes of a member that does not begin as an array
            raise ValueError("no array")
        return Named(name, values)


def _most(info: zipfile.ZipInfo) -> int:
    return min(_MAX_EXPANDED, max(_MAX_DENSE, _MAX_RATIO * info.compress_size))


def _mapped(file: Path, info: zipfile.ZipInfo) -> np.ndarray | None:
    """Maps a member that is stored as it is; None where its header says that it cannot be."""
    with file.open("rb") as content:
        content.seek(info.header_offset)
        header = content.read(_LOCAL_HEADER)
        # The lengths of the name and of the extra field, which may differ from those of the directory.
        content.seek(sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28)), 1)
        start = content.tell()
        read_header = _HEADERS.get(np.lib.format.read_magic(content))
        if read_header is None or info.flag_bits & 1:
            return None
        shape, fortran, dtype = read_header(content)
        if dtype.hasobject:
            return None
        mapped = np.memmap(file, dtype, "r", content.tell(), shape, "F" if fortran else "C")
        if content.tell() - start + mapped.nbytes > info.file_size:
            raise ValueError("longer than its member of the archive")
        return mapped


def _find(path: str, expected: str) -> Path:
    file = Path(path).expanduser()
    if not file.exists():
        beside = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise DataError(f"{path}: no such file under {Path.cwd()}{did_you_mean(file.name, beside)}")
    if not file.is_file():
        raise DataError(f"{path}: expected a {expected} file, got a directory")
    if not file.stat().st_size:
        raise DataError(f"{path}: is empty; write it again with np.save or np.savez")
    # The format is told by the content: the name may be wrong, and np.load takes any other file for a pickle.
    with file.open("rb") as content:
        found = _FORMATS.get(content.read(2))
    if found is None:
        raise DataError(f"{path}: {mistaken(path, 'arrays') or _DAMAGED}")
    if found != expected:
        raise DataError(
            f"{path}: expected a {expected} file, got a {found}; give a .npz (holding inputs and labels) as data.train "
            "or data.test, and .npy files as train_inputs and train_labels, or test_inputs and test_labels"
        )
    return file


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns the errors that NumPy raises for unreadable files into a `DataError`.

    Args:
      name: of what is read, for messages.
    """
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{name}: is larger than the memory, or damaged; save it with np.savez or np.save") from error
    except Exception as error:  # of any kind: NumPy reads headers with Python's own parser
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{name}: cannot be read: {error.strerror}") from error
        if "object" in str(error).lower():
            raise DataError(
                f"{name}: holds Python objects (dtype object), which jaxprop never unpickles; "
                "save numbers instead, as np.asarray(values, np.float32)"
            ) from error
        raise DataError(f"{name}: {_DAMAGED}") from error
