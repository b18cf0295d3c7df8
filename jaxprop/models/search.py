"""Writing a text from what a model says of the next token: greedily, or by beam search. Pure; all sizes are fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprop.core.precision import wide
from jaxprop.types import PyTree

PENALTY = 0.6  # of lengths, as in Wu et al.
# (tokens [N], held, at) -> (logits [N, V] of the next token, held); `at` tokens were written before this one
Step = Callable[[jax.Array, PyTree, jax.Array], tuple[jax.Array, PyTree]]


class Written(NamedTuple):
    """Texts that were written.

    Args:
      tokens: int32 `[B, T]`, or `[B, K, T]` with the best first; the token for the end, and behind it the same.
      log_probability: of all tokens up to the end, `[B]` or `[B, K]`; -inf where there are fewer than K texts.
    """

    tokens: jax.Array
    log_probability: jax.Array


def length_penalty(length: jax.Array | int, penalty: float) -> jax.Array:
    """Returns what a log-probability is divided by, so that long texts are not at a disadvantage.

        lp(n) = ((5 + n) / 6)^penalty

    Args:
      length: n, the number of tokens with that for the end.
      penalty: 0 compares by probability alone.

    Example:
      >>> float(length_penalty(7, 1.0))
      2.0

    Reference:
      Wu et al., Google's Neural Machine Translation System, 2016, equation 14. https://arxiv.org/abs/1609.08144
    """
    return ((5 + jnp.asarray(length, jnp.float32)) / 6) ** penalty


def greedy(step: Step, held: PyTree, *, size: int, length: int, begin: int, end: int) -> Written:
    """Writes the likeliest token each time, until all texts have ended.

    Args:
      step: what the model says of the next token.
      held: what it keeps before the first token, a tree of arrays `[B, ...]`.
      size: B.
      length: T, largest number of tokens.
      begin: the token before the first.
      end: the token after the last.

    Returns:
      Tokens `[B, T]`; a text without an end fills all of them.

    Example:
      >>> logits = jnp.log(jnp.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]))  # by the token before
      >>> written = greedy(lambda last, held, at: (logits[last], held), (), size=1, length=4, begin=0, end=0)
      >>> written.tokens.tolist(), round(float(jnp.exp(written.log_probability[0])), 3)
      ([[2, 1, 0, 0]], 0.448)
    """

    def going_on(carry: tuple) -> jax.Array:
        at, _, _, ended, *_ = carry
        return (at < length) & ~jnp.all(ended)

    def write(carry: tuple) -> tuple:
        at, last, tokens, ended, total, held = carry
        logits, held = step(last, held, at)
        shares = jax.nn.log_softmax(wide(logits), -1)
        likeliest = jnp.argmax(shares, -1).astype(jnp.int32)
        gained = jnp.take_along_axis(shares, likeliest[:, None], -1)[:, 0].astype(total.dtype)
        likeliest, total = jnp.where(ended, end, likeliest), jnp.where(ended, total, total + gained)
        tokens = jax.lax.dynamic_update_slice(tokens, likeliest[:, None], (0, at))
        return at + 1, likeliest, tokens, ended | (likeliest == end), total, held

    first = jnp.full(size, begin, jnp.int32), jnp.full((size, length), end, jnp.int32), jnp.zeros(size, bool)
    carry = (jnp.int32(0), *first, jnp.zeros(size, jnp.float32), held)
    _, _, tokens, _, total, _ = jax.lax.while_loop(going_on, write, carry)
    return Written(tokens, total)


def repeated(tree: PyTree, beams: int) -> PyTree:
    """Returns each entry of arrays `[B, ...]` K times, `[B K, ...]`, as beams take them.

    Example:
      >>> repeated(jnp.array([3, 4]), 2).tolist()
      [3, 3, 4, 4]
    """
    return jax.tree.map(lambda x: jnp.repeat(x, beams, 0, total_repeat_length=x.shape[0] * beams), tree)


class _Beams(NamedTuple):
    """The search after some tokens: the K best texts that go on, and the K best that have ended."""

    at: jax.Array
    last: jax.Array  # [B, K]
    tokens: jax.Array  # [B, K, T]
    total: jax.Array  # [B, K]
    ended: jax.Array  # [B, K, T]
    ended_total: jax.Array  # [B, K]
    ended_score: jax.Array  # [B, K]
    held: PyTree


def beam_search(
    step: Step, held: PyTree, *, size: int, beams: int, length: int, begin: int, end: int, penalty: float = PENALTY
) -> Written:
    """Writes the K texts y of the largest score among those that a search with K beams meets.

        score(y) = log P(y) / lp(|y|)

    Before each token there are the K likeliest texts that go on, by log P, and the K texts of the largest score that
    have ended. The search is over at T tokens, or as soon as nothing that goes on can still enter the K that have
    ended: at best it stays as likely as it is until T. With as many beams as there are texts it is exhaustive.

    Args:
      step: what the model says of the next token, for N = B K texts, those of one example side by side.
      held: what it keeps before the first token, a tree of arrays `[B K, ...]`; see `repeated`.
      size: B.
      beams: K.
      length: T, largest number of tokens.
      begin: the token before the first.
      end: the token after the last.
      penalty: of lengths, at least 0.

    Returns:
      Tokens `[B, K, T]`, the largest score first. A text without an end fills all T places.

    Example:
      >>> logits = jnp.log(jnp.array([[0.1, 0.5, 0.4], [0.4, 0.3, 0.3], [0.98, 0.01, 0.01]]))  # by the token before
      >>> search = lambda beams: beam_search(
      ...     lambda last, held, at: (logits[last], held), (), size=1, beams=beams, length=3, begin=0, end=0
      ... )
      >>> search(2).tokens.tolist()
      [[[2, 0, 0], [1, 0, 0]]]

    Reference:
      Wu et al., Google's Neural Machine Translation System, 2016. https://arxiv.org/abs/1609.08144
    """

    def going_on(b: _Beams) -> jax.Array:
        reachable = b.total.max(1) / length_penalty(length, penalty)
        return (b.at < length) & jnp.any(reachable > b.ended_score.min(1))

    def write(b: _Beams) -> _Beams:
        logits, held = step(b.last.reshape(-1), b.held, b.at)
        shares = jax.nn.log_softmax(wide(logits), -1).reshape(size, beams, -1).astype(jnp.float32)
        total = b.total[..., None] + shares  # [B, K, V]
        vocabulary = total.shape[-1]
        # The places behind a text that goes on hold the token for the end already.
        ended = _best_ended(b, b.tokens, total[..., end], length_penalty(b.at + 1, penalty))
        open_total = total.at[..., end].set(-jnp.inf).reshape(size, -1)
        total, places = jax.lax.top_k(open_total, beams)
        parents, last = places // vocabulary, (places % vocabulary).astype(jnp.int32)
        tokens = jnp.take_along_axis(b.tokens, parents[..., None], 1)
        tokens = jax.lax.dynamic_update_slice(tokens, last[..., None], (0, 0, b.at))
        rows = (jnp.arange(size, dtype=parents.dtype)[:, None] * beams + parents).reshape(-1)
        held = jax.tree.map(lambda x: jnp.take(x, rows, axis=0), held)
        return ended._replace(at=b.at + 1, last=last, tokens=tokens, total=total, held=held)

    blank = jnp.full((size, beams, length), end, jnp.int32)
    nothing = jnp.full((size, beams), -jnp.inf, jnp.float32)
    # All beams begin alike, so only the first of them counts.
    first = nothing.at[:, 0].set(0)
    last = jnp.full((size, beams), begin, jnp.int32)
    over = jax.lax.while_loop(going_on, write, _Beams(jnp.int32(0), last, blank, first, blank, nothing, nothing, held))
    # Texts of T tokens count without an end; those of a search that was over before are none.
    whole = jnp.where(over.at == length, over.total, -jnp.inf)
    over = _best_ended(over, over.tokens, whole, length_penalty(length, penalty))
    return Written(over.ended, over.ended_total)


def _best_ended(b: _Beams, tokens: jax.Array, total: jax.Array, penalty: jax.Array) -> _Beams:
    """Keeps the K best of the texts that have ended before and of further ones, `[B, K, T]` and `[B, K]`."""
    totals = jnp.concatenate([b.ended_total, total], 1)
    scores, places = jax.lax.top_k(jnp.concatenate([b.ended_score, total / penalty], 1), b.ended_score.shape[1])
    kept = jnp.take_along_axis(jnp.concatenate([b.ended, tokens], 1), places[..., None], 1)
    return b._replace(ended=kept, ended_total=jnp.take_along_axis(totals, places, 1), ended_score=scores)
