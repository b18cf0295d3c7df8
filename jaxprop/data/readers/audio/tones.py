"""Generated speech of made-up words: vowels as harmonics under formants, consonants as noise and silence."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from jaxprop.config.schema.data import Tones
from jaxprop.data.readers.audio.alphabet import Alphabet
from jaxprop.data.readers.audio.recordings import Wave, recordings
from jaxprop.data.readers.audio.speech import speech_inputs
from jaxprop.types import Reader, Source

RATE = 8000
WORDS = (
    "mano", "tiko", "sela", "rupi", "fano", "lemi", "kutu", "pora", "nise", "tamu", "rilo", "sufa", "kemo", "pani",
    "lofu", "mesa", "tori", "nuka", "fipe", "rano", "sito", "lupa", "keri", "mofa", "nelu", "pisa", "tefo", "runi",
    "sako", "lami", "foku", "metu",
)  # fmt: skip
_CONTROL = 40  # samples between two points at which amplitudes are given, 5 ms
_SPLITS = ("train", "test")


class Phone(NamedTuple):
    """How a letter sounds.

    Args:
      ms: its duration at the usual rate.
      voice: amplitude of the harmonics.
      formants: their resonances in Hz.
      noise: amplitude of the noise.
      band: centre and width of the noise in Hz.
      closure: the part at its beginning that is silent.
    """

    ms: float
    voice: float = 0.0
    formants: tuple[float, float, float] = (500, 1500, 2500)
    noise: float = 0.0
    band: tuple[float, float] = (2000, 1000)
    closure: float = 0.0


# Formants of Peterson and Barney (1952) for vowels; for the other letters, roughly what phonetics books show.
PHONES = {
    "a": Phone(105, 1.0, (730, 1090, 2440)),
    "e": Phone(95, 1.0, (530, 1840, 2480)),
    "i": Phone(90, 0.9, (270, 2290, 3010)),
    "o": Phone(105, 1.0, (570, 840, 2410)),
    "u": Phone(95, 0.9, (300, 870, 2240)),
    "m": Phone(70, 0.35, (250, 1000, 2200)),
    "n": Phone(65, 0.35, (250, 1650, 2600)),
    "l": Phone(65, 0.5, (360, 1300, 2900)),
    "r": Phone(65, 0.5, (420, 1250, 1600)),
    "s": Phone(95, 0.0, noise=0.30, band=(3500, 450)),
    "f": Phone(80, 0.0, noise=0.10, band=(2400, 1400)),
    "t": Phone(75, 0.0, noise=0.30, band=(3000, 700), closure=0.6),
    "k": Phone(80, 0.0, noise=0.30, band=(1800, 350), closure=0.6),
    "p": Phone(75, 0.0, noise=0.25, band=(800, 350), closure=0.6),
    " ": Phone(80),
}
REST = Phone(60)  # silence around a sentence


class Utterance(NamedTuple):
    """One sentence of one speaker, before it is made to sound.

    Args:
      text: its words.
      durations: samples of each letter, with silence before and after.
      pitch: of the voice in Hz, at the beginning.
      scale: of the formants, as of a shorter or longer vocal tract.
      noise: amplitude of white noise over all of it.
      level: of the loudest sample.
      seed: of the noises.
    """

    text: str
    durations: tuple[int, ...]
    pitch: float
    scale: float
    noise: float
    level: float
    seed: int


def utterance(rng: np.random.Generator) -> Utterance:
    """Draws a sentence of two to four words, its speaker and how it is recorded.

    Example:
      >>> utterance(np.random.default_rng(0)).text
      'sito tori nise tamu'
    """
    text = " ".join(rng.choice(WORDS, rng.integers(2, 5)).tolist())
    rate = rng.uniform(0.8, 1.25)
    phones = [REST, *(PHONES[letter] for letter in text), REST]
    durations = [round(phone.ms * rate * rng.uniform(0.8, 1.2) * RATE / 1000) for phone in phones]
    return Utterance(
        text=text, durations=tuple(durations), pitch=rng.uniform(90, 230), scale=rng.uniform(0.88, 1.16),
        noise=10 ** rng.uniform(-2.5, -1.5), level=rng.uniform(0.2, 0.9), seed=int(rng.integers(2**31)),
    )  # fmt: skip


def sound(said: Utterance) -> np.ndarray:
    """Returns the samples of an utterance, float32 in -1..1.

    The voice is a sum of harmonics whose amplitudes follow the formants; these glide from letter to letter.

    Example:
      >>> said = utterance(np.random.default_rng(0))
      >>> len(sound(said)) == sum(said.durations)
      True
    """
    rng = np.random.default_rng(said.seed)
    phones = [REST, *(PHONES[letter] for letter in said.text), REST]
    ends = np.cumsum(said.durations)
    total = int(ends[-1])
    points = np.arange(0, total + _CONTROL, _CONTROL)
    at = np.minimum(np.searchsorted(ends, points, side="right"), len(phones) - 1)
    formants = _smooth(np.array([phone.formants for phone in phones])[at] * said.scale, 7)  # [P, 3]
    voice = _smooth(np.array([phone.voice for phone in phones])[at][:, None], 3)[:, 0]
    time = np.arange(total)
    drift = 1 + 0.08 * np.sin(2 * np.pi * time / RATE * 1.7 + said.pitch) - 0.15 * time / total
    phase = 2 * np.pi * np.cumsum(said.pitch * drift) / RATE
    wave = _voiced(phase, said.pitch, formants, voice, points, time)
    for phone, start, end in zip(phones, [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        if phone.noise:
            begin = start + int(phone.closure * (end - start))
            wave[begin:end] += phone.noise * _noise(rng, end - begin, phone.band, said.scale)
    wave = wave / np.abs(wave).max() + said.noise * rng.standard_normal(total)
    return (said.level * wave / np.abs(wave).max()).astype(np.float32)


def _voiced(
    phase: np.ndarray, pitch: float, formants: np.ndarray, voice: np.ndarray, points: np.ndarray, time: np.ndarray
) -> np.ndarray:
    wave = np.zeros(len(time))
    double, before, here = 2 * np.cos(phase), np.zeros(len(time)), np.sin(phase)  # of sin((k - 1) x) and sin(k x)
    widths = np.array([80.0, 110.0, 160.0])
    for k in range(1, int(RATE / 2 / (1.1 * pitch)) + 1):
        resonance = (np.array([1.0, 0.6, 0.35]) / (1 + np.square((k * pitch - formants) / widths))).sum(1)
        wave += np.interp(time, points, voice * (resonance + 0.01)) * here
        before, here = here, double * here - before
    return wave


def _noise(rng: np.random.Generator, size: int, band: tuple[float, float], scale: float) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequencies = np.fft.rfftfreq(size, 1 / RATE)
    centre, width = band[0] * scale**0.5, band[1]
    shaped = np.fft.irfft(spectrum * np.exp(-np.square((frequencies - centre) / width)), size)
    return shaped / max(float(np.abs(shaped).max()), 1e-9) * np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 0.5


def _smooth(x: np.ndarray, size: int) -> np.ndarray:
    around = np.pad(x, ((size // 2, size // 2), (0, 0)), mode="edge")
    return np.mean([around[i : i + len(x)] for i in range(size)], axis=0)


def open_tones(section: Tones) -> dict[str, Source]:
    """Opens generated sentences of made-up words, each letter of which has a sound of its own.

    Every sentence has a speaker of its own: pitch, length of the vocal tract, rate, level and noise. The sentences of
    the test split are drawn apart from those of the training split.

    Args:
      section: the config's `data` section.

    Returns:
      `train` and `test`, as of `jaxprop.data.readers.audio.recordings.recordings`.

    Example:
      >>> source = open_tones(Tones(name="tones", examples=4, test_examples=2))["train"]
      >>> batch = source.take(np.array([0, 1]))
      >>> batch["inputs"].dtype.name, batch["labels"].shape[0], source.info["sample_rate"]
      ('float32', 2, 8000)
    """
    alphabet = Alphabet.of(PHONES)
    made: dict[str, Source] = {}
    for number, split in enumerate(_SPLITS):
        count = section.examples if split == "train" else section.test_examples
        said = [utterance(np.random.default_rng([section.data_seed, number, i])) for i in range(count)]
        made[split] = recordings(
            "tones", _remembered(said), np.array([sum(one.durations) for one in said]), [one.text for one in said],
            alphabet, rate=RATE, buckets=section.buckets, identity=str((section.data_seed, split)),
        )  # fmt: skip
    return made


def _remembered(said: list[Utterance]) -> Wave:
    """Each is made once, and kept in 16 bits a sample."""

    @cache
    def kept(index: int) -> np.ndarray:
        return np.round(sound(said[index]) * 32767).astype(np.int16)

    return lambda index: kept(index).astype(np.float32) / 32768


TONES = Reader(open=lambda section, _task, _prepared: open_tones(section), inputs=speech_inputs)
