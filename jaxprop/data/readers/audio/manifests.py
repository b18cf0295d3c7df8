"""Where recordings and their transcripts are listed: LibriSpeech folders, audio with `.txt` beside, and manifests."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.config.schema.data import Speech
from jaxprop.data import records
from jaxprop.data.bad import BadRecords
from jaxprop.data.readers.audio.waves import SUFFIXES
from jaxprop.errors import DataError, did_you_mean
from jaxprop.untrusted.files import parse_json

AUDIO = ("audio", "audio_filepath", "path", "file", "file_name", "wav")
OFFSETS = ("offset", "start")  # where in its file a recording begins, in seconds
TEXT = ("text", "sentence", "transcript", "transcription")


class Listed(NamedTuple):
    """One recording as it is listed.

    Args:
      where: the place of its entry, such as `train.tsv:3`.
      path: of the audio.
      text: its transcript; None where none is asked for.
    """

    where: str
    path: Path
    text: str | None


def listed(path: str, key: str, section: Speech, bad: BadRecords, *, texts: bool = True) -> Iterator[Listed]:
    """Yields the recordings that a path names; entries that cannot be used are left out.

    Args:
      path: a manifest, a folder, or an audio file where no transcripts are asked for.
      key: where the path was written, for messages.
      section: says how the columns are called.
      bad: takes entries that cannot be used.
      texts: whether transcripts are asked for.

    Raises:
      DataError: there is no such path, or it lists no recordings.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        yield from _folder(place, path, key, bad, texts=texts)
    elif place.suffix.lower() in SUFFIXES and place.is_file():
        if texts:
            raise DataError(
                f"{key}: {path} is one audio file; give a folder, or a manifest with the columns audio and text"
            )
        yield Listed(path, place, None)
    else:
        for file in records.find(path, key).files:
            yield from _manifest(file, section, bad, texts=texts)


def _folder(place: Path, path: str, key: str, bad: BadRecords, *, texts: bool) -> Iterator[Listed]:
    sounds, transcripts = [], []
    for at, folders, names in os.walk(place):
        folders.sort()
        files = [Path(at) / name for name in sorted(names) if not name.startswith(".")]
        sounds += [file for file in files if file.suffix.lower() in SUFFIXES]
        transcripts += [file for file in files if file.name.endswith(".trans.txt")]
    if not sounds:
        raise DataError(f"{key}: {path} holds no audio files ({', '.join(SUFFIXES[:3])}, ...)")
    if not texts:
        yield from (Listed(str(sound), sound, None) for sound in sounds)
    elif transcripts:
        for file in transcripts:
            yield from _librispeech(file, bad)
    else:
        for sound in sounds:
            yield from _beside(sound, bad)


def _librispeech(file: Path, bad: BadRecords) -> Iterator[Listed]:
    """Lines such as `84-121123-0000 GO DO YOU HEAR`, of the audio files beside."""
    with records.opened(file) as opened:
        for record in records.lines(opened, str(file), bad):
            name, text = [*record.values[0].split(None, 1), ""][:2]
            found = next((p for suffix in (".flac", ".wav") if (p := file.parent / f"{name}{suffix}").is_file()), None)
            if found is None:
                bad.add(record.where, f"there is no {name}.flac and no {name}.wav beside it")
            else:
                yield Listed(record.where, found, text)


def _beside(sound: Path, bad: BadRecords) -> Iterator[Listed]:
    file = sound.with_suffix(".txt")
    try:
        yield Listed(str(sound), sound, file.read_text(encoding="utf-8-sig"))
    except OSError:
        bad.add(str(sound), f"has no {file.name} beside it")
    except UnicodeDecodeError:
        bad.add(str(file), "is not UTF-8")


def _manifest(file: Path, section: Speech, bad: BadRecords, *, texts: bool) -> Iterator[Listed]:
    kind = records.kind_of(file)
    if kind == "text":
        raise DataError(
            f"{file}: is no manifest; expected JSONL, TSV or CSV with the columns audio and text, or a folder"
        )
    known = _header(file, kind, section.delimiter)
    columns = [_column(file, known, section.audio, AUDIO, "audio")]
    columns += [_column(file, known, section.text, TEXT, "text")] if texts else []
    offsets = [name for name in OFFSETS if name in known]
    for record in records.read(file, [*columns, *offsets], bad, section.delimiter):
        name, *rest = record.values[: len(columns)]
        why = records.why_no_value(name, columns[0]) or _why_part(
            dict(zip(offsets, record.values[len(columns) :], strict=True))
        )
        if why is None and rest:
            why = None if rest[0] is None or isinstance(rest[0], str) else f"its {columns[1]!r} is not text"
        if why is not None:
            bad.add(record.where, why)
        else:
            yield Listed(record.where, _place(file.parent, name), (rest[0] or "") if rest else None)


def _place(folder: Path, name: str) -> Path:
    """Where a recording of a manifest lies: beside it, or in the folder `clips`, as those of Common Voice do."""
    place = folder / Path(name).expanduser()
    clip = folder / "clips" / name
    return clip if not place.is_file() and clip.is_file() else place


def _why_part(offsets: Mapping[str, Any]) -> str | None:
    """Why a recording that begins within its file cannot be used; None where it is the whole of it."""
    for name, value in offsets.items():
        with contextlib.suppress(TypeError, ValueError):  # of another meaning, such as a date
            if float(value) > 0:
                told = f"{name} {value}"
                return f"begins within its file ({told}), of which parts are not read; cut it into a file of its own"
    return None


def _header(file: Path, kind: str, delimiter: str | None) -> list[str]:
    if kind == "parquet":
        raise DataError(f"{file}: a Parquet file is no manifest of recordings; write JSONL, TSV or CSV")
    with records.opened(file) as opened:
        first = next((line for line in opened if line.strip()), b"").decode("utf-8-sig", "replace").rstrip("\r\n")
    if kind == "jsonl":
        try:
            row = parse_json(first)
        except ValueError:
            return []
        return list(row) if isinstance(row, dict) else []
    return next(csv.reader([first], delimiter="\t" if kind == "tsv" else delimiter or ","), [])


def _column(file: Path, known: list[str], given: str | None, usual: tuple[str, ...], key: str) -> str:
    """The column of a name that was given, or the first of the usual ones."""
    found = next((name for name in ((given,) if given else usual) if name in known), None)
    if found is None and known:
        names = ", ".join(map(repr, known[:20]))
        wanted = f"{given!r}{did_you_mean(given, known)}" if given else f"of the {key}, such as {usual[0]!r}"
        raise DataError(f"{file}: has no column {wanted} (it has: {names}); name it with data.{key}: COLUMN")
    return found or usual[0]
