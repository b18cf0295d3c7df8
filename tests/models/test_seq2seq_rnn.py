"""Additive attention against a loop in NumPy, padding, and the state that the writer starts from."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.errors import ShapeError
from jaxprop.models.seq2seq_rnn import Attending, Read, Seq2SeqRnn
from jaxprop.types import Spec
from tests.models.pairs import LENGTHS, SPEC, T, V, alone, batch_of_pairs, made


def test_padding_changes_no_result():
    model, params, extras = made("gru")
    apply = jax.jit(lambda batch: model.apply(params, extras, batch, key=None, train=False)[0])
    batch = batch_of_pairs()
    together = apply(batch)
    assert together.shape == (len(LENGTHS), T, V)
    for row, (_, target) in enumerate(LENGTHS):
        np.testing.assert_allclose(together[row, :target], apply(alone(batch, row))[0], rtol=2e-4, atol=2e-5)
    other = {**batch, "inputs": np.where(batch["input_mask"] > 0, batch["inputs"], 99).astype(np.int32)}
    np.testing.assert_array_equal(apply(other), together)
    unmasked = {name: value for name, value in batch.items() if name != "input_mask"}
    assert np.abs(apply(unmasked)[1] - together[1]).max() > 1e-3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_attention_and_state_are_those_of_the_equations():
    config = schema.Seq2SeqRnn(name="seq2seq_rnn", width=3)
    layer = Attending("decoder", config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x, states, state = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 4, 3), (2, 5, 6), (2, 3)))
    mask = np.arange(5) < np.array([5, 2])[:, None]
    source = Read(states, layer.key(states), mask)
    hidden, contexts, shares = layer(x, source, state)

    def kernel(name):
        return np.asarray(getattr(layer, name).kernel[...])

    keys = states @ kernel("key") + np.asarray(layer.key.bias[...])
    for b in range(2):
        h = state[b]
        for t in range(4):
            scores = np.tanh(h @ kernel("query") + keys[b]) @ kernel("score")[:, 0]
            a = np.where(mask[b], np.exp(scores), 0)
            a /= a.sum()
            c = a @ states[b]
            given = x[b, t] @ kernel("input") + np.asarray(layer.input.bias[...]) + c @ kernel("context")
            own = h @ kernel("recurrent") + np.asarray(layer.recurrent.bias[...])
            reset, update = np.split(sigmoid(given[:6] + own[:6]), 2)
            new = np.tanh(given[6:] + reset * own[6:])
            h = new + update * (h - new)
            np.testing.assert_allclose(shares[b, t], a, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(contexts[b, t], c, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(hidden[b, t], h, rtol=1e-4, atol=1e-5)


def test_no_output_sees_what_is_written_later():
    model, params, extras = made("gru")
    apply = jax.jit(lambda batch: model.apply(params, extras, batch, key=None, train=False)[0])
    batch = batch_of_pairs()
    later = batch["targets"].copy()
    later[0, 4:] = 1 + later[0, 4:] % (V - 1)
    before, after = apply(batch), apply({**batch, "targets": later})
    np.testing.assert_allclose(after[0, :4], before[0, :4], atol=1e-5)
    assert np.abs(after[0, 4:] - before[0, 4:]).max() > 1e-3


def test_data_that_are_no_pairs():
    one = Spec({"inputs": SPEC.batch["inputs"]}, SPEC.sizes)
    with pytest.raises(ShapeError, match="model seq2seq_rnn expected pairs of texts"):
        Seq2SeqRnn(schema.Seq2SeqRnn(name="seq2seq_rnn"), one, rngs=nnx.Rngs(0))
