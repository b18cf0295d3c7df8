"""Recurrent cells against a plain loop, and the inputs they read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.models import make_model
from jaxprop.models.rnn import BothWays, Rnn, RnnLayer
from jaxprop.types import Spec


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def elman_loop(x, h, c, w, u, b, bu):
    return np.tanh(x @ w + b + h @ u), c


def gru_loop(x, h, c, w, u, b, bu):
    (xr, xz, xn), (ur, uz, un) = np.split(x @ w + b, 3, -1), np.split(h @ u + bu, 3, -1)
    z = sigmoid(xz + uz)
    return (1 - z) * np.tanh(xn + sigmoid(xr + ur) * un) + z * h, c


def lstm_loop(x, h, c, w, u, b, bu):
    i, f, o, g = np.split(x @ w + b + h @ u, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize(("cell", "loop"), [("elman", elman_loop), ("gru", gru_loop), ("lstm", lstm_loop)])
def test_equals_a_plain_loop(cell, loop):
    layer = RnnLayer("layers/0", 3, schema.Rnn(name="rnn", cell=cell, width=4), rngs=nnx.Rngs(0))
    if layer.recurrent.bias is not None:
        layer.recurrent.bias[...] = jnp.linspace(-1, 1, 12)
    weights = [layer.input.kernel, layer.recurrent.kernel, layer.input.bias]
    w, u, b = (np.asarray(x[...]) for x in weights)
    bu = 0 if layer.recurrent.bias is None else np.asarray(layer.recurrent.bias[...])
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    h = c = np.zeros((2, 4), np.float32)
    hidden = []
    for t in range(6):
        h, c = loop(x[:, t], h, c, w, u, b, bu)
        hidden.append(h)
    np.testing.assert_allclose(layer(jnp.asarray(x)), np.stack(hidden, 1), rtol=1e-4, atol=1e-5)


def test_lstm_starts_by_remembering_and_gates_are_orthogonal():
    layer = RnnLayer("layers/0", 3, schema.Rnn(name="rnn", cell="lstm", width=4), rngs=nnx.Rngs(0))
    assert layer.input.bias[...].tolist() == [0] * 4 + [1] * 4 + [0] * 8
    for gate in np.split(np.asarray(layer.recurrent.kernel[...]), 4, 1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(4), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "sizes", "expected"),
    [
        ((6,), jnp.int32, {"vocabulary": 5}, (2, 6, 5)),
        ((6,), jnp.int32, {"classes": 3, "vocabulary": 5}, (2, 3)),
        ((6,), jnp.int32, {"targets": 1, "vocabulary": 5}, (2, 1)),
        ((6, 3), jnp.float32, {"classes": 5}, (2, 5)),
        ((6, 3), jnp.int32, {"classes": 5}, (2, 5)),
        ((6,), jnp.float32, {"classes": 5, "vocabulary": 9}, (2, 5)),
        ((6, 4, 1), jnp.uint8, {"classes": 5}, (2, 5)),
    ],
)
def test_inputs(shape, dtype, sizes, expected):
    section = schema.Rnn(name="rnn", width=4, layers=2)
    x = jnp.ones((2, *shape), dtype)
    spec = Spec({"inputs": jax.ShapeDtypeStruct(shape, dtype)}, sizes)
    model = nnx.eval_shape(lambda: Rnn(section, spec, rngs=nnx.Rngs(0))(x))
    assert model.shape == expected


def test_a_classifier_of_tokens_embeds_them():
    """Token 3 is no larger than token 1: a permutation of the embedding's rows is all that renaming tokens changes."""
    spec = Spec({"inputs": jax.ShapeDtypeStruct((6,), jnp.int32)}, {"classes": 3, "vocabulary": 5})
    model = Rnn(schema.Rnn(name="rnn", width=4), spec, rngs=nnx.Rngs(0))
    tokens, renamed = jnp.array([[0, 1, 2, 3, 4, 0]]), jnp.array([4, 2, 0, 1, 3])
    expected = model(tokens)
    model.embed.embedding[...] = jnp.zeros((5, 4)).at[renamed].set(model.embed.embedding[...])
    np.testing.assert_allclose(model(renamed[tokens]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 3, 4, 5), jnp.float32, "model rnn expected tokens"),
        ((6,), jnp.int32, "expected integer inputs to be tokens, with sizes that hold their vocabulary"),
    ],
)
def test_not_a_sequence(shape, dtype, message):
    with pytest.raises(ShapeError, match=message):
        Rnn(
            schema.Rnn(name="rnn"),
            Spec({"inputs": jax.ShapeDtypeStruct(shape, dtype)}, {"classes": 5}),
            rngs=nnx.Rngs(0),
        )


# -- both directions, and padding -----------------------------------------------------------------

TOKENS = Spec({"inputs": jax.ShapeDtypeStruct((6,), jnp.int32)}, {"classes": 3, "vocabulary": 9})
SERIES = Spec({"inputs": jax.ShapeDtypeStruct((6, 2), jnp.float32)}, {"classes": 3})
LENGTHS = np.array([6, 1, 4], np.int32)
REAL = np.arange(6) < LENGTHS[:, None]


def section(**options):
    return schema.Rnn(name="rnn", **{"width": 4} | options)


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_backwards_is_forwards_over_the_reversed_sequence(cell):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)), jnp.float32)
    layer = RnnLayer("layers/0", 3, section(cell=cell), rngs=nnx.Rngs(0), reverse=True)
    backwards = layer(x)
    layer.reverse = False
    np.testing.assert_allclose(backwards, layer(x[:, ::-1])[:, ::-1], rtol=1e-5, atol=1e-6)


def test_both_directions_lie_side_by_side():
    layer = BothWays("layers/0", 3, section(), rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)), jnp.float32)
    np.testing.assert_array_equal(layer(x), jnp.concatenate([layer.forward(x), layer.backward(x)], -1))
    assert jnp.any(layer.forward.input.kernel[...] != layer.backward.input.kernel[...])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_padding_keeps_the_state(cell, reverse):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 3)), jnp.float32)
    layer = RnnLayer("layers/0", 3, section(cell=cell), rngs=nnx.Rngs(0), reverse=reverse)
    states = layer(x, jnp.asarray(REAL))
    for row, length in enumerate(LENGTHS):
        alone = layer(x[row : row + 1, :length])[0]
        np.testing.assert_allclose(states[row, :length], alone, rtol=1e-5, atol=1e-6)
        kept = jnp.zeros(4) if reverse else alone[-1]
        np.testing.assert_allclose(states[row, length:], jnp.tile(kept, (6 - length, 1)), rtol=1e-5, atol=1e-6)


def applied(spec, options, **batch):
    model = make_model(section(**options), spec)
    params, extras = jax.jit(model.init)(jax.random.key(0), batch)
    return np.asarray(jax.jit(lambda batch: model.apply(params, extras, batch, key=None, train=False)[0])(batch))


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_padding_changes_no_result(cell, bidirectional, pool):
    options = {"cell": cell, "bidirectional": bidirectional, "pool": pool, "layers": 2}
    tokens = np.where(REAL, np.random.default_rng(0).integers(1, 9, (3, 6)), 0).astype(np.int32)
    together = applied(TOKENS, options, inputs=tokens, mask=REAL.astype(np.float32))
    assert together.shape == (3, 3)
    for row, length in enumerate(LENGTHS):
        alone = applied(TOKENS, options, inputs=tokens[row : row + 1, :length])
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-4, atol=1e-5)
    other = np.where(REAL, tokens, 99).astype(np.int32)  # whatever the padding holds
    np.testing.assert_array_equal(applied(TOKENS, options, inputs=other, lengths=LENGTHS), together)
    assert np.abs(applied(TOKENS, options, inputs=tokens) - together)[1:].max() > 1e-3


def test_numbers_of_several_lengths():
    x = np.random.default_rng(0).normal(size=(3, 6, 2)).astype(np.float32)
    together = applied(SERIES, {"bidirectional": True}, inputs=x, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = applied(SERIES, {"bidirectional": True}, inputs=x[row : row + 1, :length])
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-4, atol=1e-5)
    x[~REAL] = np.nan
    np.testing.assert_array_equal(applied(SERIES, {"bidirectional": True}, inputs=x, lengths=LENGTHS), together)


def test_the_mean_of_all_states():
    model = Rnn(section(pool="mean"), SERIES, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 2)), jnp.float32)
    np.testing.assert_allclose(model(x), model.head(model.layers[0](x).mean(1)), rtol=1e-5, atol=1e-6)


def test_a_layer_that_reads_backwards_does_not_predict_the_next_token():
    spec = Spec(TOKENS.batch, {"vocabulary": 9})
    with pytest.raises(ConfigError, match=r"model.bidirectional: .*; write bidirectional: false"):
        Rnn(section(bidirectional=True), spec, rngs=nnx.Rngs(0))


def test_a_mask_of_labels_changes_nothing_that_is_read():
    batch = {"inputs": np.array([[1, 2, 3, 4, 5, 6]], np.int32)}
    spec = Spec(TOKENS.batch, {"vocabulary": 9})
    mask = np.array([[0, 0, 0, 1, 1, 0]], np.float32)
    np.testing.assert_array_equal(applied(spec, {}, **batch, mask=mask), applied(spec, {}, **batch))
