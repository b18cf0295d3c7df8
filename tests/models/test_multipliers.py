"""Factors in the forward pass of wide models: attention by 1/D, and logits of a tied embedding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.schema import model as schema
from jaxprop.models import make_model
from jaxprop.models.decoding import make_decoder, make_writer
from jaxprop.models.multipliers import Multipliers, multipliers
from jaxprop.types import Spec

SPEC = Spec({"inputs": jax.ShapeDtypeStruct((6,), jnp.int32)}, {"vocabulary": 11})
BATCH = {"inputs": jnp.arange(12, dtype=jnp.int32).reshape(2, 6) % 11}


def section(width, heads=2, **keys):
    return schema.Transformer(name="transformer", layers=1, width=width, heads=heads, init="lecun_normal", **keys)


def applied(one, base=None, scale=lambda path, leaf: leaf):
    model = make_model(one, SPEC, base=base)
    params, extras = model.init(jax.random.key(0), BATCH)
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: scale(jax.tree_util.keystr(path), leaf), params)
    return np.asarray(model.apply(params, extras, BATCH, key=None, train=False)[0])


def test_heads_of_one_width_need_no_factor():
    assert multipliers(section(64, 8), section(16, 2)) == Multipliers(1.0, 0.25)
    assert multipliers(section(64), None) == Multipliers()
    assert multipliers(schema.Mlp(name="mlp"), schema.Mlp(name="mlp", hidden=(8,))) == Multipliers()


def test_the_factor_of_attention_is_one_of_the_queries():
    def smaller_queries(path, leaf):
        if "qkv" not in path:
            return leaf
        return jnp.concatenate([leaf[..., :32] * 0.5, leaf[..., 32:]], -1)

    wide, base = section(32, tie_embeddings=False), section(8, tie_embeddings=False)
    np.testing.assert_allclose(applied(wide, base), applied(wide, scale=smaller_queries), rtol=1e-5, atol=1e-6)
    assert not np.allclose(applied(wide, base), applied(wide), atol=1e-4)


def test_the_factor_of_logits_is_that_of_widths():
    wide, base = section(32, heads=8), section(8, heads=2)
    np.testing.assert_allclose(applied(wide, base), applied(wide) / 4, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tie", [True, False])
def test_generation_has_the_same_factors(tie):
    one, base = section(32, tie_embeddings=tie), section(8, tie_embeddings=tie)
    model = make_model(one, SPEC, base=base)
    params, extras = model.init(jax.random.key(0), BATCH)
    whole = model.apply(params, extras, BATCH, key=None, train=False)[0]
    decoder = make_decoder(one, SPEC, base=base)
    logits, _ = decoder.extend(params, extras, BATCH["inputs"], decoder.room(params, extras, 2, 6), jnp.int32(0))
    np.testing.assert_allclose(np.asarray(logits), np.asarray(whole), rtol=1e-4, atol=1e-5)


def test_writers_have_the_same_factors():
    tokens = {name: jax.ShapeDtypeStruct((6,), jnp.int32) for name in ("inputs", "targets")}
    spec, batch = Spec(tokens, {"vocabulary": 11}), {**BATCH, "targets": BATCH["inputs"][::-1]}
    one, base = (schema.Seq2SeqTransformer(name="seq2seq_transformer", layers=1, width=w, heads=2) for w in (32, 8))
    model = make_model(one, spec, base=base)
    params, extras = model.init(jax.random.key(0), batch)
    whole = model.apply(params, extras, batch, key=None, train=False)[0]
    writer = make_writer(one, spec, model, base=base)
    source, held = writer.read(params, extras, batch, 6)
    logits, _ = writer.extend(params, extras, batch["targets"], source, held, jnp.int32(0))
    np.testing.assert_allclose(np.asarray(logits), np.asarray(whole), rtol=1e-4, atol=1e-5)
