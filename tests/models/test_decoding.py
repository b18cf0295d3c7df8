"""Reading token by token: the same logits as reading all at once, for every kind of language model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.schema import model as schema
from jaxprop.errors import UsageError
from jaxprop.models import make_model
from jaxprop.models.decoding import make_decoder, make_writer
from jaxprop.types import Spec
from tests.models import pairs

V, T = 13, 12
SPEC = Spec({"inputs": jax.ShapeDtypeStruct((T,), jnp.int32)}, {"vocabulary": V})
SECTIONS = {
    "rope": schema.Transformer(name="transformer", layers=2, width=16, heads=4),
    "learned": schema.Transformer(name="transformer", layers=2, width=16, heads=2, positions="learned"),
    "grouped": schema.Transformer(name="transformer", layers=2, width=16, heads=4, kv_heads=2, tie_embeddings=False),
    "rms_swiglu": schema.Transformer(
        name="transformer", layers=1, width=16, heads=2, norm="rms", feed_forward="swiglu", dropout=0.5
    ),
    "post": schema.Transformer(name="transformer", layers=2, width=16, heads=2, norm_order="post", token_types=2),
    "lstm": schema.Rnn(name="rnn", width=8, layers=2, dropout=0.5),
    "gru": schema.Rnn(name="rnn", cell="gru", width=8),
    "elman": schema.Rnn(name="rnn", cell="elman", width=8),
}


@pytest.mark.parametrize("kind", SECTIONS)
@pytest.mark.parametrize("parts", [(T,), (5, 1, 1, 5), (1,) * T])
def test_reading_in_parts_gives_the_logits_of_reading_at_once(kind, parts):
    section = SECTIONS[kind]
    tokens = jax.random.randint(jax.random.key(1), (2, T), 0, V)
    model, decoder = make_model(section, SPEC), make_decoder(section, SPEC)
    params, extras = jax.jit(model.init)(jax.random.key(0), {"inputs": tokens})
    whole, _ = model.apply(params, extras, {"inputs": tokens}, key=None, train=False)
    held, start, logits = decoder.room(params, extras, 2, T), 0, []
    extend = jax.jit(decoder.extend)
    for size in parts:
        part, held = extend(params, extras, tokens[:, start : start + size], held, jnp.int32(start))
        logits.append(part)
        start += size
    np.testing.assert_allclose(jnp.concatenate(logits, 1), whole, rtol=2e-5, atol=2e-5)


def test_what_the_later_tokens_are_does_not_matter():
    """Padding behind a prompt: what is kept of it is written over."""
    section = SECTIONS["rope"]
    tokens = jax.random.randint(jax.random.key(1), (1, T), 0, V)
    model, decoder = make_model(section, SPEC), make_decoder(section, SPEC)
    params, extras = jax.jit(model.init)(jax.random.key(0), {"inputs": tokens})
    whole, _ = model.apply(params, extras, {"inputs": tokens}, key=None, train=False)
    padded = tokens.at[:, 5:].set(0)
    first, held = decoder.extend(params, extras, padded[:, :8], decoder.room(params, extras, 1, T), jnp.int32(0))
    np.testing.assert_allclose(first[:, :5], whole[:, :5], rtol=2e-5, atol=2e-5)
    for i in range(5, T):
        after, held = decoder.extend(params, extras, tokens[:, i : i + 1], held, jnp.int32(i))
        np.testing.assert_allclose(after[:, 0], whole[:, i], rtol=2e-5, atol=2e-5)


def test_models_that_write_no_text():
    with pytest.raises(UsageError, match="a model mlp writes no text; models that do are transformer and rnn"):
        make_decoder(schema.Mlp(name="mlp"), SPEC)


# -- pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", pairs.SECTIONS)
@pytest.mark.parametrize("parts", [(pairs.T,), (3, 1, 1, 2), (1,) * pairs.T])
def test_writing_in_parts_gives_the_logits_of_the_whole_model(kind, parts):
    model, params, extras = pairs.made(kind)
    writer, batch = make_writer(pairs.SECTIONS[kind], pairs.SPEC, model), pairs.batch_of_pairs()
    whole, _ = model.apply(params, extras, batch, key=None, train=False)
    source, held = writer.read(params, extras, batch, pairs.T)
    extend, start, logits = jax.jit(writer.extend), 0, []
    for size in parts:
        tokens = batch["targets"][:, start : start + size]
        part, held = extend(params, extras, tokens, source, held, jnp.int32(start))
        logits.append(part)
        start += size
    np.testing.assert_allclose(jnp.concatenate(logits, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["rope", "gru"])
def test_a_model_of_the_users_own_is_applied_to_all_that_was_written(kind):
    model, params, extras = pairs.made(kind)
    batch = pairs.batch_of_pairs()
    own = make_writer(schema.CustomModel.model_validate({"class": "mine.py:Net"}), pairs.SPEC, model)
    assert own.attend is None
    whole, _ = model.apply(params, extras, batch, key=None, train=False)
    source, held = own.read(params, extras, batch, pairs.T)
    for at in range(pairs.T):
        tokens = jnp.asarray(batch["targets"][:, at : at + 1])
        logits, held = own.extend(params, extras, tokens, source, held, jnp.int32(at))
        np.testing.assert_allclose(logits[:, 0], whole[:, at], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", pairs.SECTIONS)
def test_attention_is_spread_over_what_is_real(kind):
    model, params, extras = pairs.made(kind)
    batch = pairs.batch_of_pairs()
    writer = make_writer(pairs.SECTIONS[kind], pairs.SPEC, model)
    shares = np.asarray(writer.attend(params, extras, batch))
    assert shares.shape == (len(pairs.LENGTHS), pairs.T, pairs.S)
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    assert shares[np.broadcast_to(batch["input_mask"][:, None] == 0, shares.shape)].max() < 1e-6
