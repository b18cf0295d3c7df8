"""Transformer over tokens: a decoder with an output for every token, or an encoder with one for a sequence."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.overrides import computed_dtype
from jaxprop.core.placing import BATCH, place
from jaxprop.core.taps import tap
from jaxprop.errors import ShapeError
from jaxprop.models.attention import KeysAndValues
from jaxprop.models.blocks import Block, expect_heads, normalization
from jaxprop.models.dropout import Dropout
from jaxprop.models.heads import head_logits
from jaxprop.models.layers import (
    INITS,
    Embed,
    added,
    answers,
    dense,
    each_token,
    is_integer,
    mean_over,
    tied,
    vocabulary,
)
from jaxprop.models.remat import NONE, call
from jaxprop.models.stack import apply_layers
from jaxprop.types import Spec


class Transformer(nnx.Module):
    """Transformer over tokens: pre-LN or post-LN, rotary or learned positions.

    With a `vocabulary` alone in the spec's sizes it is a decoder: causal, and with logits of the next token at each
    position. With `classes` or `targets` it is an encoder: each token attends to all, and the mean over the tokens, or
    the first of them, gives one output a sequence. Padding, where the batch has a `mask` or `lengths`, is not attended
    to and not part of that mean, so that a sequence has the same output whatever its batch is padded to.

    Args:
      config: the section `model` of the configuration. `init` is of the dense kernels; those that end a
        residual branch start 1/sqrt(2 L) as large, and embeddings start normal(0.02), as in GPT-2.
        Dropout acts on the embeddings and on each residual branch, not on attention weights.
      spec: tokens `[T]` as `inputs`; their `vocabulary` V; `classes` or `targets` K where a sequence has one answer.
      rngs: random streams.
      remat: policy of rematerialization; its unit is a block.

    Raises:
      ShapeError: the inputs are no tokens, or longer than learned positions reach.
      ConfigError: the heads do not divide the width into even parts, or those of keys and values the heads.

    Example:
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((16,), jnp.int32)}, {"vocabulary": 256})
      >>> config = schema.Transformer(name="transformer", layers=1, width=8, heads=2)
      >>> tokens = jnp.zeros((2, 16), jnp.int32)
      >>> nnx.eval_shape(lambda: Transformer(config, spec, rngs=nnx.Rngs(0))(tokens)).shape
      (2, 16, 256)

    Reference:
      Radford et al., Language Models are Unsupervised Multitask Learners, 2019; Devlin et al., BERT, 2018.
    """

    def __init__(self, config: schema.Transformer, spec: Spec, *, rngs: nnx.Rngs, remat: str = NONE):
        _expect_tokens(spec)
        expect_heads(config, config.positions)
        self.remat, self.each_token = remat, each_token(spec)
        tokens, (time,) = vocabulary(spec, "transformer"), spec.batch["inputs"].shape
        self.embed = Embed(tokens, config.width, stddev=0.02, rngs=rngs)
        learned = config.positions == "learned"
        self.positions = Embed(time, config.width, stddev=0.02, rngs=rngs) if learned else None
        kinds, post = config.token_types, config.norm_order == "post"
        self.types = Embed(kinds, config.width, stddev=0.02, rngs=rngs) if kinds else None
        self.embed_norm = normalization(config) if post else None
        self.dropout = Dropout(config.dropout, rngs=rngs)
        causal = self.each_token if config.causal is None else config.causal
        block = partial(Block, config=config, causal=causal, rope=config.positions == "rope", post=post, rngs=rngs)
        self.blocks = nnx.List([block(f"blocks/{i}") for i in range(config.layers)])
        self.final_norm = None if post else normalization(config)
        first = not self.each_token and config.pool == "first"
        self.pooler = dense(config.width, config.width, INITS[config.init], rngs=rngs) if first else None
        outputs, tied = tokens if self.each_token else answers(spec, "transformer"), config.tie_embeddings
        head = partial(dense, config.width, outputs, INITS[config.init], use_bias=not self.each_token, rngs=rngs)
        self.head = None if self.each_token and tied else head()

    def __call__(
        self, tokens: jax.Array, mask: jax.Array | None = None, token_types: jax.Array | None = None
    ) -> jax.Array:
        """Maps tokens `[B, T]` to logits `[B, T, V]`, or to `[B, K]` without what `mask [B, T]` leaves out.

        Args:
          tokens: the tokens.
          mask: which of them are read, where a sequence has one output.
          token_types: the type of each, `[B, T]`; None for 0.
        """
        if self.each_token:
            mask = None  # it is of the labels: a prompt without them is read all the same
        if mask is not None:
            tokens = jnp.where(mask, tokens, 0)  # a token outside the vocabulary gives NaN
        x = call(self.embed, NONE, "embed", tokens)  # [B, T, D]
        if self.positions is not None:
            x = added(x, _first_rows(self.positions.embedding[...], tokens.shape[1]))
        x = self._normalized(x, token_types)
        x = place(self.dropout(x), BATCH, "sequence", None)
        x = apply_layers(self.blocks, self.remat, x, mask)
        if self.final_norm is not None:
            x = call(self.final_norm, NONE, "final_norm", x)
        with jax.named_scope("head"):
            if self.each_token:
                return head_logits(x, self.embed if self.head is None else self.head)
            assert self.head is not None
            return tap(self.head(self._pooled(x, mask)), "head", "output")

    def _normalized(self, x: jax.Array, types: jax.Array | None) -> jax.Array:
        """Embedded tokens with those of their types, and normalized where normalization comes after the sums."""
        if self.types is not None:
            x = added(x, self.types.embedding[...][0] if types is None else self.types(types))
        return x if self.embed_norm is None else call(self.embed_norm, NONE, "embed_norm", x)

    def _pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """What the output of a sequence is computed from, `[B, D]`."""
        if self.pooler is None:
            return mean_over(x, mask)
        return self.dropout(jnp.tanh(self.pooler(x[:, 0])))

    def room(self, size: int, length: int) -> tuple[KeysAndValues, ...]:
        """Returns room for what each block keeps of `length` tokens of `size` sequences."""
        dtype = computed_dtype(self.embed.embedding[...].dtype)
        return tuple(block.attn.room(size, length, dtype) for block in self.blocks)

    def extend(self, tokens: jax.Array, held: tuple[KeysAndValues, ...], start: jax.Array) -> tuple[jax.Array, Any]:
        """Maps further tokens `[B, t]` to logits `[B, t, V]`, without reading those before again.

        Args:
          tokens: at positions `start..start + t - 1`.
          held: what each block has kept of those before; from `room` at first.
          start: how many tokens were read, an int32 scalar.

        Returns:
          The logits, and what each block keeps.
        """
        x = self.embed(tokens)
        if self.positions is not None:
            x = added(x, jax.lax.dynamic_slice_in_dim(self.positions.embedding[...], start, tokens.shape[1]))
        x = self._normalized(x, None)
        kept = []
        for block, before in zip(self.blocks, held, strict=True):
            x, after = block.extend(x, before, start)
            kept.append(after)
        x = x if self.final_norm is None else self.final_norm(x)
        return tied(x, self.embed) if self.head is None else self.head(x), tuple(kept)


def _first_rows(table: jax.Array, time: int) -> jax.Array:
    if time > table.shape[0]:
        raise ShapeError(
            f"expected at most {table.shape[0]} tokens, the learned positions of this model, got {time}; "
            "use positions: rope for longer texts"
        )
    return table[:time]


def _expect_tokens(spec: Spec) -> None:
    inputs = spec.batch["inputs"]
    if len(inputs.shape) != 1 or not is_integer(inputs.dtype):
        raise ShapeError(
            f"model transformer expected integer tokens [T], got {jnp.dtype(inputs.dtype)} {list(inputs.shape)} an "
            "example; for images use model.name: vit, for other floats mlp or rnn"
        )
