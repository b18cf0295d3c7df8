"""Log-mel features of audio: part of a model, so that what is exported takes samples. Pure."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.precision import wide_dtype

FLOOR = 1e-6  # added to the energy of a band, far below that of speech; the logarithm of silence is finite
EVEN = 1e-2  # added to the deviation of a band, so that silence is not blown up


class Mel(NamedTuple):
    """What log-mel features are made of.

    Args:
      rate: samples a second.
      window: samples of a frame.
      hop: samples from one frame to the next.
      bands: number of mel bands, M.
    """

    rate: int
    window: int
    hop: int
    bands: int

    @property
    def points(self) -> int:
        """Points of the Fourier transform: the next power of two."""
        return 2 ** math.ceil(math.log2(self.window))


def mel_of(rate: int, window_ms: float, hop_ms: float, bands: int) -> Mel:
    """Returns the features of a sample rate, with window and hop in ms.

    Example:
      >>> mel_of(16000, 25.0, 10.0, 80)
      Mel(rate=16000, window=400, hop=160, bands=80)
    """
    return Mel(rate, max(round(rate * window_ms / 1000), 2), max(round(rate * hop_ms / 1000), 1), bands)


def frames_of(lengths: jax.Array, mel: Mel) -> jax.Array:
    """Returns the number of whole frames of so many samples.

    Example:
      >>> frames_of(jnp.array([399, 400, 560]), Mel(16000, 400, 160, 80)).tolist()
      [0, 1, 2]
    """
    lengths = lengths.astype(jnp.int32)
    return jnp.where(lengths < mel.window, 0, 1 + (lengths - mel.window) // mel.hop)


def log_mel(samples: jax.Array, lengths: jax.Array, mel: Mel) -> tuple[jax.Array, jax.Array]:
    """Log energies of mel bands, standardized over the frames of each example.

        x_tm = log(sum_f W_fm |FFT(w * s_t)|_f^2 + FLOOR),   y_tm = (x_tm - mean_t(x_tm)) / (std_t(x_tm) + EVEN)

    w is a Hann window, s_t the t-th frame, and W triangles that are evenly spaced on the mel scale. Only whole frames
    inside the length of an example count, so that what it is padded with changes nothing.

    Args:
      samples: audio `[B, N]`, in -1..1.
      lengths: number of samples that count, int `[B]`.
      mel: sizes.

    Returns:
      Features `[B, T, M]` in float32 or wider, 0 after the last real frame; and the number of real frames, int32 `[B]`.

    Example:
      >>> features, frames = log_mel(jnp.zeros((1, 1600)), jnp.array([800]), Mel(16000, 400, 160, 40))
      >>> features.shape, frames.tolist()
      ((1, 8, 40), [3])
    """
    samples = samples.astype(wide_dtype(samples.dtype))
    dtype = samples.dtype
    framed = _framed(samples, mel) * jnp.asarray(_hann(mel.window), dtype)
    spectrum = jnp.fft.rfft(framed, mel.points)
    energy = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    bands = jnp.einsum("btf,fm->btm", energy, jnp.asarray(triangles(mel), dtype), precision="highest")
    x = jnp.log(bands + FLOOR)
    frames = frames_of(lengths, mel)
    real = (jnp.arange(x.shape[1], dtype=jnp.int32) < frames[:, None])[..., None]
    share = 1 / jnp.maximum(frames, 1).astype(dtype)[:, None, None]  # see `attention.softmax`
    centred = jnp.where(real, x - jnp.where(real, x, 0).sum(1, keepdims=True) * share, 0)
    spread = jnp.sqrt(jnp.square(centred).sum(1, keepdims=True) * share)
    return centred * (1 / (spread + EVEN)), frames


def _framed(samples: jax.Array, mel: Mel) -> jax.Array:
    """Frames `[B, T, window]`, of slices that lie a hop apart: a gather takes far longer on CPU."""
    batch, length = samples.shape
    count = max(1 + (length - mel.window) // mel.hop, 1)
    parts = -(-mel.window // mel.hop)
    wanted = (count + parts - 1) * mel.hop
    samples = jnp.pad(samples, ((0, 0), (0, max(wanted - length, 0))))[:, :wanted]
    hops = samples.reshape(batch, count + parts - 1, mel.hop)
    return jnp.concatenate([hops[:, i : i + count] for i in range(parts)], -1)[..., : mel.window]


def _hann(size: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


@cache
def triangles(mel: Mel) -> np.ndarray:
    """Returns the weights of frequencies in bands, `[points / 2 + 1, M]`, each band's peak 1, on the scale of HTK.

    Example:
      >>> triangles(Mel(16000, 400, 160, 40)).shape
      (257, 40)
    """
    frequencies = np.arange(mel.points // 2 + 1) * mel.rate / mel.points
    top = 2595 * np.log10(1 + mel.rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, mel.bands + 2) / 2595) - 1)
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies[:, None] - low) / (peak - low), (high - frequencies[:, None]) / (high - peak)
    return np.maximum(np.minimum(rising, falling), 0)
