"""`core/ctc.py` against brute force over all paths."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core import ctc


def drawn(seed, batch=5, time=5, vocabulary=4, spread=2.0):
    logits = np.random.default_rng(seed).normal(size=(batch, time, vocabulary)) * spread
    return np.asarray(jax.nn.log_softmax(jnp.asarray(logits), -1))


def collapsed(path):
    return tuple(k for k, _ in itertools.groupby(path) if k != ctc.BLANK)


def by_labels(log_probs, length):
    """Every sequence of labels with its log-probability and its likeliest path, by going through all paths."""
    total, best = {}, {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=int(length)):
        value = sum(log_probs[t, k] for t, k in enumerate(path))
        labels = collapsed(path)
        total[labels] = np.logaddexp(total.get(labels, -np.inf), value)
        if value > best.get(labels, (-np.inf,))[0]:
            best[labels] = (value, path)
    return total, best


LENGTHS = np.array([5, 4, 3, 5, 1])
LABELS = np.array([[1, 2, 3], [1, 1, 9], [2, 9, 9], [9, 9, 9], [3, 9, 9]])  # 9 is never read
COUNTS = np.array([3, 2, 1, 0, 1])


def test_the_likelihood_is_the_sum_over_all_paths():
    log_probs = drawn(0)
    labels = np.where(np.arange(3) < COUNTS[:, None], LABELS, 0)
    value, fits = jax.jit(ctc.log_likelihood)(log_probs, LENGTHS, labels, COUNTS)
    assert fits.all()
    for b in range(5):
        total, _ = by_labels(log_probs[b], LENGTHS[b])
        assert value[b] == pytest.approx(total[tuple(labels[b, : COUNTS[b]].tolist())], rel=1e-5)


@pytest.mark.parametrize(("labels", "count", "frames", "fits"), [
    ([1, 2, 3], 3, 2, False), ([1, 2, 3], 3, 3, True), ([1, 1, 0], 2, 2, False), ([1, 1, 0], 2, 3, True),
    ([0, 0, 0], 0, 1, True), ([1, 0, 0], 1, 0, False),
])  # fmt: skip
def test_what_cannot_be_aligned_is_told_and_is_finite(labels, count, frames, fits):
    args = np.array([frames]), np.array([labels]), np.array([count])
    value, told = ctc.log_likelihood(drawn(1, batch=1), *args)
    slope = jax.grad(lambda x: ctc.log_likelihood(x, *args)[0].sum())(jnp.asarray(drawn(1, batch=1)))
    assert told.tolist() == [fits]
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()
    assert fits or (value[0] == 0 and not slope.any())
    assert bool(ctc.frames_needed(args[1], args[2])[0] <= frames) is fits


def test_an_alignment_is_the_likeliest_path():
    log_probs = drawn(2)
    labels = np.where(np.arange(3) < COUNTS[:, None], LABELS, 0)
    found = np.asarray(jax.jit(ctc.align)(log_probs, LENGTHS, labels, COUNTS))
    for b in range(5):
        _, best = by_labels(log_probs[b], LENGTHS[b])
        path = best[tuple(labels[b, : COUNTS[b]].tolist())][1]
        places = found[b]
        assert [0 if k < 0 else labels[b, k] for k in places[: LENGTHS[b]]] == list(path)
        assert (places[LENGTHS[b] :] == -1).all()


def test_greedy_reads_the_likeliest_path():
    log_probs = drawn(3, batch=20, time=8)
    lengths = np.random.default_rng(3).integers(0, 9, 20)
    found = jax.jit(ctc.greedy)(log_probs, lengths)
    for b in range(20):
        path = log_probs[b, : lengths[b]].argmax(-1).tolist()
        tokens = collapsed(path)
        assert found.size[b] == len(tokens)
        assert found.tokens[b, : len(tokens)].tolist() == list(tokens)
        assert not np.asarray(found.tokens[b, len(tokens) :]).any()
        spans = [(k, len(list(run))) for k, run in itertools.groupby(path)]
        at, expected = 0, []
        for k, size in spans:
            expected += [(at, at + size)] if k else []
            at += size
        n = len(tokens)
        assert list(zip(found.first[b, :n].tolist(), found.last[b, :n].tolist(), strict=True)) == expected
        assert found.log_prob[b] == pytest.approx(log_probs[b, : lengths[b]].max(-1).sum(), abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_prefix_beam_search_is_exact_where_nothing_is_pruned(seed):
    log_probs = drawn(seed, batch=6, time=5, vocabulary=3, spread=1.0)
    lengths = np.array([5, 4, 3, 2, 1, 5])
    found = jax.jit(partial(ctc.beam, size=70))(log_probs, lengths)
    for b in range(6):
        total, _ = by_labels(log_probs[b], lengths[b])
        best = max(total, key=total.get)
        assert tuple(found.tokens[b, : int(found.size[b])].tolist()) == best
        assert found.log_prob[b] == pytest.approx(total[best], abs=1e-4)


def test_a_narrow_beam_is_at_least_as_good_as_the_greedy_path():
    log_probs = drawn(5, batch=30, time=12, vocabulary=5, spread=1.0)
    lengths = np.full(30, 12)
    wide, one = ctc.beam(log_probs, lengths, 8), ctc.greedy(log_probs, lengths)
    value = lambda found: ctc.log_likelihood(log_probs, lengths, found.tokens, found.size)[0]  # noqa: E731
    assert float(value(wide).mean()) > float(value(one).mean())
    assert (np.asarray(wide.log_prob) <= np.asarray(value(wide)) + 1e-3).all()  # pruned paths are missing
