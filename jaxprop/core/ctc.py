"""Connectionist temporal classification: likelihood, alignment and decoding, in log space. Pure.

A model gives logits for every frame, over the tokens and the blank, which is token 0. A path is one token a frame; it
stands for the labels that are left when runs of one token are taken once and blanks are removed: `a a - a b` is `aab`.

Outputs of a model for CTC are `{"logits": [B, T, V], "lengths": [B]}`; the lengths are numbers of real frames.

Reference:
  Graves et al., Connectionist Temporal Classification, 2006.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

BLANK = 0
NEVER = -1e30  # log of the probability 0: finite, so that no gradient is NaN


class Decoded(NamedTuple):
    """Tokens that were read from the outputs of a batch.

    Args:
      tokens: int32 `[B, T]`, padded with 0.
      size: number of tokens, int32 `[B]`.
      first: frame at which each token begins, int32 `[B, T]`.
      last: the frame after its end, int32 `[B, T]`.
      log_prob: of the best path for `greedy`, and of the tokens for `beam`, `[B]`.
    """

    tokens: jax.Array
    size: jax.Array
    first: jax.Array
    last: jax.Array
    log_prob: jax.Array


def frames_needed(labels: jax.Array, label_lengths: jax.Array) -> jax.Array:
    """Returns the smallest number of frames that labels can be aligned to, int32 `[B]`.

    Each label needs a frame, and two equal ones in a row need a blank between them.

    Args:
      labels: int `[B, L]`.
      label_lengths: int `[B]`.

    Example:
      >>> frames_needed(jnp.array([[1, 1, 2], [3, 0, 0]]), jnp.array([3, 1])).tolist()
      [4, 1]
    """
    label_lengths = _counts(label_lengths)
    inside = jnp.arange(1, labels.shape[1], dtype=jnp.int32) < label_lengths[:, None]
    repeated = jnp.sum((labels[:, 1:] == labels[:, :-1]) & inside, 1, dtype=jnp.int32)
    return label_lengths + repeated


def log_likelihood(
    log_probs: jax.Array, lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log-likelihood of labels, summed over all paths that stand for them.

        log p(y | x) = log sum_{paths of y} prod_t p_t(path_t)

    With the labels interleaved with blanks, s = (-, y_1, -, y_2, ..., -), the sum is a recursion over frames:
    a_t(s) = p_t(s) (a_{t-1}(s) + a_{t-1}(s - 1) + a_{t-1}(s - 2)), the last term only where s is a label other than
    the one before it.

    Args:
      log_probs: log-probabilities `[B, T, V]`.
      lengths: number of frames that count, int `[B]`.
      labels: int `[B, L]`, in `1..V-1`; what comes after their lengths is not read.
      label_lengths: int `[B]`.

    Returns:
      The log-likelihood `[B]`, 0 where labels need more frames than there are; and whether they do not, bool `[B]`.

    Example:
      >>> uniform = jnp.log(jnp.full((1, 2, 2), 0.5))
      >>> value, fits = log_likelihood(uniform, jnp.array([2]), jnp.array([[1]]), jnp.array([1]))
      >>> round(float(jnp.exp(value[0])), 4), fits.tolist()  # three of the four paths: 1 -, - 1 and 1 1
      (0.75, [True])
    """
    lengths, label_lengths = _counts(lengths), _counts(label_lengths)
    states, skips = _states(labels)
    emitted = jnp.take_along_axis(log_probs, states[:, None, :], 2).swapaxes(0, 1)  # [T, B, S]

    def step(alpha: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        t, here = inputs
        one, two = _shifted(alpha, 1), jnp.where(skips, _shifted(alpha, 2), NEVER)
        total = jnp.logaddexp(jnp.logaddexp(alpha, one), two) + here
        return jnp.where((t < lengths)[:, None], total, alpha), None

    # before the first frame all is in a state of its own, from which the first blank and the first label are reached
    alpha = jnp.where(jnp.arange(states.shape[1]) < 2, emitted[0], NEVER)
    times = jnp.arange(1, log_probs.shape[1], dtype=jnp.int32)
    alpha, _ = jax.lax.scan(step, alpha, (times, emitted[1:]))
    ends = 2 * label_lengths[:, None]
    last = jnp.take_along_axis(alpha, ends, 1)[:, 0]
    before = jnp.where(label_lengths > 0, jnp.take_along_axis(alpha, jnp.maximum(ends - 1, 0), 1)[:, 0], NEVER)
    fits = frames_needed(labels, label_lengths) <= lengths
    return jnp.where(fits & (lengths > 0), jnp.logaddexp(last, before), 0), fits


def align(log_probs: jax.Array, lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array) -> jax.Array:
    """Returns the likeliest path that stands for labels, as the place of the label that each frame belongs to.

    Args:
      log_probs, lengths, labels, label_lengths: as of `log_likelihood`.

    Returns:
      int32 `[B, T]`: k for a frame of the k-th label, counted from 0; -1 for a blank, and where nothing counts.

    Example:
      >>> log_probs = jnp.log(jnp.array([[[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]]))
      >>> align(log_probs, jnp.array([3]), jnp.array([[1, 2]]), jnp.array([2])).tolist()
      [[-1, 0, 1]]
    """
    lengths, label_lengths = _counts(lengths), _counts(label_lengths)
    states, skips = _states(labels)
    emitted = jnp.take_along_axis(log_probs, states[:, None, :], 2).swapaxes(0, 1)

    def forward(best: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        t, here = inputs
        ways = jnp.stack([best, _shifted(best, 1), jnp.where(skips, _shifted(best, 2), NEVER)])  # [3, B, S]
        real = (t < lengths)[:, None]
        chosen = jnp.where(real, jnp.argmax(ways, 0).astype(jnp.int32), 0)
        return jnp.where(real, ways.max(0) + here, best), chosen

    best = jnp.where(jnp.arange(states.shape[1]) < 2, emitted[0], NEVER)
    times = jnp.arange(1, log_probs.shape[1], dtype=jnp.int32)
    best, chosen = jax.lax.scan(forward, best, (times, emitted[1:]))
    ends = 2 * label_lengths
    pair = jnp.stack([ends, jnp.maximum(ends - 1, 0)], 1)
    end = jnp.take_along_axis(pair, jnp.argmax(jnp.take_along_axis(best, pair, 1), 1)[:, None], 1)[:, 0]

    def backward(state: jax.Array, steps: jax.Array) -> tuple[jax.Array, jax.Array]:
        before = state - jnp.take_along_axis(steps, state[:, None], 1)[:, 0]
        return before, before

    _, path = jax.lax.scan(backward, end, chosen, reverse=True)
    path = jnp.concatenate([path, end[None]]).T  # [B, T]
    counts = (jnp.arange(path.shape[1], dtype=jnp.int32) < lengths[:, None]) & (
        frames_needed(labels, label_lengths) <= lengths
    )[:, None]
    return jnp.where(counts & (path % 2 == 1), path // 2, -1).astype(jnp.int32)


def greedy(log_probs: jax.Array, lengths: jax.Array) -> Decoded:
    """Reads the likeliest token of each frame, runs of one token once, and no blanks.

    Args:
      log_probs: log-probabilities `[B, T, V]`.
      lengths: number of frames that count, int `[B]`.

    Example:
      >>> path = jnp.array([[1, 1, 0, 1, 2, 2]])
      >>> found = greedy(jnp.log(jax.nn.one_hot(path, 3) + 1e-6), jnp.array([6]))
      >>> found.tokens[0, :3].tolist(), found.first[0, :3].tolist(), found.last[0, :3].tolist()
      ([1, 1, 2], [0, 3, 4], [2, 4, 6])
    """
    lengths, times = _counts(lengths), jnp.arange(log_probs.shape[1], dtype=jnp.int32)
    real = times < lengths[:, None]
    path = jnp.where(real, jnp.argmax(log_probs, -1).astype(jnp.int32), BLANK)
    begins = (path != BLANK) & (path != _shifted(path, 1, BLANK))
    place = jnp.cumsum(begins, axis=1, dtype=jnp.int32) - 1
    found = spans(jnp.where(path != BLANK, place, -1))
    tokens = _put(jnp.where(begins, place, -1), path)
    likeliest = jnp.where(real, log_probs.max(-1), 0).sum(1)
    return Decoded(tokens, begins.sum(1, dtype=jnp.int32), *found, likeliest)


def beam(log_probs: jax.Array, lengths: jax.Array, size: int) -> Decoded:
    """Reads the likeliest tokens by prefix beam search, which adds up the paths of each prefix.

    A prefix that is written in two ways, by extending another and by staying, is one hypothesis. With a size that no
    frame's prefixes exceed, the answer is exact.

    Args:
      log_probs: log-probabilities `[B, T, V]`.
      lengths: number of frames that count, int `[B]`.
      size: number of prefixes kept at each frame.

    Example:
      >>> log_probs = jnp.log(jnp.array([[[0.6, 0.4], [0.6, 0.4]]]))  # the path of two blanks has 0.36, "1" has 0.64
      >>> greedy(log_probs, jnp.array([2])).size.tolist(), beam(log_probs, jnp.array([2]), 2).size.tolist()
      ([0], [1])

    Reference:
      Hannun et al., First-Pass Large Vocabulary Continuous Speech Recognition, 2014. https://arxiv.org/abs/1408.2873
    """
    tokens, count, log_prob = jax.vmap(partial(_beam, size=size))(log_probs, _counts(lengths))
    return Decoded(tokens, count, *spans(align(log_probs, lengths, tokens, count)), log_prob)


def spans(places: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the first frame of each token and the one after its last, int32 `[B, T]`; 0 for tokens without any.

    Args:
      places: of the token that each frame belongs to, int `[B, T]`; -1 is none.

    Example:
      >>> [x.tolist() for x in spans(jnp.array([[-1, 0, 0, 1]]))]
      [[[1, 3, 0, 0]], [[3, 4, 0, 0]]]
    """
    times = jnp.broadcast_to(jnp.arange(places.shape[1], dtype=jnp.int32), places.shape)
    begins = (places >= 0) & (places != _shifted(places, 1, -1))
    ends = (places >= 0) & (places != jnp.pad(places, ((0, 0), (0, 1)), constant_values=-1)[:, 1:])
    return _put(jnp.where(begins, places, -1), times), _put(jnp.where(ends, places, -1), times + 1)


class _Prefixes(NamedTuple):
    tokens: jax.Array  # [K, T]
    size: jax.Array  # [K]
    blank: jax.Array  # [K], log of the probability of all paths of the prefix that end with a blank
    token: jax.Array  # [K], and of those that end with its last token


def _beam(log_probs: jax.Array, length: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    time, vocabulary = log_probs.shape
    nothing = jnp.full(size, NEVER, log_probs.dtype)
    held = _Prefixes(
        jnp.zeros((size, time), jnp.int32), jnp.zeros(size, jnp.int32), nothing.at[0].set(0), nothing
    )  # fmt: skip

    def step(held: _Prefixes, inputs: tuple[jax.Array, jax.Array]) -> tuple[_Prefixes, None]:
        t, here = inputs
        new = _extended(held, here, vocabulary)
        return jax.tree.map(lambda a, b: jnp.where(t < length, a, b), new, held), None

    held, _ = jax.lax.scan(step, held, (jnp.arange(time, dtype=jnp.int32), log_probs))
    total = jnp.logaddexp(held.blank, held.token)
    best = jnp.argmax(total)
    return held.tokens[best], held.size[best], total[best]


def _extended(held: _Prefixes, here: jax.Array, vocabulary: int) -> _Prefixes:
    width, time = held.tokens.shape
    places, beams = jnp.arange(time, dtype=jnp.int32), jnp.arange(width)
    known = jnp.arange(vocabulary, dtype=jnp.int32)
    total = jnp.logaddexp(held.blank, held.token)
    ends = jnp.maximum(held.size - 1, 0)
    last = jnp.where(held.size > 0, held.tokens[beams, ends], BLANK)
    # a token after itself needs a blank between the two
    after = jnp.where(known == last[:, None], held.blank[:, None], total[:, None]) + here
    after = after.at[:, BLANK].set(NEVER)  # [K, V]
    # prefix j is prefix i with one token more, so that extending i by that token is no new prefix
    parents = jnp.where(places == ends[:, None], BLANK, held.tokens)
    same = jnp.all(parents[None] == held.tokens[:, None], -1) & (held.size[None] == held.size[:, None] + 1)
    same &= (total > NEVER / 2)[:, None] & (total > NEVER / 2)[None]  # [i, j]
    joined = jax.nn.logsumexp(jnp.where(same, after[:, last], NEVER), 0)
    taken = jnp.any(same[:, :, None] & (last[None, :, None] == known), 1)
    after = jnp.where(taken, NEVER, after)
    stays = jnp.where(held.size > 0, held.token + here[last], NEVER)
    blank, token = total + here[BLANK], jnp.logaddexp(stays, joined)

    scores = jnp.concatenate([jnp.logaddexp(blank, token), after.reshape(-1)])
    best, chosen = jax.lax.top_k(scores, width)
    grows = chosen >= width
    of = jnp.where(grows, (chosen - width) // vocabulary, chosen)
    added = jnp.where(grows, (chosen - width) % vocabulary, BLANK).astype(jnp.int32)
    tokens, count = held.tokens[of], held.size[of]
    tokens = jnp.where(grows[:, None] & (places == count[:, None]), added[:, None], tokens)
    return _Prefixes(
        tokens,
        count + grows.astype(jnp.int32),
        jnp.where(grows, NEVER, blank[of]),
        jnp.where(grows, best, token[of]),
    )


def _states(labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Labels with blanks around them `[B, 2 L + 1]`, and which of these may follow the one two before."""
    batch, length = labels.shape
    states = jnp.full((batch, 2 * length + 1), BLANK, jnp.int32).at[:, 1::2].set(labels.astype(jnp.int32))
    return states, (states != BLANK) & (states != _shifted(states, 2, BLANK))


def _counts(x: jax.Array) -> jax.Array:
    return jnp.asarray(x).astype(jnp.int32)


def _shifted(x: jax.Array, by: int, fill: float | int = NEVER) -> jax.Array:
    return jnp.pad(x, ((0, 0), (by, 0)), constant_values=fill)[:, : x.shape[1]]


def _put(places: jax.Array, values: jax.Array) -> jax.Array:
    """Values `[B, T]` at their places, 0 elsewhere; a place of -1 is none."""
    batch, time = places.shape
    at = jnp.where(places < 0, time, places)
    rows = jnp.arange(batch)[:, None]
    return jnp.zeros((batch, time + 1), values.dtype).at[rows, at].set(values)[:, :time]
