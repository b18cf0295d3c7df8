"""What models of speech share: features with their masks, and convolutions over time that know of padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.taps import tap
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.models.layers import ACTIVATIONS, INITS, TAP_KINDS, LayerNorm, dense
from jaxprop.models.log_mel import Mel, log_mel, mel_of
from jaxprop.types import Spec

FIRST_BIAS = 0.1  # standard deviation of the biases of convolutions at the start


def expect_audio(spec: Spec, config: schema.Acoustic) -> tuple[Mel, int]:
    """Returns the features of a model and its number of tokens, the blank among them.

    Raises:
      ShapeError: the inputs are no audio.
      ConfigError: the window is shorter than the hop.

    Example:
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((8000,), jnp.float32)}, {"vocabulary": 9, "sample_rate": 8000})
      >>> expect_audio(spec, schema.Conformer(name="conformer"))[1]
      9
    """
    inputs, rate = spec.batch["inputs"], spec.sizes.get("sample_rate")
    if len(inputs.shape) != 1 or not jnp.issubdtype(inputs.dtype, jnp.floating) or rate is None:
        raise ShapeError(
            f"model {config.name} expected samples of audio [N] with their sample_rate, got {jnp.dtype(inputs.dtype)} "
            f"{list(inputs.shape)} an example; use model.name: rnn for other sequences of numbers"
        )
    if config.hop_ms > config.window_ms:
        raise ConfigError(
            f"model.hop_ms: expected at most window_ms ({config.window_ms:g}), got {config.hop_ms:g}: samples between "
            "two frames would not be read"
        )
    return mel_of(rate, config.window_ms, config.hop_ms, config.mels), spec.sizes["vocabulary"]


def features(
    samples: jax.Array,
    lengths: jax.Array | None,
    mel: Mel,
    masked_bands: jax.Array | None = None,
    masked_times: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns log-mel features `[B, T, M]`, 0 where a SpecAugment mask lies, and the number of frames `[B]`.

    Args:
      samples: audio `[B, N]`.
      lengths: number of samples that count, int `[B]`; None for all.
      mel: sizes.
      masked_bands: first band and the one after the last of each mask, as fractions of all, `[B, K, 2]`.
      masked_times: first sample and the one after the last of each mask, `[B, K, 2]`.

    Example:
      >>> features(jnp.ones((2, 1600)), None, Mel(16000, 400, 160, 40))[0].shape
      (2, 8, 40)
    """
    if lengths is None:
        lengths = jnp.full(samples.shape[0], samples.shape[1], jnp.int32)
    x, frames = log_mel(samples, lengths, mel)
    places = (jnp.arange(mel.bands, dtype=jnp.float32) + 0.5) / mel.bands
    times = jnp.arange(x.shape[1], dtype=jnp.float32) * mel.hop + mel.window / 2
    if masked_bands is not None:
        x = jnp.where(_inside(places, masked_bands)[:, None, :], 0, x)
    if masked_times is not None:
        x = jnp.where(_inside(times, masked_times)[:, :, None], 0, x)
    return x, frames


def _inside(places: jax.Array, masks: jax.Array) -> jax.Array:
    """Which of places `[n]` lie in any of masks `[B, K, 2]`: bool `[B, n]`."""
    masks = masks.astype(places.dtype)
    return jnp.any((places >= masks[..., :1]) & (places < masks[..., 1:]), 1)


def real_frames(x: jax.Array, frames: jax.Array) -> jax.Array:
    """Returns which frames of `x [B, T, ...]` are real, bool `[B, T]`.

    Example:
      >>> real_frames(jnp.zeros((1, 3, 2)), jnp.array([2])).tolist()
      [[True, True, False]]
    """
    return jnp.arange(x.shape[1], dtype=jnp.int32) < frames[:, None]


class TimeConv(nnx.Module):
    """Convolution over time, LayerNorm, activation; `name` is its tap's.

    As a product of the frames in its window with one matrix, which on CPU takes less time than a convolution. Frames
    after the last real one are read as zeros, as those before the first are, and the padding does not depend on the
    length, so that an example has the same outputs whatever it is padded to.

    Args:
      name: of its tap.
      n_in, n_out: channels.
      kernel: frames of its window, an odd number.
      stride: frames from one output to the next.
      activation, init: names.
      rngs: random streams.

    Example:
      >>> conv = TimeConv("conv", 3, 4, kernel=5, stride=2, activation="relu", init="he_normal", rngs=nnx.Rngs(0))
      >>> y, frames = conv(jnp.ones((2, 7, 3)), jnp.array([7, 5]))
      >>> y.shape, frames.tolist()
      ((2, 4, 4), [4, 3])
    """

    def __init__(
        self, name: str, n_in: int, n_out: int, *, kernel: int, stride: int, activation: str, init: str, rngs: nnx.Rngs
    ):
        self.name, self.kernel, self.stride = name, kernel, stride
        self.kind, self.activation = TAP_KINDS.get(activation, ""), ACTIVATIONS[activation]
        # Where a SpecAugment mask lies the window is zeros, and at a bias of 0 the norm there would multiply gradients
        # by 1 / sqrt(epsilon), 316: by 1e5 over two convolutions.
        self.dense = dense(
            kernel * n_in, n_out, INITS[init], rngs=rngs, bias_init=jax.nn.initializers.normal(FIRST_BIAS)
        )
        self.norm = LayerNorm(n_out)

    def __call__(self, x: jax.Array, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps `x [B, T, C]` with `frames [B]` real ones to `[B, ceil(T / stride), C']` and their number."""
        around = self.kernel // 2
        count = -(-x.shape[1] // self.stride)
        x = jnp.where(real_frames(x, frames)[..., None], x, 0)
        x = jnp.pad(x, ((0, 0), (around, around + self.stride), (0, 0)))
        ends = [i + (count - 1) * self.stride + 1 for i in range(self.kernel)]
        window = jnp.concatenate([x[:, i : end : self.stride] for i, end in enumerate(ends)], -1)
        y = tap(self.activation(self.norm(self.dense(window))), self.name, self.kind)
        return y, -(-frames // self.stride)
