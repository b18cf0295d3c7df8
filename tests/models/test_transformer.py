"""Causality, positions, attention in every dtype, sizes that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.models.transformer import Block, Transformer, causal_attention, rotate
from jaxprop.types import Spec

SPEC = Spec({"inputs": jax.ShapeDtypeStruct((6,), jnp.int32)}, {"vocabulary": 11})
RNG = np.random.default_rng(0)


def tiny(**options):
    section = schema.Transformer(name="transformer", **{"layers": 2, "width": 8, "heads": 2} | options)
    return Transformer(section, SPEC, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_an_output_sees_its_own_past_only_and_its_order(positions):
    model = nnx.jit(lambda: tiny(positions=positions))()
    apply = nnx.jit(lambda model, tokens: model(tokens))
    tokens = np.array([[1, 2, 3, 4, 5, 6]], np.int32)
    outputs = apply(model, tokens)
    later = apply(model, np.array([[1, 2, 3, 4, 9, 9]], np.int32))
    np.testing.assert_allclose(outputs[:, :4], later[:, :4], atol=1e-6)
    assert jnp.any(jnp.abs(outputs[:, 4:] - later[:, 4:]) > 1e-4)
    swapped = apply(model, np.array([[2, 1, 3, 4, 5, 6]], np.int32))
    assert jnp.any(jnp.abs(outputs[:, -1] - swapped[:, -1]) > 1e-6)


@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float64, 1e-6), (jnp.bfloat16, 5e-2), (jnp.float16, 1e-2)])
def test_attention_agrees_with_float32_in_every_dtype(x64, dtype, atol):
    q, k, v = (jnp.asarray(RNG.normal(size=(2, 5, 2, 4)), jnp.float32) for _ in range(3))

    def loss(q, k, v):
        return jnp.sum(jnp.sin(causal_attention(q, k, v).astype(jnp.float32)))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    for wide, other in zip(gradient(q, k, v), gradient(*(x.astype(dtype) for x in (q, k, v))), strict=True):
        assert other.dtype == dtype
        np.testing.assert_allclose(wide, other.astype(jnp.float32), atol=atol)


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    q, k = (jnp.asarray(np.tile(RNG.normal(size=8), (1, 6, 1, 1)), jnp.float32) for _ in range(2))
    np.testing.assert_allclose(jnp.linalg.norm(rotate(q), axis=-1), jnp.linalg.norm(q, axis=-1), rtol=1e-5)
    logits = np.asarray(jnp.einsum("bthd,bshd->bts", rotate(q), rotate(k))[0])
    np.testing.assert_allclose(logits[0, 2], logits[3, 5], rtol=1e-4)
    assert abs(logits[0, 2] - logits[0, 3]) > 1e-3


def test_residual_branches_start_smaller():
    section = schema.Transformer(name="transformer", layers=8, width=64, heads=1, ff_multiple=1)
    block = Block("blocks/0", section, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(block.mlp.up.kernel[...].std() / block.mlp.down.kernel[...].std(), 4, rtol=0.1)


def test_tied_embeddings_have_no_head():
    assert nnx.eval_shape(lambda: tiny(tie_embeddings=True)).head is None
    assert nnx.eval_shape(lambda: tiny(tie_embeddings=False)).head.kernel.shape == (8, 11)


def test_texts_longer_than_the_positions():
    tokens = jnp.zeros((1, 7), jnp.int32)
    assert nnx.eval_shape(lambda: tiny(positions="rope")(tokens)).shape == (1, 7, 11)
    with pytest.raises(ShapeError, match=r"at most 6 tokens, .* got 7; use positions: rope"):
        nnx.eval_shape(lambda: tiny(positions="learned")(tokens))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 9}, r"multiple of 4 for 2 heads with rope positions, got 9; write width: 12"),
        ({"width": 9, "positions": "learned"}, r"multiple of 2 .* got 9; write width: 10"),
    ],
)
def test_heads_that_do_not_divide_the_width(options, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_tokens_of_two_axes():
    spec = Spec({"inputs": jax.ShapeDtypeStruct((6, 2), jnp.int32)}, {"vocabulary": 11})
    with pytest.raises(ShapeError, match=r"expected integer tokens \[T\], got int32 \[6, 2\]"):
        Transformer(schema.Transformer(name="transformer"), spec, rngs=nnx.Rngs(0))
