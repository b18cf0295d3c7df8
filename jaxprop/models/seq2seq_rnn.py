"""A recurrent network reads a text in both directions, and another writes a text with attention to it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.overrides import softmax_dtype
from jaxprop.core.taps import measuring, tap
from jaxprop.models.attention import masked_logit, softmax
from jaxprop.models.dropout import Dropout
from jaxprop.models.heads import head_logits
from jaxprop.models.layers import ACTIVATIONS, INITS, Embed, added, dense, expect_pairs, product, vocabulary
from jaxprop.models.recurrence import CELLS, STRETCHES
from jaxprop.models.remat import NONE, call, checkpointed
from jaxprop.models.rnn import BothWays, each_gate
from jaxprop.types import Spec


class Read(NamedTuple):
    """What is kept of a source: its states `[B, S, 2 H]`, their part of the attention's scores, and what is real."""

    states: jax.Array
    keys: jax.Array
    mask: jax.Array


class Attending(nnx.Module):
    """Recurrent layer that attends to a source in each step, with additive attention.

        a_s = softmax_s(v . tanh(W h + U m_s)),   c = sum_s a_s m_s,   h = cell([x, c], h)

    Its tap has a row for each stretch of time.

    Args:
      name: of its tap.
      config: sizes and initializers.
      rngs: random streams.
      remat: policy of rematerialization; its unit is a step of time.

    Reference:
      Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and Translate, 2015.
      https://arxiv.org/abs/1409.0473
    """

    def __init__(self, name: str, config: schema.Seq2SeqRnn, *, rngs: nnx.Rngs, remat: str = NONE):
        self.name, self.cell, self.remat = name, CELLS[config.cell], remat
        self.activation = ACTIVATIONS[config.activation]
        gates, width, init = self.cell.gates, config.width, INITS[config.init]
        recurrent_init = each_gate(INITS[config.recurrent_init], gates)
        self.input = dense(width, gates * width, init, rngs=rngs)
        self.context = dense(2 * width, gates * width, init, use_bias=False, rngs=rngs)
        self.recurrent = dense(width, gates * width, recurrent_init, rngs=rngs)
        self.query = dense(width, width, init, use_bias=False, rngs=rngs)
        self.key = dense(2 * width, width, init, rngs=rngs)
        self.score = dense(width, 1, init, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, source: Read, state: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Reads `x [B, T, D]` from a state `[B, H]`.

        Returns:
          The states `[B, T, H]`, the contexts `[B, T, 2 H]` and the shares of the source `[B, T, S]`.
        """
        projected = self.input(x).swapaxes(0, 1)  # [T, B, gates H]
        time = len(projected)
        stretches = min(STRETCHES, time)
        context_kernel, query_kernel = self.context.kernel[...], self.query.kernel[...]
        assert self.recurrent.bias is not None
        kernel, bias = self.recurrent.kernel[...], self.recurrent.bias[...]
        dtype = softmax_dtype(projected.dtype)

        def step(hidden: jax.Array, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[jax.Array, Any]:
            x, t = inputs
            mixed = jnp.tanh(product(hidden, query_kernel)[:, None] + source.keys)  # [B, S, H]
            scores = product(mixed, self.score.kernel[...])[..., 0]
            scores = jnp.where(source.mask, scores.astype(dtype), masked_logit(dtype))
            shares = softmax(scores).astype(hidden.dtype)  # [B, S]
            context = jnp.einsum("bs,bsd->bd", shares, source.states)
            (hidden,) = self.cell.step(
                (hidden,),
                x + product(context, context_kernel),
                lambda h: added(product(h, kernel), bias),
                self.activation,
            )
            if t is not None:
                hidden = tap(hidden, self.name, "", (t * stretches // time, stretches))
            return hidden, (hidden, context, shares)

        times = jnp.arange(time, dtype=jnp.int32) if measuring() else None
        _, outputs = jax.lax.scan(checkpointed(step, self.remat, in_scan=True), state, (projected, times))
        states, contexts, shares = (y.swapaxes(0, 1) for y in outputs)
        return states, contexts, shares


class Seq2SeqRnn(nnx.Module):
    """Bidirectional GRU over a source, and a GRU with additive attention to it that writes the target.

    The first state of the writer is `tanh(W m)` of the state that the backward direction ends with. A token is written
    from the writer's state, what it attends to, and the token before. Padding of the source leaves the states of the
    reader as they were and is not attended to, so that a text has the same output whatever its batch is padded to.

    Args:
      config: the section `model` of the configuration. `init` is of the dense kernels; embeddings start
        standard normal.
      spec: tokens `[S]` as `inputs` and `[T]` as `targets`, and their `vocabulary` V.
      rngs: random streams.
      remat: policy of rematerialization; its unit is a step of time.

    Raises:
      ShapeError: the data are no pairs of texts.

    Example:
      >>> tokens = {"inputs": jax.ShapeDtypeStruct((8,), jnp.int32), "targets": jax.ShapeDtypeStruct((5,), jnp.int32)}
      >>> config = schema.Seq2SeqRnn(name="seq2seq_rnn", width=4)
      >>> model = Seq2SeqRnn(config, Spec(tokens, {"vocabulary": 11}), rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 8), jnp.int32), jnp.zeros((2, 5), jnp.int32)).shape
      (2, 5, 11)

    Reference:
      Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and Translate, 2015.
      https://arxiv.org/abs/1409.0473
    """

    def __init__(self, config: schema.Seq2SeqRnn, spec: Spec, *, rngs: nnx.Rngs, remat: str = NONE):
        expect_pairs(spec, "seq2seq_rnn")
        tokens, width, init = vocabulary(spec, "seq2seq_rnn"), config.width, INITS[config.init]
        self.embed = Embed(tokens, width, stddev=1.0, rngs=rngs)
        self.dropout = Dropout(config.dropout, rngs=rngs)
        sizes = [width, *[2 * width] * (config.layers - 1)]
        readers = [BothWays(f"encoder/{i}", n, config, rngs=rngs, remat=remat) for i, n in enumerate(sizes)]
        self.encoder = nnx.List(readers)
        self.start = dense(width, width, init, rngs=rngs)
        self.decoder = Attending("decoder", config, rngs=rngs, remat=remat)
        self.mix = dense(4 * width, width, init, rngs=rngs)
        self.head = dense(width, tokens, init, rngs=rngs)

    def __call__(self, tokens: jax.Array, targets: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps a source `[B, S]` and what was written of the target `[B, T]` to logits of the next token `[B, T, V]`.

        Args:
          tokens: of the source.
          targets: the token for the beginning, and those of the target but for the last.
          mask: boolean `[B, S]`, which tokens of the source are real; None for all.
        """
        source, state = self.read(tokens, mask)
        x = self.dropout(call(self.embed, NONE, "embed_target", targets))
        states, contexts, _ = call(self.decoder, NONE, "decoder", x, source, state)
        return self._logits(x, states, contexts)

    def read(self, tokens: jax.Array, mask: jax.Array | None = None, length: int = 0) -> tuple[Read, jax.Array]:
        """Returns what is kept of a source `[B, S]`, and the state `[B, H]` before the first token of a target.

        Args:
          tokens: of the source.
          mask: as of `__call__`.
          length: not looked at; a state has no need of room.
        """
        del length
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask
        # A token outside the vocabulary gives NaN.
        x = self.dropout(call(self.embed, NONE, "embed_source", jnp.where(mask, tokens, 0)))
        for layer in self.encoder:
            x = self.dropout(call(layer, NONE, layer.name, x, mask))
        first = jnp.split(x[:, 0], 2, -1)[1]  # the backward direction has read all of the source here
        with jax.named_scope("start"):
            return Read(x, self.decoder.key(x), mask), jnp.tanh(self.start(first))

    def extend(self, tokens: jax.Array, source: Read, held: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps further tokens of the target `[B, t]` to logits `[B, t, V]`, going on from the state `held`.

        Args:
          tokens: of the target.
          source: from `read`.
          held: the state after the tokens before; from `read` at first.
          start: not looked at.

        Returns:
          The logits, and the state after the tokens.
        """
        del start
        x = self.embed(tokens)
        states, contexts, _ = self.decoder(x, source, held)
        return self._logits(x, states, contexts), states[:, -1]

    def attend(self, tokens: jax.Array, targets: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns how much each token of the target attends to each of the source, `[B, T, S]`."""
        source, state = self.read(tokens, mask)
        return self.decoder(self.embed(targets), source, state)[2]

    def _logits(self, x: jax.Array, states: jax.Array, contexts: jax.Array) -> jax.Array:
        with jax.named_scope("head"):
            mixed = tap(jnp.tanh(self.mix(jnp.concatenate([x, states, contexts], -1))), "mix", "tanh")
            return head_logits(self.dropout(mixed), self.head)
