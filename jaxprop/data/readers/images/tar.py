"""Images in WebDataset shards: tar archives whose members of one name are one record."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.data.fingerprint import fingerprint, fingerprint_of_files
from jaxprop.data.readers.images.decode import MAX_BYTES, SUFFIXES, UnreadableError
from jaxprop.data.readers.images.manifest import LABEL_COLUMNS
from jaxprop.data.readers.images.records import Records
from jaxprop.errors import DataError

_LABELS = (".cls", ".txt", ".json")  # the first that a record has
_MAX_LABEL = 2**16


class _Member(NamedTuple):
    shard: int
    start: int
    size: int


class _Record(NamedTuple):
    name: str
    image: _Member | None
    label: Any
    problem: str | None
    beside: Sequence[str] = ()  # other images of the record


class _Wanted(NamedTuple):
    label: str | None
    image: str | None
    labelled: bool


def read_tar(
    path: str, files: Sequence[Path], *, labelled: bool = True, label: str | None = None, image: str | None = None
) -> Records:
    """Lists the images of tar archives, without extracting them: each is read from its place when it is used.

    Members that share their name up to the first dot after the last slash are one record: `0001.jpg` with its label in
    `0001.cls` (an integer, or any text), `0001.txt` or `0001.json`. Of several images of a record, such as `0001.jpg`
    and the mask `0001.seg.png`, the one without another dot is taken.

    Args:
      path: of the archive or the folder, for messages.
      files: the archives, not compressed.
      labelled: whether the labels are read.
      label: the key of the label in JSON members; None for the usual names.
      image: the extension of the image, such as `seg.png`; None for the only one, or the only one without a dot in it.

    Raises:
      DataError: an archive is compressed or damaged, holds no images, or several of one record.
    """
    wanted = _Wanted(label, None if image is None else f".{image.lower().removeprefix('.')}", labelled=labelled)
    records = [record for number, file in enumerate(files) for record in _records(number, file, wanted)]
    if not records:
        raise DataError(f"{path}: holds no images, which are members such as 0001.jpg beside 0001.cls")
    places = [str(file) for file in files]

    def read(index: int) -> bytes:
        member = records[index].image
        if member is None:
            raise UnreadableError("has a label, but no image")
        if member.size > MAX_BYTES:
            raise UnreadableError(f"has more than the {MAX_BYTES // 2**20} MiB that are read of one image")
        return _content(places[member.shard], member)

    masked = next((record for record in records if record.beside), None)
    notes = []
    if masked is not None:
        count = sum(bool(record.beside) for record in records)
        notes = [
            f"{path}: {count} of {len(records)} records hold other images that are not read, such as "
            f"{masked.beside[0]}; data.image_column: EXTENSION chooses another"
        ]
    return Records(
        notes=notes,
        length=len(records),
        read=read,
        name=lambda index: records[index].name,
        labels=[record.label for record in records] if labelled else None,
        digest=fingerprint("tar", fingerprint_of_files([(file.name, file) for file in files])),
        problems={i: record.problem for i, record in enumerate(records) if record.problem is not None},
    )


def _records(number: int, file: Path, wanted: _Wanted) -> list[_Record]:
    groups: dict[str, dict[str, _Member]] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if not member.isreg() or member.issparse():  # links, devices and holes are nobody's images
                    continue
                folder, base = os.path.split(member.name)
                stem, _, extension = base.partition(".")
                if stem:  # not hidden
                    place = _Member(number, member.offset_data, member.size)
                    groups.setdefault(os.path.join(folder, stem), {})["." + extension.lower()] = place
            if (
                archive.offset + tarfile.BLOCKSIZE > file.stat().st_size
            ):  # two empty blocks are the end of every archive
                raise DataError(
                    f"{file}: is cut short, in or after its member {member.name}; copy or write the archive again"
                )
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        with file.open("rb") as content:
            packed = content.read(6)[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")
        if isinstance(error, DataError):
            raise
        what = "is compressed, so that its images cannot be read by index; unpack it to a plain .tar first"
        raise DataError(
            f"{file}: {what if packed else f'is no tar archive, or damaged ({error}); write it again'}"
        ) from error
    return [
        _record(str(file), key, members, wanted)
        for key, members in groups.items()
        if any(e.endswith(SUFFIXES) for e in members) or (wanted.labelled and any(e in _LABELS for e in members))
    ]


def _record(file: str, key: str, members: dict[str, _Member], wanted: _Wanted) -> _Record:
    images = [extension for extension in members if extension.endswith(SUFFIXES)]
    chosen = wanted.image or _image_of(file, key, images)
    image = None if chosen is None else members.get(chosen)
    beside = [key + extension for extension in images if extension != chosen] if wanted.image is None else []
    name, kind = f"{file}:{key}", next((kind for kind in _LABELS if kind in members), None)
    if not wanted.labelled or kind is None:
        return _Record(name, image, None, None, beside)
    try:
        found = _label(file, members[kind], kind, wanted.label)
    except (UnreadableError, ValueError, RecursionError) as error:
        return _Record(name, image, None, f"its label in {kind} cannot be read ({error})", beside)
    return _Record(name, image, found, None, beside)


def _image_of(file: str, key: str, images: Sequence[str]) -> str | None:
    """The extension of a record's image: the only one, or the only one without another dot."""
    plain = [extension for extension in images if extension.count(".") == 1]
    if len(plain) == 1 or len(images) < 2:
        return plain[0] if plain else next(iter(images), None)
    named = ", ".join(key + extension for extension in images[:3]) + ", ..." * (len(images) > 3)
    raise DataError(
        f"{file}: the images {named} are one record, as the name of a record ends at its first dot; write other names "
        f"without dots before the extension, or, if they belong together, set data.image_column: {images[0][1:]}"
    )


def _label(file: str, member: _Member, kind: str, key: str | None) -> Any:
    if member.size > _MAX_LABEL:
        raise UnreadableError(f"more than {_MAX_LABEL} bytes")
    text = _content(file, member).decode("utf-8").strip()
    if kind != ".json":
        return text
    held = json.loads(text)
    if not isinstance(held, dict):
        return held
    names = (key,) if key is not None else ("cls", *LABEL_COLUMNS)
    return next((held[name] for name in names if name in held), None)


def _content(file: str, member: _Member) -> bytes:
    try:
        with open(file, "rb") as archive:
            archive.seek(member.start)
            content = archive.read(member.size)
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from error
    if len(content) != member.size:
        raise UnreadableError("is cut short, as its archive is")
    return content
