"""Numbers in English words, spoken by several voices of the program espeak-ng."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxprop.config.schema.data import Espeak
from jaxprop.data.readers.audio.alphabet import Alphabet
from jaxprop.data.readers.audio.recordings import Wave, recordings
from jaxprop.data.readers.audio.speech import speech_inputs
from jaxprop.data.readers.audio.waves import resampled
from jaxprop.errors import ConfigError, DataError
from jaxprop.types import Reader, Source

PROGRAM = "espeak-ng"
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_OWN_RATE = 22_050
_SECONDS = 60  # that the program may take for one number


class Spoken(NamedTuple):
    """One number as it is spoken.

    Args:
      text: the number in words.
      voice: as `espeak-ng -v` takes it.
      speed: words a minute.
      pitch: 0 to 99.
    """

    text: str
    voice: str
    speed: int
    pitch: int


def in_words(number: int) -> str:
    """Returns a number below a million in English words.

    Example:
      >>> in_words(9042), in_words(117), in_words(20_000)
      ('nine thousand forty two', 'one hundred seventeen', 'twenty thousand')
    """
    if number < 20:
        return _ONES[number]
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = f" {in_words(number % size)}" if number % size else ""
            return f"{in_words(number // size)} {name}{rest}"
    return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")


def open_espeak(section: Espeak) -> dict[str, Source]:
    """Opens numbers in words, spoken by espeak-ng with rates and pitches of their own.

    What was spoken is kept in the user's cache, so that the program speaks once.

    Args:
      section: the config's `data` section.

    Returns:
      `train`; `test`, and `validation` where there are voices for it, with other voices and other numbers. Each is as
      of `jaxprop.data.readers.audio.recordings.recordings`.

    Raises:
      ConfigError: a voice is in two splits, or there are fewer numbers than examples of the splits.
      DataError: the program is not installed, or does not know a voice.
    """
    _expect_apart(section)
    alphabet = Alphabet.of(map(in_words, [*range(100), 100, 1000]))
    order = np.random.default_rng([section.data_seed, 0]).permutation(section.largest + 1)
    count = section.test_examples
    splits = {"test": (2, order[:count], section.test_voices)}
    rest = order[count:]
    if section.validation_voices:
        splits["validation"] = (3, rest[:count], section.validation_voices)
        rest = rest[count:]
    splits["train"] = (1, rest[np.arange(section.examples) % len(rest)], section.voices)
    made: dict[str, Source] = {}
    for split, (number, values, voices) in splits.items():
        said = _drawn(np.random.default_rng([section.data_seed, number]), values.tolist(), voices)
        waves, starts = _kept(said, section.sample_rate)
        made[split] = recordings(
            "espeak", _slices(waves, starts), np.diff(starts), [one.text for one in said], alphabet,
            rate=section.sample_rate, buckets=section.buckets, identity=hashlib.sha256(waves.tobytes()).hexdigest(),
        )  # fmt: skip
    return {split: made[split] for split in ("train", "validation", "test") if split in made}


def _expect_apart(section: Espeak) -> None:
    """Raises ConfigError where splits share voices, or leave too few numbers."""
    splits = {"voices": section.voices, "validation_voices": section.validation_voices or ()}
    splits["test_voices"] = section.test_voices
    for (one, some), (other, others) in itertools.combinations(splits.items(), 2):
        twice = sorted(set(some) & set(others))
        if twice:
            raise ConfigError(f"data.{other}: {twice[0]} is one of data.{one}, too; a voice belongs to one split")
    if section.validation_voices and section.validation is not None:
        raise ConfigError("data.validation: data.validation_voices make a validation split already; remove one of them")
    held = section.test_examples * (2 if section.validation_voices else 1)
    if held > section.largest // 2:
        both = "and as many for the validation " if section.validation_voices else ""
        most = section.largest // 2 * section.test_examples // held
        raise ConfigError(
            f"data.test_examples: {section.test_examples} {both}of the numbers up to {section.largest} leave too few "
            f"to train on; use at most {most}"
        )


def _drawn(rng: np.random.Generator, numbers: Sequence[int], voices: Sequence[str]) -> list[Spoken]:
    return [
        Spoken(
            in_words(n), voices[int(rng.integers(len(voices)))], int(rng.integers(140, 200)), int(rng.integers(30, 70))
        )
        for n in numbers
    ]


def _slices(waves: np.ndarray, starts: np.ndarray) -> Wave:
    def wave(index: int) -> np.ndarray:
        return waves[starts[index] : starts[index + 1]].astype(np.float32) / 32768

    return wave


def _kept(said: Sequence[Spoken], rate: int) -> tuple[np.ndarray, np.ndarray]:
    """All samples int16 one after the other and where each recording begins; of the cache, where it has them."""
    digest = hashlib.sha256(repr((1, rate, [tuple(one) for one in said])).encode()).hexdigest()[:24]
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    path = base / "jaxprop" / "espeak" / f"{digest}.npz"
    try:
        with np.load(path) as held:
            return held["waves"], held["starts"]
    except (OSError, ValueError, KeyError):
        pass  # not there, or cut short: it is made anew
    program = find_program()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        spoken = list(pool.map(lambda one: speak(one, rate, program), said))
    waves, starts = np.concatenate(spoken), np.cumsum([0, *map(len, spoken)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            np.savez(file, waves=waves, starts=starts)
        os.replace(file.name, path)
    except OSError:
        pass  # a cache that cannot be written costs time and nothing else
    return waves, starts


def find_program() -> str:
    """Returns the path of espeak-ng; raises DataError where it is not installed."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise DataError(
            f"data.name: espeak needs the program {PROGRAM}, which is not installed; install it with: "
            f"apt install {PROGRAM}"
        )
    return found


def speak(one: Spoken, rate: int, program: str = PROGRAM) -> np.ndarray:
    """Lets the program speak, and returns the samples, int16.

    Args:
      one: what is said and how.
      rate: samples a second.
      program: its path.

    Raises:
      DataError: the program fails, as where it does not know the voice.
    """
    command = [program, "-v", one.voice, "-s", str(one.speed), "-p", str(one.pitch), "--stdout", "--", one.text]
    done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    at = done.stdout.find(b"data")
    if done.returncode or at < 0 or len(done.stdout) < at + 10:
        said = done.stderr.decode(errors="replace").strip().split("\n")[0]
        raise DataError(
            f"data.voices: {PROGRAM} cannot speak with the voice {one.voice!r} ({said or 'no audio'}); "
            f"{PROGRAM} --voices=en lists the voices"
        )
    content = done.stdout[at + 8 :]
    samples = np.frombuffer(content[: len(content) // 2 * 2], "<i2").astype(np.float32) / 32768
    made = resampled(samples, _OWN_RATE, rate)
    return np.round(np.clip(made, -1, 1) * 32767).astype(np.int16)


ESPEAK = Reader(open=lambda section, _task, _prepared: open_espeak(section), inputs=speech_inputs)
