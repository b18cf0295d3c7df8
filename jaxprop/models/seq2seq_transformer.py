"""Encoder and decoder of transformer blocks: a text is read, and another one written from it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.errors import ShapeError
from jaxprop.models.attention import KeysAndValues
from jaxprop.models.blocks import Block, DecoderBlock, expect_heads, normalization
from jaxprop.models.dropout import Dropout
from jaxprop.models.heads import head_logits
from jaxprop.models.layers import INITS, Embed, added, dense, expect_pairs, tied, vocabulary
from jaxprop.models.remat import NONE, call
from jaxprop.models.stack import apply_layers
from jaxprop.types import Spec


class Read(NamedTuple):
    """What is kept of a source: keys and values for each block of the decoder, and which positions are real."""

    blocks: tuple[KeysAndValues, ...]
    mask: jax.Array


class Seq2SeqTransformer(nnx.Module):
    """Encoder-decoder transformer over tokens of one vocabulary: pre-LN, rotary or learned positions.

    Each token of the source attends to all of it; each of the target attends to those before it and to the source.
    Padding of the source is not attended to, and padding of the target comes after all that counts, so that a text has
    the same output whatever its batch is padded to.

    Args:
      config: the section `model` of the configuration. Initial values and dropout are as of `Transformer`.
      spec: tokens `[S]` as `inputs` and `[T]` as `targets`, and their `vocabulary` V.
      rngs: random streams.
      remat: policy of rematerialization; its unit is a block.

    Raises:
      ShapeError: the data are no pairs of texts, or longer than learned positions reach.
      ConfigError: the heads do not divide the width into even parts, or those of keys and values the heads.

    Example:
      >>> tokens = {"inputs": jax.ShapeDtypeStruct((8,), jnp.int32), "targets": jax.ShapeDtypeStruct((5,), jnp.int32)}
      >>> config = schema.Seq2SeqTransformer(name="seq2seq_transformer", layers=1, width=8, heads=2)
      >>> model = Seq2SeqTransformer(config, Spec(tokens, {"vocabulary": 11}), rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 8), jnp.int32), jnp.zeros((2, 5), jnp.int32)).shape
      (2, 5, 11)

    Reference:
      Vaswani et al., Attention Is All You Need, 2017. https://arxiv.org/abs/1706.03762
    """

    def __init__(self, config: schema.Seq2SeqTransformer, spec: Spec, *, rngs: nnx.Rngs, remat: str = NONE):
        lengths = expect_pairs(spec, "seq2seq_transformer")
        expect_heads(config, config.positions)
        self.remat = remat
        tokens, width, rope = vocabulary(spec, "seq2seq_transformer"), config.width, config.positions == "rope"
        self.embed = Embed(tokens, width, stddev=0.02, rngs=rngs)
        learned = None if rope else nnx.List([Embed(n, width, stddev=0.02, rngs=rngs) for n in lengths])
        self.positions = learned
        self.dropout = Dropout(config.dropout, rngs=rngs)
        encoding = partial(Block, config=config, causal=False, rope=rope, rngs=rngs)
        decoding = partial(DecoderBlock, config=config, rope=rope, rngs=rngs)
        self.encoder = nnx.List([encoding(f"encoder/{i}") for i in range(config.layers)])
        self.encoder_norm = normalization(config)
        self.decoder = nnx.List([decoding(f"decoder/{i}") for i in range(config.layers)])
        self.final_norm = normalization(config)
        head = partial(dense, width, tokens, INITS[config.init], use_bias=False, rngs=rngs)
        self.head = None if config.tie_embeddings else head()

    def __call__(self, tokens: jax.Array, targets: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps a source `[B, S]` and what was written of the target `[B, T]` to logits of the next token `[B, T, V]`.

        Args:
          tokens: of the source.
          targets: the token for the beginning, and those of the target but for the last.
          mask: boolean `[B, S]`, which tokens of the source are real; None for all.
        """
        source = self.encode(tokens, mask)
        x = self.dropout(self._embedded(targets, 1, "embed_target"))
        x = apply_layers(self.decoder, self.remat, x, source, mask)
        x = call(self.final_norm, NONE, "final_norm", x)
        with jax.named_scope("head"):
            return head_logits(x, self.embed if self.head is None else self.head)

    def encode(self, tokens: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps the source `[B, S]` to `[B, S, D]`."""
        if mask is not None:
            tokens = jnp.where(mask, tokens, 0)  # a token outside the vocabulary gives NaN
        x = self.dropout(self._embedded(tokens, 0, "embed_source"))
        x = apply_layers(self.encoder, self.remat, x, mask)
        return call(self.encoder_norm, NONE, "encoder_norm", x)

    def read(self, tokens: jax.Array, mask: jax.Array | None, length: int) -> tuple[Read, tuple[KeysAndValues, ...]]:
        """Returns what is kept of a source, and room for what is kept of `length` tokens of a target."""
        source = self.encode(tokens, mask)
        kept = tuple(block.cross.read(source) for block in self.decoder)
        room = tuple(block.attn.room(tokens.shape[0], length, source.dtype) for block in self.decoder)
        return Read(kept, jnp.ones(tokens.shape, bool) if mask is None else mask), room

    def extend(
        self, tokens: jax.Array, source: Read, held: tuple[KeysAndValues, ...], start: jax.Array
    ) -> tuple[jax.Array, tuple[KeysAndValues, ...]]:
        """Maps further tokens of the target `[B, t]` to logits `[B, t, V]`, without reading those before again.

        Args:
          tokens: at positions `start..start + t - 1`.
          source: from `read`.
          held: what each block has kept of the tokens before; from `read` at first.
          start: how many tokens were read, an int32 scalar.

        Returns:
          The logits, and what each block keeps.
        """
        x = self.embed(tokens)
        if self.positions is not None:
            x = added(x, jax.lax.dynamic_slice_in_dim(self.positions[1].embedding[...], start, tokens.shape[1]))
        kept = []
        for block, read, before in zip(self.decoder, source.blocks, held, strict=True):
            x, after = block.extend(x, read, source.mask, before, start)
            kept.append(after)
        return self._logits(self.final_norm(x)), tuple(kept)

    def attend(self, tokens: jax.Array, targets: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns how much each token of the target attends to each of the source, `[B, T, S]`.

        The mean over heads and blocks.
        """
        source = self.encode(tokens, mask)
        x, shares = self._embedded(targets, 1, "embed_target"), []
        for block in self.decoder:
            shares.append(block.shares(x, source, mask))
            x = block(x, source, mask)
        total: Any = sum(shares)
        return total / len(shares)

    def _embedded(self, tokens: jax.Array, side: int, scope: str) -> jax.Array:
        x = call(self.embed, NONE, scope, tokens)  # [B, T, D]
        if self.positions is None:
            return x
        table = self.positions[side].embedding[...]
        if tokens.shape[1] > len(table):
            raise ShapeError(
                f"expected at most {len(table)} tokens, the learned positions of this model, got {tokens.shape[1]}; "
                "use positions: rope for longer texts"
            )
        return added(x, table[: tokens.shape[1]])

    def _logits(self, x: jax.Array) -> jax.Array:
        return tied(x, self.embed) if self.head is None else self.head(x)
