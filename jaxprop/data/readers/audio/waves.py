"""Audio files: what their headers say, and their samples at one rate and in one channel."""

from __future__ import annotations

import io
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxprop.errors import MissingExtraError

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
LOUDEST = 2.0**31  # integers that were written as floating-point samples are that large; anything above is damage
CANCELLED = 1e-3  # share of the loudest sample below which nothing is left of several channels
_STREAMED = (0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF)  # sizes that a program writes when it does not know the length yet


class UnreadableError(ValueError):
    """A recording cannot be used; the message is a clause that follows its name."""


class Sound(NamedTuple):
    """What a file's header says.

    Args:
      rate: samples a second, of each channel.
      channels: their number.
      samples: of each channel.
    """

    rate: int
    channels: int
    samples: int

    def at(self, rate: int) -> int:
        """Returns the number of samples at another rate."""
        return -(-self.samples * rate // self.rate)


def probe(path: Path) -> Sound:
    """Reads a file's header.

    Raises:
      UnreadableError: it is no audio, is empty, or is shorter than its header says.
      MissingExtraError: soundfile is not installed.
    """
    soundfile = _soundfile()
    try:
        if path.stat().st_size == 0:
            raise UnreadableError("is an empty file")
        with path.open("rb") as file:
            short = missing_bytes(file, path.stat().st_size)
        if short:
            raise UnreadableError(f"is cut short: its header says that {short} bytes more belong to it")
        info = soundfile.info(str(path))
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror or error})") from error
    except soundfile.SoundFileError as error:
        raise UnreadableError(f"is not audio that can be read ({_said(error)})") from error
    if info.frames <= 0:
        raise UnreadableError("holds no samples")
    return Sound(int(info.samplerate), int(info.channels), int(info.frames))


def decode(source: Path | bytes, rate: int, channels: str) -> np.ndarray:
    """Returns the samples of a file or of its content, float32 `[n]` in -1..1, at a rate and in one channel.

    Args:
      source: the file, or its bytes.
      rate: samples a second that it is resampled to where it has others.
      channels: `average` or `refuse`, for several of them.

    Raises:
      UnreadableError: it cannot be used.
      MissingExtraError: soundfile is not installed, or soxr, which resamples.
    """
    soundfile = _soundfile()
    content: Any = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    try:
        with soundfile.SoundFile(content) as file:
            told = file.frames
            samples = file.read(dtype="float32", always_2d=True)
            own = int(file.samplerate)
    except (soundfile.SoundFileError, OSError) as error:
        raise UnreadableError(f"is not audio that can be read ({_said(error)})") from error
    if len(samples) < told:
        raise UnreadableError(f"is cut short: it has {len(samples)} of {told} samples")
    if not len(samples):
        raise UnreadableError("holds no samples")
    if not np.isfinite(samples).all():
        raise UnreadableError("holds samples that are NaN or infinite")
    if (largest := float(np.abs(samples).max())) > LOUDEST:
        raise UnreadableError(f"holds a sample of {largest:.3g}, where 1 is the loudest; write it anew")
    if not samples.any():
        raise UnreadableError("is silent: all of its samples are 0")
    expect_channels(samples.shape[1], channels)
    one = samples.mean(1)
    if np.abs(one).max() < CANCELLED * largest:
        raise UnreadableError(f"has {samples.shape[1]} channels whose mean is silent: one is the other turned round")
    return resampled(one, own, rate)


def expect_channels(count: int, channels: str) -> None:
    """Raises UnreadableError where there are several channels and these are refused."""
    if count > 1 and channels == "refuse":
        raise UnreadableError(f"has {count} channels; set data.channels: average to use their mean")


def resampled(samples: np.ndarray, own: int, rate: int) -> np.ndarray:
    """Returns samples at another rate, float32, by soxr.

    Raises:
      MissingExtraError: the rates differ, and soxr is not installed.
    """
    if own == rate:
        return samples.astype(np.float32)
    if find_spec("soxr") is None:
        raise MissingExtraError("soxr", f"resampling from {own} to {rate} Hz")
    import soxr

    return soxr.resample(samples, own, rate).astype(np.float32)


def missing_bytes(file: BinaryIO, size: int) -> int:
    """Returns how many bytes of a RIFF WAV file are missing; 0 for other files, which say so when they are decoded.

    Args:
      file: at its beginning.
      size: of the file.

    Example:
      >>> head = b"RIFF" + struct.pack("<I", 36) + b"WAVEdata" + struct.pack("<I", 8)
      >>> missing_bytes(io.BytesIO(head), len(head) + 2)
      6
    """
    if file.read(4) != b"RIFF" or len(file.read(4)) < 4 or file.read(4) != b"WAVE":
        return 0
    at = 12
    while at + 8 <= size:
        head = file.read(8)
        if len(head) < 8:
            return 0
        name, length = head[:4], struct.unpack("<I", head[4:])[0]
        at += 8
        if name == b"data":
            return 0 if length in _STREAMED else max(length - (size - at), 0)
        at += length + length % 2
        file.seek(at)
    return 0


def _soundfile() -> Any:
    if find_spec("soundfile") is None:
        raise MissingExtraError("soundfile", "reading audio files")
    import soundfile

    return soundfile


def _said(error: Exception) -> str:
    return str(error).strip().rstrip(".").split(": ")[-1][:120]
