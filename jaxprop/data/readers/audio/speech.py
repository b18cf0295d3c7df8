"""The reader `speech`: recordings with transcripts, checked by their headers, decoded when needed."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.schema.data import Speech
from jaxprop.data.bad import BadInput, BadInputs, BadRecords
from jaxprop.data.fingerprint import fingerprint, fingerprint_of_files
from jaxprop.data.readers.audio.alphabet import Alphabet, normalized
from jaxprop.data.readers.audio.manifests import Listed, listed
from jaxprop.data.readers.audio.recordings import padded, recordings, rounded
from jaxprop.data.readers.audio.waves import Sound, UnreadableError, decode, expect_channels, probe
from jaxprop.errors import DataError
from jaxprop.types import Reader, Source

_SPLITS = ("train", "validation", "test")
_MIB = 2**20
_BLOCK = 32  # recordings to predict that are held at a time
_GROWTH = 1.5  # recordings to predict are padded to lengths that grow so, for each of which a program is compiled


class Recording(NamedTuple):
    """A recording that can be used.

    Args:
      where: the place of its entry.
      path: of the audio.
      text: its transcript.
      sound: what its header says.
    """

    where: str
    path: Path
    text: str
    sound: Sound


def open_speech(section: Speech, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Opens recordings with their transcripts.

    The headers of all files are read, and no samples before a batch needs them.

    Args:
      section: the config's `data` section; its paths are relative to the current directory.
      prepared: of an earlier run, whose characters are used; its training recordings may be missing.

    Returns:
      `train`, and `validation` and `test` where the section names them, as of
      `jaxprop.data.readers.audio.recordings.recordings`.

    Raises:
      DataError: recordings are missing, or more of them are bad than `data.max_bad_fraction` allows.
    """
    alphabet = None if prepared is None else Alphabet.restored(prepared)
    opened: dict[str, Source] = {}
    for split in _SPLITS:
        path = getattr(section, split)
        if not isinstance(path, str) or (
            split == "train" and prepared is not None and not Path(path).expanduser().exists()
        ):
            continue
        bad = BadRecords(section.max_bad_fraction, unit="recording")
        entries = list(listed(path, f"data.{split}", section, bad))
        found = [one for entry in entries if (one := _checked(entry, section, alphabet, bad)) is not None]
        total = len(found) + bad.count
        notes = bad.notes(total)
        if not found:
            raise DataError(f"data.{split}: {path} lists no recordings")
        alphabet = alphabet or Alphabet.of(one.text for one in found)
        opened[split] = _source(found, section, alphabet, bad, total, notes + _told(found, section))
    return opened


def _checked(entry: Listed, section: Speech, alphabet: Alphabet | None, bad: BadRecords) -> Recording | None:
    """A listed recording, if it can be used; what is wrong with it is counted."""
    text = normalized(entry.text or "")
    text = text.lower() if section.lowercase else text
    try:
        sound = _probed(entry)
        expect_channels(sound.channels, section.channels)
        _expect_fits(text, sound, section, alphabet)
    except UnreadableError as error:
        name = "" if str(entry.path) == entry.where else f"{entry.path} "
        bad.add(entry.where, f"{name}{error}")
        return None
    return Recording(entry.where, entry.path, text, sound)


def _probed(entry: Listed) -> Sound:
    if not entry.path.is_file():
        raise UnreadableError("is not there")
    return probe(entry.path)


def _expect_fits(text: str, sound: Sound, section: Speech, alphabet: Alphabet | None) -> None:
    """Raises UnreadableError for a transcript that is empty or longer than its recording, and what else is off."""
    if not text:
        raise UnreadableError("has an empty transcript")
    if alphabet is not None and (unknown := alphabet.unknown(text)) is not None:
        raise UnreadableError(f"has {unknown!r} in its transcript, which no training transcript has")
    seconds = sound.samples / sound.rate
    if seconds > section.max_seconds:
        raise UnreadableError(f"lasts {seconds:.1f} s, more than data.max_seconds ({section.max_seconds:g})")
    needed = len(text) + sum(a == b for a, b in itertools.pairwise(text))
    frames = int(seconds * 1000 / section.frame_ms)
    if needed > frames:
        raise UnreadableError(
            f"has a transcript that needs {needed} outputs of the model, but lasts {seconds:.2f} s, which are "
            f"{frames} of {section.frame_ms:g} ms; is it the transcript of another recording? (data.frame_ms)"
        )


def _told(found: Sequence[Recording], section: Speech) -> list[str]:
    others = sum(one.sound.rate != section.sample_rate for one in found)
    several = sum(one.sound.channels > 1 for one in found)
    rates = sorted({one.sound.rate for one in found} - {section.sample_rate})
    notes = []
    if others:
        named = ", ".join(map(str, rates[:3]))
        notes.append(
            f"{others} of {len(found)} recordings have another rate ({named} Hz) and are resampled to "
            f"{section.sample_rate} Hz"
        )
    if several:
        notes.append(f"{several} of {len(found)} recordings have several channels, whose mean is used")
    return notes


def _source(
    found: Sequence[Recording], section: Speech, alphabet: Alphabet, bad: BadRecords, total: int, notes: list[str]
) -> Source:
    lengths = np.array([one.sound.at(section.sample_rate) for one in found])
    keep = section.engine == "numpy" and 4 * int(lengths.sum()) <= section.cache_mib * _MIB
    held: dict[int, np.ndarray | None] = {}

    def wave(index: int) -> np.ndarray | None:
        if index in held:
            return held[index]
        one = found[index]
        try:
            samples: np.ndarray | None = decode(one.path, section.sample_rate, section.channels)
        except UnreadableError as error:
            samples = None
            bad.add(one.where, f"{one.path} {error}")
            bad.notes(total)  # which raises where there are too many
        if keep or samples is None:
            held[index] = samples
        return samples

    names = [(one.path.name, one.path) for one in found]
    source = recordings(
        "speech", wave, lengths, [one.text for one in found], alphabet, rate=section.sample_rate,
        buckets=section.buckets, notes=notes,
        identity=fingerprint_of_files(names),
    )  # fmt: skip
    return source._replace(names=lambda indices: [found[i].where for i in indices.tolist()])


# -- recordings to predict ------------------------------------------------------------------------


def speech_inputs(section: Any, task: str, prepared: Mapping[str, Any], paths: Sequence[str]) -> Iterator[Source]:
    """Opens recordings without transcripts.

    Args:
      section: the run's `data` section.
      task: not looked at.
      prepared: what the run has learned of its training recordings.
      paths: audio files; folders, of which all audio files are taken at any depth; manifests; and `-` for standard
        input, which is one recording, or the paths of several, a line each.

    Returns:
      Sources of `inputs` and `input_lengths`, of a few recordings each, which are padded to the longest of them, so
      that these may be longer than those that were trained on. `info["names"]` are their paths, and `info["bad"]`
      names those that cannot be read.

    Raises:
      DataError: the only path names no recordings.
    """
    del task
    as_speech = section if isinstance(section, Speech) else Speech.model_validate({"name": "speech", "train": "-"})
    bad = BadInputs(paths)
    entries: list[tuple[str, Path | bytes]] = []
    for path in paths:
        with bad.reading(path):
            for entry in _named(path, as_speech, bad):
                entries.append(entry)
                bad.good += 1
    if not entries and not bad.found:
        raise DataError(f"{', '.join(paths) or 'no path'}: names no recordings")
    firsts = range(0, max(len(entries), 1), _BLOCK)
    last = firsts[-1]
    return (
        _block(
            entries[first : first + _BLOCK],
            [one for one in bad.found if first <= one.before and (first == last or one.before < first + _BLOCK)],
            first,
            as_speech,
            prepared,
        )
        for first in firsts
    )


def _block(
    entries: Sequence[tuple[str, Path | bytes]],
    listed_bad: Sequence[BadInput],
    first: int,
    section: Speech,
    prepared: Mapping[str, Any],
) -> Source:
    """The recordings of some entries; what cannot be read, or could not be listed, is told at its place."""
    rate, waves, names, bad = int(prepared["sample_rate"]), [], [], BadInputs()
    for place, (name, source) in enumerate(entries, first):
        for one in listed_bad:
            if one.before == place:
                bad.add(one.name, one.why)
        try:
            if isinstance(source, Path):
                probe(source)
            wave = decode(source, rate, section.channels)
            _expect_an_output(wave, rate, section)
            waves.append(wave)
            names.append(name)
            bad.good += 1
        except UnreadableError as error:
            bad.add(name, str(error))
    for one in listed_bad:
        if one.before >= first + len(entries):
            bad.add(one.name, one.why)
    inputs, lengths = padded(waves, _grown(max(map(len, waves), default=0), rate))
    return Source(
        length=len(waves),
        take=lambda indices: {"inputs": inputs[indices], "input_lengths": lengths[indices]},
        info={"names": names, "bad": bad.found},
        fingerprint=fingerprint("speech to predict", *names),
        prepared=prepared,
    )


def _expect_an_output(wave: np.ndarray, rate: int, section: Speech) -> None:
    """Raises UnreadableError for a recording that is shorter than what one output of a model is about."""
    seconds = len(wave) / rate
    if 1000 * seconds < section.frame_ms:
        raise UnreadableError(
            f"lasts {seconds:.3f} s, too short to hold a word: an output is of {section.frame_ms:g} ms"
        )


def _grown(samples: int, rate: int) -> int:
    length = float(rate)
    while length < samples:
        length *= _GROWTH
    return rounded(int(length), rate)


def _named(path: str, section: Speech, bad: BadRecords) -> Iterator[tuple[str, Path | bytes]]:
    if path != "-":
        yield from ((str(one.path), one.path) for one in listed(path, "input", section, bad, texts=False))
        return
    content = sys.stdin.buffer.read()
    if b"\0" in content[:4096]:  # which no list of paths has, and every recording
        yield "-", content
    else:
        lines = (line.strip() for line in os.fsdecode(content).splitlines())
        yield from ((line, Path(line).expanduser()) for line in lines if line)


SPEECH = Reader(open=lambda section, _task, prepared: open_speech(section, prepared), inputs=speech_inputs)
