"""Convolutions and bidirectional LSTM layers over audio, with an output a frame for CTC."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.overrides import computed_dtype
from jaxprop.core.taps import tap
from jaxprop.errors import ConfigError
from jaxprop.models.dropout import Dropout
from jaxprop.models.layers import INITS, dense
from jaxprop.models.remat import NONE, call
from jaxprop.models.rnn import BothWays
from jaxprop.models.speech import TimeConv, expect_audio, features, real_frames
from jaxprop.types import Spec


class ConvBilstm(nnx.Module):
    """Log-mel features, convolutions over time with strides, bidirectional LSTM layers, one output a frame.

    An example has the same outputs whatever it is padded to: features count whole frames inside its length, the
    convolutions read zeros after them, and the LSTM layers keep their states there.

    Args:
      config: the section `model` of the configuration.
      spec: samples `[N]` as `inputs`; the sizes `vocabulary` V, with the blank, and `sample_rate`.
      rngs: random streams.
      remat: policy of rematerialization; its unit is a convolution, and a step of time of the LSTM layers.

    Raises:
      ShapeError: the inputs are no audio.
      ConfigError: there is not one stride for each convolution.

    Example:
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((8000,), jnp.float32)}, {"vocabulary": 9, "sample_rate": 8000})
      >>> audio = jnp.zeros((2, 8000))
      >>> config = schema.ConvBilstm(name="conv_bilstm", channels=(8, 8), width=8)
      >>> outputs = nnx.eval_shape(lambda: ConvBilstm(config, spec, rngs=nnx.Rngs(0))(audio))
      >>> outputs["logits"].shape, outputs["lengths"].shape
      ((2, 25, 9), (2,))

    Reference:
      Amodei et al., Deep Speech 2, 2015. https://arxiv.org/abs/1512.02595
    """

    def __init__(self, config: schema.ConvBilstm, spec: Spec, *, rngs: nnx.Rngs, remat: str = NONE):
        if len(config.strides) != len(config.channels):
            raise ConfigError(
                f"model.strides: expected one for each of the {len(config.channels)} convolutions, got "
                f"{len(config.strides)}"
            )
        self.remat = remat
        self.mel, outputs = expect_audio(spec, config)
        sizes = itertools.pairwise([config.mels, *config.channels])
        self.convs = nnx.List([
            TimeConv(
                f"convs/{i}", n_in, n_out, kernel=config.kernel, stride=stride, activation=config.activation,
                init=config.init, rngs=rngs,
            )
            for i, ((n_in, n_out), stride) in enumerate(zip(sizes, config.strides, strict=True))
        ])  # fmt: skip
        recurrent = schema.Rnn.model_validate({"name": "rnn", "cell": "lstm", "width": config.width})
        widths = [config.channels[-1], *[2 * config.width] * (config.layers - 1)]
        self.layers = nnx.List([
            BothWays(f"layers/{i}", n_in, recurrent, rngs=rngs, remat=remat) for i, n_in in enumerate(widths)
        ])  # fmt: skip
        self.dropout = Dropout(config.dropout, rngs=rngs)
        self.head = dense(2 * config.width, outputs, INITS["glorot_uniform"], rngs=rngs)

    def __call__(
        self,
        samples: jax.Array,
        input_lengths: jax.Array | None = None,
        masked_bands: jax.Array | None = None,
        masked_times: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Maps `samples [B, N]` to logits `[B, T, V]` and the number of real frames among these `[B]`."""
        with jax.named_scope("features"):
            x, frames = features(samples, input_lengths, self.mel, masked_bands, masked_times)
        x = x.astype(computed_dtype(self.head.kernel[...].dtype))
        for conv in self.convs:
            x, frames = call(conv, self.remat, conv.name, x, frames)
            x = self.dropout(x)
        real = real_frames(x, frames)
        x = jnp.where(real[..., None], x, 0)
        for layer in self.layers:
            x = self.dropout(call(layer, NONE, layer.name, x, real))
        with jax.named_scope("head"):
            return {"logits": tap(self.head(x), "head", "output"), "lengths": frames}
