"""Greedy and beam search against all texts that there are, on small vocabularies."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.models.search import beam_search, greedy, length_penalty, repeated

V, T, BEGIN, END = 4, 4, 1, 2


def random_model(seed, spread=2.0):
    """Logits of the next token by the two before it and the place: no two texts are alike."""
    return np.random.default_rng(seed).normal(size=(T, V, V, V)).astype(np.float32) * spread


def step_of(logits):
    """What is kept is the token before the last, so that a beam that is mixed up is seen."""
    table = jnp.asarray(logits)

    def step(last, held, at):
        return table[at, held, last], last

    return step


def held(size):
    return jnp.full(size, BEGIN, jnp.int32)


def log_probability(logits, text):
    before, last, total = BEGIN, BEGIN, 0.0
    for at, token in enumerate(text):
        shares = np.asarray(jax.nn.log_softmax(logits[at, before, last].astype(np.float64)))
        total += shares[token]
        before, last = last, token
    return total


def every_text():
    """All texts of at most T tokens: those that end, and those of T tokens that do not."""
    words = [token for token in range(V) if token != END]
    for n in range(T):
        yield from ((*text, END) for text in itertools.product(words, repeat=n))
    yield from itertools.product(words, repeat=T)


def by_score(logits, penalty):
    scored = [(log_probability(logits, text) / ((5 + len(text)) / 6) ** penalty, text) for text in every_text()]
    return sorted(scored, reverse=True)


def padded(text):
    return [*text, *[END] * (T - len(text))]


def searched(logits, beams, penalty, size=1):
    search = jax.jit(
        lambda: beam_search(
            step_of(logits), held(size * beams), size=size, beams=beams, length=T, begin=BEGIN, end=END, penalty=penalty
        )
    )
    return search()


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_with_as_many_beams_as_texts_the_search_is_exhaustive(penalty):
    beams = (V - 1) ** (T - 1) * V
    for seed in range(4):
        logits = random_model(seed)
        found, expected = searched(logits, beams, penalty), by_score(logits, penalty)[:20]
        assert found.tokens[0, :20].tolist() == [padded(text) for _, text in expected]
        np.testing.assert_allclose(
            found.log_probability[0, :20], [log_probability(logits, text) for _, text in expected], rtol=1e-4
        )


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_few_beams_find_texts_of_the_probability_that_they_have_and_none_twice(beams):
    for seed in range(6):
        logits = random_model(seed)
        found = searched(logits, beams, 0.6)
        texts = [tuple(text) for text in found.tokens[0].tolist()]
        assert len(set(texts)) == beams
        for text, told in zip(texts, found.log_probability[0].tolist(), strict=True):
            whole = text[: text.index(END) + 1] if END in text else text
            assert told == pytest.approx(log_probability(logits, whole), rel=1e-4)
        best = by_score(logits, 0.6)[0][0]
        scores = found.log_probability[0] / length_penalty(jnp.array([_length(text) for text in texts]), 0.6)
        assert float(scores[0]) <= best + 1e-4
        assert np.all(np.diff(scores) <= 1e-6)


def _length(text):
    return text.index(END) + 1 if END in text else T


def test_a_longer_penalty_prefers_longer_texts():
    """A text of one token that ends at once is likelier than any other, and loses by score."""
    logits = np.zeros((T, V, V, V), np.float32)
    logits[0, :, :, END], logits[1:, :, :, 0] = 0.3, 20.0
    assert searched(logits, 3, 0.0).tokens[0, 0].tolist() == [END] * T
    assert searched(logits, 3, 2.0).tokens[0, 0, 1:].tolist() == [0, 0, 0]


def test_examples_of_a_batch_are_searched_by_themselves():
    one, other = random_model(0), random_model(1)
    both = jnp.stack([jnp.asarray(one), jnp.asarray(other)])

    def step(last, held, at):
        which, before = held
        return both[which, at, before, last], (which, last)

    beams = 3
    start = repeated(jnp.arange(2), beams), held(2 * beams)
    found = beam_search(step, start, size=2, beams=beams, length=T, begin=BEGIN, end=END)
    for i, logits in enumerate((one, other)):
        alone = searched(logits, beams, 0.6)
        np.testing.assert_array_equal(found.tokens[i], alone.tokens[0])
        np.testing.assert_allclose(found.log_probability[i], alone.log_probability[0], rtol=1e-6)


def test_the_search_ends_as_soon_as_nothing_better_can_come():
    calls = []
    logits = jnp.full((V,), -30.0).at[END].set(0.0)

    def step(last, held, at):
        jax.debug.callback(calls.append, at)
        return jnp.broadcast_to(logits, (len(last), V)), held

    beam_search(step, (), size=2, beams=2, length=50, begin=BEGIN, end=END)
    jax.effects_barrier()
    assert 1 < len(calls) < 5
    calls.clear()
    greedy(step, (), size=2, length=50, begin=BEGIN, end=END)
    jax.effects_barrier()
    assert len(calls) == 1


def test_greedy_takes_the_likeliest_token_each_time():
    for seed in range(5):
        logits = random_model(seed)
        found = greedy(step_of(logits), held(1), size=1, length=T, begin=BEGIN, end=END)
        before, last, text = BEGIN, BEGIN, []
        for at in range(T):
            token = int(logits[at, before, last].argmax())
            text.append(token)
            before, last = last, token
            if token == END:
                break
        assert found.tokens[0].tolist() == padded(text)
        assert float(found.log_probability[0]) == pytest.approx(log_probability(logits, text), rel=1e-5)


def test_the_penalty_of_the_paper():
    assert length_penalty(7, 0.0) == 1
    assert float(length_penalty(jnp.int32(19), 0.6)) == pytest.approx(4**0.6)
