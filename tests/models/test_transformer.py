"""Causality, positions, tied embeddings; as an encoder: padding, pooling; inputs that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.models import make_model
from jaxprop.models.transformer import Transformer
from jaxprop.types import Spec

TOKENS = {"inputs": jax.ShapeDtypeStruct((6,), jnp.int32)}
SPEC = Spec(TOKENS, {"vocabulary": 11})
ANSWERED = Spec(TOKENS, {"vocabulary": 11, "classes": 3})
MODERN = {"norm": "rms", "feed_forward": "swiglu", "kv_heads": 1}
LENGTHS = np.array([6, 1, 4], np.int32)
POST = {"norm_order": "post", "pool": "first", "token_types": 2}


def section(**options):
    return schema.Transformer(name="transformer", **{"layers": 2, "width": 8, "heads": 2} | options)


def tiny(spec=SPEC, **options):
    return Transformer(section(**options), spec, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("options", [{"positions": "rope"}, {"positions": "learned"}, MODERN], ids=str)
def test_an_output_sees_its_own_past_only_and_its_order(options):
    model = nnx.jit(lambda: tiny(**options))()
    apply = nnx.jit(lambda model, tokens: model(tokens))
    tokens = np.array([[1, 2, 3, 4, 5, 6]], np.int32)
    outputs = apply(model, tokens)
    later = apply(model, np.array([[1, 2, 3, 4, 9, 9]], np.int32))
    np.testing.assert_allclose(outputs[:, :4], later[:, :4], atol=1e-6)
    assert jnp.any(jnp.abs(outputs[:, 4:] - later[:, 4:]) > 1e-4)
    swapped = apply(model, np.array([[2, 1, 3, 4, 5, 6]], np.int32))
    assert jnp.any(jnp.abs(outputs[:, -1] - swapped[:, -1]) > 1e-6)


def test_tied_embeddings_have_no_head():
    assert nnx.eval_shape(lambda: tiny(tie_embeddings=True)).head is None
    assert nnx.eval_shape(lambda: tiny(tie_embeddings=False)).head.kernel.shape == (8, 11)
    assert nnx.eval_shape(lambda: tiny(ANSWERED, tie_embeddings=True)).head.kernel.shape == (8, 3)


def test_texts_longer_than_the_positions():
    tokens = jnp.zeros((1, 7), jnp.int32)
    assert nnx.eval_shape(lambda: tiny(positions="rope")(tokens)).shape == (1, 7, 11)
    with pytest.raises(ShapeError, match=r"at most 6 tokens, .* got 7; use positions: rope"):
        nnx.eval_shape(lambda: tiny(positions="learned")(tokens))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 9}, r"multiple of 4 for 2 heads with rope positions, got 9; write width: 12"),
        ({"kv_heads": 3}, r"kv_heads: expected a divisor of heads"),
    ],
)
def test_heads_that_do_not_divide_the_width(options, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_tokens_of_two_axes():
    spec = Spec({"inputs": jax.ShapeDtypeStruct((6, 2), jnp.int32)}, {"vocabulary": 11})
    with pytest.raises(ShapeError, match=r"expected integer tokens \[T\], got int32 \[6, 2\]"):
        tiny(spec)


# -- one answer a sequence ----------------------------------------------------------------------


def padded(rng):
    """Sequences of several lengths, padded to 6, and what their mask is."""
    real = np.arange(6) < LENGTHS[:, None]
    return np.where(real, rng.integers(1, 11, (3, 6)), 0).astype(np.int32), real.astype(np.float32)


def applied(options, **batch):
    model = make_model(section(**options), ANSWERED)
    params, extras = jax.jit(model.init)(jax.random.key(0), batch)
    # embeddings start so small that outputs of one size would agree by themselves
    params = jax.tree.map(lambda x: 5 * x, params)
    return np.asarray(jax.jit(lambda batch: model.apply(params, extras, batch, key=None, train=False)[0])(batch))


@pytest.mark.parametrize("options", [{}, {"positions": "learned"}, {"causal": True}, MODERN, POST], ids=str)
def test_padding_changes_no_result(options):
    tokens, mask = padded(np.random.default_rng(0))
    together = applied(options, inputs=tokens, mask=mask)
    assert together.shape == (3, 3)
    for row, length in enumerate(LENGTHS):
        alone = applied(options, inputs=tokens[row : row + 1, :length])
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(applied(options, inputs=tokens, lengths=LENGTHS), together)
    # whatever the padding holds, tokens outside the vocabulary too
    other = np.where(mask > 0, tokens, 99).astype(np.int32)
    np.testing.assert_array_equal(applied(options, inputs=other, mask=mask), together)
    assert np.abs(applied(options, inputs=tokens) - together)[1:].max() > 1e-3


@pytest.mark.parametrize(("causal", "sees"), [(None, True), (False, True), (True, False)])
def test_an_encoder_attends_to_what_comes_after(causal, sees):
    model = tiny(ANSWERED, causal=causal, init="he_normal")
    mixed = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 8)), jnp.float32)
    moved = mixed.at[:, -1, 0].add(1.0)
    before, after = model.blocks[0](mixed), model.blocks[0](moved)
    assert bool(jnp.any(jnp.abs(before[:, 0] - after[:, 0]) > 1e-5)) == sees


def test_a_mask_of_labels_changes_nothing_that_is_read():
    """For language the mask says which labels count: the tokens of a prompt are read all the same."""
    model = make_model(section(), SPEC)
    batch = {"inputs": np.array([[1, 2, 3, 4, 5, 6]], np.int32)}
    params, extras = jax.jit(model.init)(jax.random.key(0), batch)
    expected = model.apply(params, extras, batch, key=None, train=False)[0]
    masked = {**batch, "mask": np.array([[0, 0, 0, 1, 1, 0]], np.float32)}
    np.testing.assert_array_equal(model.apply(params, extras, masked, key=None, train=False)[0], expected)


def test_the_types_of_tokens_are_0_where_the_batch_has_none():
    tokens, mask = padded(np.random.default_rng(0))
    plain = applied(POST, inputs=tokens, mask=mask)
    np.testing.assert_array_equal(applied(POST, inputs=tokens, mask=mask, token_types=np.zeros_like(tokens)), plain)
    other = applied(POST, inputs=tokens, mask=mask, token_types=np.ones_like(tokens))
    assert np.abs(other - plain).max() > 1e-3
