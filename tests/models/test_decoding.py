"""Reading token by token: the same logits as reading all at once, for every kind of language model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.schema import model as schema
from jaxprop.errors import UsageError
from jaxprop.models import make_model
from jaxprop.models.decoding import make_decoder
from jaxprop.types import Spec

V, T = 13, 12
SPEC = Spec({"inputs": jax.ShapeDtypeStruct((T,), jnp.int32)}, {"vocabulary": V})
SECTIONS = {
    "rope": schema.Transformer(name="transformer", layers=2, width=16, heads=4),
    "learned": schema.Transformer(name="transformer", layers=2, width=16, heads=2, positions="learned"),
    "grouped": schema.Transformer(name="transformer", layers=2, width=16, heads=4, kv_heads=2, tie_embeddings=False),
    "rms_swiglu": schema.Transformer(
        name="transformer", layers=1, width=16, heads=2, norm="rms", feed_forward="swiglu", dropout=0.5
    ),
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
