"""Augmentations of audio: masks of bands and times, speed, and background noise. Pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprop.core.precision import wide
from jaxprop.data.augment.inputs import floats
from jaxprop.errors import ShapeError
from jaxprop.types import Batch


def spec_augment(
    key: jax.Array, batch: Batch, *, bands: int = 2, band_share: float = 0.2, times: int = 2, time_share: float = 0.1
) -> Batch:
    """Draws masks of mel bands and of stretches of time, which the model lays over its features.

    The width of a mask is uniform between 0 and its share, and its place is uniform. What lies under a mask becomes the
    mean of its band. Features are made inside the model, so that the masks are written into the batch.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, N]`, samples; if present, `input_lengths` `[B]`.
      bands: number of masks of bands.
      band_share: largest width of one, as a fraction of all bands.
      times: number of masks of time.
      time_share: largest length of one, as a fraction of the recording.

    Returns:
      The batch with `masked_bands` float32 `[B, bands, 2]`, fractions of all bands, and `masked_times` float32
      `[B, times, 2]`, in samples: where each mask begins, and where it ends.

    Raises:
      ShapeError: the inputs are no audio.

    Example:
      >>> found = spec_augment(jax.random.key(0), {"inputs": jnp.zeros((3, 800))})
      >>> found["masked_bands"].shape, found["masked_times"].shape
      ((3, 2, 2), (3, 2, 2))

    Reference:
      Park et al., SpecAugment, 2019. https://arxiv.org/abs/1904.08779
    """
    x, lengths = audio(batch, "spec_augment")
    first, second = jax.random.split(key)
    widths = _masks(first, (x.shape[0], bands), band_share)
    spans = _masks(second, (x.shape[0], times), time_share) * lengths.astype(jnp.float32)[:, None, None]
    return {**batch, "masked_bands": widths, "masked_times": spans}


def speed(key: jax.Array, batch: Batch, *, change: float = 0.1) -> Batch:
    """Plays each recording faster or slower, by linear interpolation: pitch and formants change with it.

        x_n <- x_(n r),   r ~ U(1 - change, 1 + change)

    A recording is slowed down by no more than what fits into the batch, so that nothing of it is cut off.

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, N]`, samples; `input_lengths` `[B]`.
      change: largest change of the rate, below 1.

    Returns:
      The batch with other inputs, and other `input_lengths`.

    Raises:
      ShapeError: the inputs are no audio.

    Example:
      >>> batch = {"inputs": jnp.ones((1, 1000)), "input_lengths": jnp.array([500])}
      >>> found = speed(jax.random.key(1), batch, change=0.2)
      >>> 400 < found["input_lengths"].item() < 640, found["inputs"].shape
      (True, (1, 1000))

    Reference:
      Ko et al., Audio Augmentation for Speech Recognition, 2015.
    """
    x, lengths = audio(batch, "speed")
    size, counts = x.shape[1], lengths.astype(jnp.float32)
    rate = 1 + change * jax.random.uniform(key, lengths.shape, jnp.float32, minval=-1, maxval=1)
    rate = jnp.maximum(rate, counts / size)
    after = jnp.minimum(jnp.floor(counts / rate), size).astype(jnp.int32)
    places = jnp.arange(size, dtype=jnp.float32) * rate[:, None]  # [B, N]
    left = jnp.floor(places)
    share = (places - left).astype(wide(x).dtype)
    at = jnp.minimum(left.astype(jnp.int32), size - 1)
    samples = wide(x)
    here = jnp.take_along_axis(samples, at, 1)
    there = jnp.take_along_axis(samples, jnp.minimum(at + 1, size - 1), 1)
    mixed = here + share * (there - here)
    real = jnp.arange(size, dtype=jnp.int32) < after[:, None]
    moved = jnp.where(real, mixed, 0).astype(x.dtype)
    return {**batch, "inputs": moved, "input_lengths": after.astype(lengths.dtype)}


def background_noise(
    key: jax.Array, batch: Batch, *, low: float = 10.0, high: float = 40.0, probability: float = 1.0
) -> Batch:
    """Adds white noise to recordings, at a signal-to-noise ratio of their own.

        x <- x + sqrt(mean(x^2) 10^(-s / 10)) z,   s ~ U(low, high) in dB,   z ~ N(0, 1)

    Args:
      key: a PRNG key.
      batch: `inputs` `[B, N]`, samples; if present, `input_lengths` `[B]`, after which nothing is added.
      low, high: signal-to-noise ratio in dB.
      probability: that noise is added to a recording.

    Returns:
      The batch with other inputs, of the same shape and dtype.

    Raises:
      ShapeError: the inputs are no audio.

    Example:
      >>> batch = {"inputs": jnp.ones((1, 1000)), "input_lengths": jnp.array([500])}
      >>> found = background_noise(jax.random.key(0), batch, low=20.0, high=20.0)["inputs"]
      >>> round(float(found[0, :500].std()), 2), float(found[0, 500:].std())
      (0.1, 0.0)
    """
    x, lengths = audio(batch, "background_noise")
    strength, chosen, drawn = jax.random.split(key, 3)
    samples = wide(x)
    real = jnp.arange(x.shape[1], dtype=jnp.int32) < lengths.astype(jnp.int32)[:, None]
    count = jnp.maximum(lengths, 1).astype(samples.dtype)
    power = jnp.where(real, jnp.square(samples), 0).sum(1) / count
    decibels = jax.random.uniform(strength, lengths.shape, samples.dtype, minval=low, maxval=high)
    scale = jnp.sqrt(power * jnp.power(jnp.asarray(10.0, samples.dtype), -decibels / 10))
    scale = jnp.where(jax.random.bernoulli(chosen, probability, lengths.shape), scale, 0)
    noisy = samples + scale[:, None] * jax.random.normal(drawn, x.shape, samples.dtype)
    return {**batch, "inputs": jnp.where(real, noisy, samples).astype(x.dtype)}


def audio(batch: Batch, name: str) -> tuple[jax.Array, jax.Array]:
    """Returns the samples of a batch `[B, N]` and how many of each recording count `[B]`.

    Args:
      batch: with `inputs`; if present, `input_lengths`.
      name: of the augmentation, for the message.

    Raises:
      ShapeError: the inputs are no audio.

    Example:
      >>> audio({"inputs": jnp.zeros((2, 3))}, "speed")[1].tolist()
      [3, 3]
    """
    x = floats(batch, name)
    if x.ndim != 2:
        raise ShapeError(f"{name} needs audio, inputs [B, N] of samples, got {list(x.shape)}; leave {name} out")
    lengths = batch.get("input_lengths")
    return x, jnp.full(x.shape[0], x.shape[1], jnp.int32) if lengths is None else jnp.asarray(lengths)


def _masks(key: jax.Array, shape: tuple[int, int], share: float) -> jax.Array:
    """Masks of a unit interval `[B, K, 2]`: their widths uniform up to a share, then their places."""
    wide_key, place = jax.random.split(key)
    width = share * jax.random.uniform(wide_key, shape, jnp.float32)
    start = (1 - width) * jax.random.uniform(place, shape, jnp.float32)
    return jnp.stack([start, start + width], -1)
