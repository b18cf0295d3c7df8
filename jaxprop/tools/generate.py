"""Generates text with a trained language model, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.config.widths import base_of
from jaxprop.core.overrides import cast_params, computing
from jaxprop.errors import UsageError
from jaxprop.models.decoding import Decoder, make_decoder
from jaxprop.run.adapted import merged_run
from jaxprop.run.loaded import LoadedRun
from jaxprop.run.precision import policy_of

BUCKET = 64  # a prompt is padded to a multiple of it, so that prompts of many lengths share a compiled program


class Sampling(NamedTuple):
    """How a token is drawn from the logits.

    Args:
      temperature: what logits are divided by; 0 takes the likeliest token.
      top_k: draw among the k likeliest tokens; None for all.
      top_p: draw among the likeliest tokens that together have at least this probability; 1 for all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0


def sample(logits: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    """Draws a token of each row of logits. Pure.

    Args:
      logits: `[B, V]`.
      key: PRNG key.
      sampling: how.

    Returns:
      Tokens int32 `[B]`.

    Example:
      >>> sample(jnp.array([[0.0, 2.0, 1.0]]), jax.random.key(0), Sampling(temperature=0)).tolist()
      [1]

    Reference:
      Fan et al., Hierarchical Neural Story Generation, 2018 (top k); Holtzman et al., The Curious Case of Neural Text
      Degeneration, 2019 (top p).
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits, -1).astype(jnp.int32)
    logits = logits.astype(jnp.float32) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, sampling.top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p < 1:
        ordered = jnp.sort(logits, -1, descending=True)
        shares = jax.nn.softmax(ordered, -1)
        before = jnp.cumsum(shares, axis=-1) - shares  # of the tokens that are likelier
        least = jnp.min(jnp.where(before < sampling.top_p, ordered, jnp.inf), -1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits, -1).astype(jnp.int32)


class Writer:
    """Reads a prompt and goes on writing.

    Args:
      run: from `jaxprop.load`; of the task `language`.
      sampling: how tokens are drawn.

    Raises:
      UsageError: the run is of another task, or its model writes no text.
    """

    def __init__(self, run: LoadedRun, sampling: Sampling):
        run = merged_run(run)
        opened = run.opened
        if opened.config.task.name != "language":
            raise UsageError(
                f"{run.folder.name} was trained for the task {opened.config.task.name}, which writes no text; "
                f"use jaxprop predict {run.folder}"
            )
        spec = opened.experiment.task.spec
        self.context = int(spec.batch["inputs"].shape[0])
        self.vocabulary = int(spec.sizes["vocabulary"])
        config = opened.config
        self._decoder = make_decoder(config.model, spec, config.precision.quantize, base_of(config))
        computes = policy_of(opened.config)
        self._params = cast_params(run.params, computes)
        self._extras, self._sampling = run.extras, sampling
        self._room = computing(computes)(self._decoder.room)
        self._read = jax.jit(computing(computes)(partial(_read, self._decoder, sampling)))
        self._next = jax.jit(computing(computes)(partial(_next, self._decoder, sampling)), donate_argnums=(3,))

    def tokens(self, prompt: np.ndarray, count: int, seed: int) -> Iterator[int]:
        """Yields tokens that follow a prompt.

        Where the text grows beyond the context that the model was trained with, its second half is read again, and goes
        on from there.

        Args:
          prompt: int `[P]`, at least one token.
          count: number of tokens.
          seed: of the draws.

        Raises:
          UsageError: the prompt is longer than the context.
        """
        if len(prompt) > self.context:
            raise UsageError(
                f"the prompt has {len(prompt)} tokens, and the model was trained with a context of {self.context}; "
                "shorten it"
            )
        key, text = jax.random.key(seed), [int(token) for token in prompt]
        held, length = None, 0
        for i in range(count):
            drawn = jax.random.fold_in(key, i)
            if held is None or length >= self.context:
                # What is read again leaves half of the context free, so that it is not read for each token.
                text = text if len(text) <= self.context and held is None else text[-(self.context // 2) :]
                token, held = self._read_all(text, drawn)
                length = len(text)
            else:
                token, held = self._next(
                    self._params, self._extras, jnp.int32(text[-1]), held, jnp.int32(length), drawn
                )
                length += 1
            text.append(int(token))
            yield text[-1]

    def _read_all(self, text: list[int], key: jax.Array) -> tuple[jax.Array, Any]:
        room = min(-(-len(text) // BUCKET) * BUCKET, self.context)
        padded = np.zeros(room, np.int32)
        padded[: len(text)] = text
        held = self._room(self._params, self._extras, 1, self.context)
        return self._read(self._params, self._extras, padded[None], held, jnp.int32(len(text)), key)


def _read(
    decoder: Decoder, sampling: Sampling, params: Any, extras: Any, tokens: jax.Array, held: Any, length: Any, key: Any
) -> tuple[jax.Array, Any]:
    """Reads a padded prompt; draws what follows its last real token. A transformer overwrites what padding has left."""
    if not _keeps_positions(held):
        # The state of a recurrent layer must not take padding in, so it is read token by token.
        def one(carry: Any, token: jax.Array) -> tuple[Any, jax.Array]:
            held, at = carry
            logits, after = decoder.extend(params, extras, token[None, None], held, at)
            held = jax.tree.map(lambda new, old: jnp.where(at < length, new, old), after, held)
            return (held, at + 1), logits[:, -1]

        (held, _), logits = jax.lax.scan(one, (held, jnp.int32(0)), tokens[0])
        return sample(jax.lax.dynamic_index_in_dim(logits, length - 1, 0, keepdims=False), key, sampling)[0], held
    logits, held = decoder.extend(params, extras, tokens, held, jnp.int32(0))
    return sample(jax.lax.dynamic_index_in_dim(logits, length - 1, 1, keepdims=False), key, sampling)[0], held


def _next(
    decoder: Decoder, sampling: Sampling, params: Any, extras: Any, token: Any, held: Any, length: Any, key: Any
) -> tuple[jax.Array, Any]:
    logits, held = decoder.extend(params, extras, token[None, None], held, length)
    return sample(logits[:, -1], key, sampling)[0], held


def _keeps_positions(held: Any) -> bool:
    """Whether what is kept has a place for each position, so that later tokens write over padding."""
    return all(leaf.ndim == 4 for leaf in jax.tree.leaves(held))


def write(
    run: LoadedRun, prompt: str, count: int, *, sampling: Sampling, seed: int = 0, tokenizer: Any
) -> Iterator[str]:
    """Yields the text that follows a prompt, piece by piece.

    Args:
      run: from `jaxprop.load`.
      prompt: text; an empty one starts at the beginning of a text.
      count: number of tokens.
      sampling: how they are drawn.
      seed: of the draws.
      tokenizer: of the run.

    Raises:
      UsageError: the run writes no text, or the prompt is too long.
    """
    writer = Writer(run, sampling)
    encoded = tokenizer.encode([prompt])[0]
    start = np.asarray(encoded, np.int64) if len(encoded) else np.array([tokenizer.begin])
    return _pieces(writer.tokens(start, count, seed), tokenizer.decode, encoded.tolist())


def _pieces(tokens: Iterator[int], decode: Callable[[list[int]], str], prompt: Sequence[int]) -> Iterator[str]:
    """Text as soon as it is whole: a character may take several tokens.

    Each token is decoded together with those before it, because a tokenizer writes the first token of a text
    differently: without the space before it.
    """
    held = [int(token) for token in prompt]
    begins, told = 0, len(held)  # text is decoded from `begins` on, and has been told up to `told`
    before = decode(held)
    for token in tokens:
        held.append(token)
        text = decode(held[begins:])
        if len(text) > len(before) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(before) :]
            begins, told = told, len(held)
            before = decode(held[begins:])
    if rest := decode(held[begins:])[len(before) :]:
        yield rest
