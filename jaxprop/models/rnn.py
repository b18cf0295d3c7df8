"""Recurrent networks: Elman, GRU, LSTM."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from jaxprop.config.schema import model as schema
from jaxprop.core.forms import traced_for
from jaxprop.core.overrides import computed_dtype
from jaxprop.core.placing import divided
from jaxprop.core.taps import measuring, tap
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.models.cudnn_lstm import FEWEST_UNITS, cudnn_lstm, has_cudnn_lstm
from jaxprop.models.dropout import Dropout
from jaxprop.models.heads import head_logits
from jaxprop.models.layers import (
    ACTIVATIONS,
    INITS,
    TAP_KINDS,
    Embed,
    Initializer,
    answers,
    as_numbers,
    dense,
    each_token,
    is_integer,
    mean_over,
    vocabulary,
)
from jaxprop.models.lstm import NARROWEST, SHORTEST, Weights, lstm
from jaxprop.models.recurrence import CELLS, Tapped, recur
from jaxprop.models.remat import NONE, call
from jaxprop.types import Spec

Recurrence = schema.Rnn | schema.Seq2SeqRnn


class RnnLayer(nnx.Module):
    """One recurrent layer over time; the input's projections are one product outside the scan.

    Its tap has a row for each stretch of time: how the gradient fares on its way back. With `reverse` it reads the
    sequence from its end.
    """

    def __init__(
        self, name: str, n_in: int, config: Recurrence, *, rngs: nnx.Rngs, remat: str = NONE, reverse: bool = False
    ):
        self.name, self.cell, self.remat, self.reverse = name, CELLS[config.cell], remat, reverse
        # Only the Elman cell's state is an activation; those of the others are mixtures.
        self.kind = TAP_KINDS.get(config.activation, "") if config.cell == "elman" else ""
        self.activation = ACTIVATIONS[config.activation]
        gates, width = self.cell.gates, config.width
        # an LSTM that starts by remembering learns long dependencies sooner (Jozefowicz et al., 2015)
        bias_init = _forget_bias if config.cell == "lstm" else initializers.zeros
        self.input = dense(n_in, gates * width, INITS[config.init], bias_init=bias_init, rngs=rngs)
        recurrent_init = each_gate(INITS[config.recurrent_init], gates)
        self.recurrent = dense(width, gates * width, recurrent_init, use_bias=config.cell == "gru", rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps `x [B, T, D]` to hidden states `[B, T, H]`; where `mask [B, T]` is False the state is kept as it was."""
        return self.extend(x, None, mask)[0]

    def extend(self, x: jax.Array, carry: Any, mask: jax.Array | None = None) -> tuple[jax.Array, Any]:
        """Goes on from the state `carry` that an earlier stretch of the sequence has left, None at its beginning.

        Returns:
          The hidden states `[B, T, H]`, and the state after them.
        """
        kernel, timed = self.recurrent.kernel[...], None if mask is None else mask.T
        loop = self._loop(x, mask)
        if loop is not None:
            assert self.input.bias is not None, "the layer is made with one"
            carry = (jnp.zeros((x.shape[0], kernel.shape[0]), x.dtype),) * 2 if carry is None else carry
            weights = Weights(self.input.kernel[...], kernel, self.input.bias[...])
            carry, hidden = loop(self.reverse, weights, x.swapaxes(0, 1), carry, timed)
            return hidden.swapaxes(0, 1), carry
        projected = self.input(x).swapaxes(0, 1)  # [T, B, gates H]
        if carry is None:
            carry = (jnp.zeros((x.shape[0], kernel.shape[0]), projected.dtype),) * self.cell.carries
        carry, hidden = recur(
            self.cell,
            self.activation,
            kernel,
            None if self.recurrent.bias is None else self.recurrent.bias[...],
            projected,
            carry,
            timed,
            tapped=Tapped(self.name, self.kind),
            reverse=self.reverse,
            remat=self.remat,
        )
        return hidden.swapaxes(0, 1), carry

    def _loop(self, x: jax.Array, mask: jax.Array | None) -> Callable[..., Any] | None:
        """The LSTM's own loop of the platform, if it is exactly this layer: it takes no mesh, and knows no taps."""
        weights = self.input.kernel[...], self.recurrent.kernel[...]
        if (
            self.cell is not CELLS["lstm"]
            or self.activation is not jnp.tanh
            or self.remat != NONE  # whoever asks for rematerialization wants the least memory
            or not all(isinstance(size, int) for size in x.shape)  # an exported program takes any number of examples
            or x.shape[1] < SHORTEST
            or any(each.dtype != jnp.float32 for each in (x, *weights))
            # Whoever has this layer's call for itself, as quantization has, has given it a class of its own.
            or type(self.input) is not nnx.Linear
            or measuring()
            or divided()
        ):
            return None
        if traced_for() == "cpu" and x.shape[0] >= NARROWEST:
            return lstm
        wide = traced_for() == "gpu" and weights[1].shape[0] >= FEWEST_UNITS
        return cudnn_lstm if wide and mask is None and has_cudnn_lstm() else None


class BothWays(nnx.Module):
    """Two recurrent layers that read a sequence in opposite directions; their states lie side by side.

    Reference:
      Schuster and Paliwal, Bidirectional Recurrent Neural Networks, 1997.
    """

    def __init__(self, name: str, n_in: int, config: Recurrence, *, rngs: nnx.Rngs, remat: str = NONE):
        self.name = name
        self.forward = RnnLayer(f"{name}/forward", n_in, config, rngs=rngs, remat=remat)
        self.backward = RnnLayer(f"{name}/backward", n_in, config, rngs=rngs, remat=remat, reverse=True)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps `x [B, T, D]` to hidden states `[B, T, 2 H]`."""
        directions = (("forward", self.forward), ("backward", self.backward))
        return jnp.concatenate([call(layer, NONE, scope, x, mask) for scope, layer in directions], -1)


def _forget_bias(_: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    width = shape[0] // 4
    return jnp.zeros(shape, dtype).at[width : 2 * width].set(1)


def each_gate(init: Initializer, gates: int) -> Initializer:
    """Returns an initializer that draws the kernel of each gate of a recurrence by itself.

    Example:
      >>> each_gate(initializers.orthogonal(), 3)(jax.random.key(0), (4, 12), jnp.float32).shape
      (4, 12)
    """

    def init_gates(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
        each = (shape[0], shape[1] // gates)
        return jnp.concatenate([init(k, each, dtype) for k in jax.random.split(key, gates)], 1)

    return init_gates


class Rnn(nnx.Module):
    """Recurrent network: one output for a sequence, or one for each token where the next token is asked for.

    Padding, where the batch has a `mask` or `lengths`, leaves the states as they were, so that a sequence has the same
    output whatever its batch is padded to.

    Args:
      config: the section `model` of the configuration. `init` is of the dense kernels; embeddings start
        standard normal.
      spec: `inputs` are integer tokens `[T]`, which are embedded; or floats `[T]` (D = 1), or numbers `[T, D]` or
        `[H, W, C]`, read row by row. With `classes` or `targets` there is one answer an example; with a `vocabulary`
        alone, one a token.
      rngs: random streams.
      remat: policy of rematerialization; its unit is a step of time.

    Raises:
      ShapeError: the inputs are no sequence, or integers without a vocabulary.
      ConfigError: both directions are to be read where the next token is asked for.

    Example:
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((16,), jnp.int32)}, {"vocabulary": 256})
      >>> tokens = jnp.zeros((2, 16), jnp.int32)
      >>> nnx.eval_shape(lambda: Rnn(schema.Rnn(name="rnn"), spec, rngs=nnx.Rngs(0))(tokens)).shape
      (2, 16, 256)

    Reference:
      Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; Cho et al., 2014 (GRU, in the variant of
      cuDNN, which resets after the product); Elman, Finding Structure in Time, 1990.
    """

    def __init__(self, config: schema.Rnn, spec: Spec, *, rngs: nnx.Rngs, remat: str = NONE):
        inputs, width = spec.batch["inputs"], config.width
        shape = inputs.shape
        if len(shape) not in (1, 2, 3):
            raise ShapeError(
                f"model rnn expected tokens [T], or numbers [T, D] or [H, W, C], got {inputs.dtype} "
                f"{list(shape)} an example; use model.name: mlp"
            )
        self.tokens = len(shape) == 1 and is_integer(inputs.dtype)
        self.each_token = self.tokens and each_token(spec)
        if self.each_token and config.bidirectional:
            raise ConfigError(
                "model.bidirectional: a layer that reads backwards has seen the next token, which is to be predicted; "
                "write bidirectional: false"
            )
        self.bidirectional, self.pool = config.bidirectional, config.pool
        outputs = vocabulary(spec, "rnn") if self.each_token else answers(spec, "rnn")
        if self.tokens:
            self.embed = Embed(vocabulary(spec, "rnn"), width, stddev=1.0, rngs=rngs)
        make, n_out = (BothWays, 2 * width) if config.bidirectional else (RnnLayer, width)
        sizes = [width if self.tokens else math.prod(shape[1:]), *[n_out] * (config.layers - 1)]
        layers = [make(f"layers/{i}", n, config, rngs=rngs, remat=remat) for i, n in enumerate(sizes)]
        self.layers = nnx.List(layers)
        self.dropout = Dropout(config.dropout, rngs=rngs)
        self.head = dense(n_out, outputs, INITS[config.init], rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps tokens `[B, T]` or numbers `[B, T, ...]` to `[B, K]`; tokens of a language to `[B, T, V]`.

        Where one answer is asked for, what `mask [B, T]` leaves out is not read.
        """
        if self.each_token:
            mask = None  # it is of the labels: a prompt without them is read all the same
        if not self.tokens:
            x = as_numbers(x, self.head.kernel[...]).reshape(*x.shape[:2], -1)
        if mask is not None:
            x = jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, 0)  # a NaN there would reach gradients
        x = call(self.embed, NONE, "embed", x) if self.tokens else x  # [B, T, D]
        for layer in self.layers:
            x = self.dropout(call(layer, NONE, layer.name, x, mask))
        with jax.named_scope("head"):
            if self.each_token:
                return head_logits(x, self.head)
            return tap(self.head(self._pooled(x, mask)), "head", "output")

    def room(self, size: int, length: int) -> tuple[Any, ...]:
        """Returns the states of the layers before the first token, for `size` sequences of any length."""
        del length
        first = self.layers[0]
        assert isinstance(first, RnnLayer), "a layer of both directions reads no language"
        cell, kernel = first.cell, first.recurrent.kernel[...]
        return ((jnp.zeros((size, kernel.shape[0]), computed_dtype(kernel.dtype)),) * cell.carries,) * len(self.layers)

    def extend(self, tokens: jax.Array, held: tuple[Any, ...], start: jax.Array) -> tuple[jax.Array, Any]:
        """Maps further tokens `[B, t]` to logits `[B, t, V]`, going on from the states `held`.

        Returns:
          The logits, and the states after them.
        """
        del start
        x, kept = self.embed(tokens), []
        for layer, before in zip(self.layers, held, strict=True):
            assert isinstance(layer, RnnLayer)
            x, after = layer.extend(x, before)
            kept.append(after)
        return self.head(x), tuple(kept)

    def _pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """States `[B, T, H]` to `[B, H]`. The last real state has been kept through the padding after it."""
        if self.pool == "mean":
            return mean_over(x, mask)
        if not self.bidirectional:
            return x[:, -1]
        forward, backward = jnp.split(x, 2, -1)
        return jnp.concatenate([forward[:, -1], backward[:, 0]], -1)
