"""Attention in every dtype, with masks and grouped queries, against softmax written out in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.forms import forms_for
from jaxprop.models.attention import (
    Attention,
    CrossAttention,
    attention,
    attention_by_products,
    attention_in_stretches,
    rotate,
    softmax,
)
from jaxprop.models.layers import INITS

RNG = np.random.default_rng(0)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]], bool)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def written_out(q, k, v, causal, mask):
    """One query, one head at a time: a softmax over the keys that are there."""
    out = np.zeros(q.shape)
    heads, groups = q.shape[2], q.shape[2] // k.shape[2]
    for b, t, h in np.ndindex(q.shape[0], q.shape[1], heads):
        keys = [s for s in range(k.shape[1]) if not (causal and s > t) and (mask is None or mask[b, s])]
        logits = np.array([q[b, t, h] @ k[b, s, h // groups] for s in keys]) / np.sqrt(q.shape[-1])
        shares = np.exp(logits - logits.max())
        out[b, t, h] = sum(w * v[b, s, h // groups] for w, s in zip(shares / shares.sum(), keys, strict=True))
    return out


@pytest.mark.parametrize("function", [attention, attention_by_products])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_equals_the_softmax_written_out(function, causal, mask, kv_heads):
    q, k, v = draw(2, 5, 4, 6), draw(2, 5, kv_heads, 6), draw(2, 5, kv_heads, 6)
    found = function(*map(jnp.asarray, (q, k, v)), causal=causal, mask=None if mask is None else jnp.asarray(mask))
    np.testing.assert_allclose(found, written_out(q, k, v, causal, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [2, 1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float64, 1e-6), (jnp.bfloat16, 6e-2), (jnp.float16, 1e-2)])
def test_agrees_with_float32_in_every_dtype(x64, dtype, atol, masked, kv_heads):
    q, k, v = jnp.asarray(draw(2, 5, 2, 4)), jnp.asarray(draw(2, 5, kv_heads, 4)), jnp.asarray(draw(2, 5, kv_heads, 4))
    options = {"causal": not masked, "mask": jnp.asarray(MASK) if masked else None}

    def loss(q, k, v):
        return jnp.sum(jnp.sin(attention(q, k, v, **options).astype(jnp.float32)))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    for wide, other in zip(gradient(q, k, v), gradient(*(x.astype(dtype) for x in (q, k, v))), strict=True):
        assert other.dtype == dtype
        np.testing.assert_allclose(wide, other.astype(jnp.float32), atol=atol)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_sequence_without_any_token_stays_finite(dtype):
    q, mask = jnp.asarray(draw(2, 5, 2, 4), dtype), jnp.zeros((2, 5), bool)
    gradient = jax.grad(lambda q: attention(q, q, q, causal=False, mask=mask).astype(jnp.float32).sum())(q)
    assert jnp.all(jnp.isfinite(gradient))


def test_softmax_and_its_gradient_are_those_of_jax():
    logits, weights = jnp.asarray(9 * draw(3, 4, 7)).at[0, 0, :3].set(-jnp.inf), jnp.asarray(draw(3, 4, 7))
    np.testing.assert_allclose(softmax(logits), jax.nn.softmax(logits), rtol=1e-6, atol=1e-30)
    found, expected = (jax.grad(lambda x, f=f: jnp.sum(weights * f(x)))(logits) for f in (softmax, jax.nn.softmax))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # two terms of up to 1 cancel


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    q, k = (jnp.asarray(np.tile(RNG.normal(size=8), (1, 6, 1, 1)), jnp.float32) for _ in range(2))
    np.testing.assert_allclose(jnp.linalg.norm(rotate(q), axis=-1), jnp.linalg.norm(q, axis=-1), rtol=1e-5)
    logits = np.asarray(jnp.einsum("bthd,bshd->bts", rotate(q), rotate(k))[0])
    np.testing.assert_allclose(logits[0, 2], logits[3, 5], rtol=1e-4)
    assert abs(logits[0, 2] - logits[0, 3]) > 1e-3


@pytest.mark.parametrize("kv_heads", [None, 4, 2, 1])
def test_the_layer_is_its_products_written_out(kv_heads):
    config = schema.Transformer(name="transformer", width=16, heads=4, kv_heads=kv_heads, init="he_normal")
    layer = Attention("attn", config, INITS["he_normal"], causal=True, rope=False, rngs=nnx.Rngs(0))
    x, heads = draw(2, 5, 16), kv_heads or 4
    assert layer.qkv.kernel.shape == (16, 16 + 2 * 4 * heads)
    q, k, v = np.split(x @ np.asarray(layer.qkv.kernel[...]), [16, 16 + 4 * heads], -1)
    mixed = written_out(
        q.reshape(2, 5, 4, 4), k.reshape(2, 5, heads, 4), v.reshape(2, 5, heads, 4), causal=True, mask=None
    )
    expected = mixed.reshape(2, 5, 16) @ np.asarray(layer.out.kernel[...])
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)


def test_a_group_is_a_head_of_keys_repeated():
    """Grouped queries are what every head with the same keys and values gives."""
    q, k, v = (jnp.asarray(draw(1, 5, heads, 4)) for heads in (4, 2, 2))
    full = attention(q, jnp.repeat(k, 2, 2), jnp.repeat(v, 2, 2), causal=False)
    np.testing.assert_allclose(attention(q, k, v, causal=False), full, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kv_heads", [None, 1])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_attention_to_another_sequence_is_its_products_written_out(kv_heads, mask):
    section = schema.Transformer(name="transformer", width=8, heads=2, kv_heads=kv_heads, init="he_normal")
    layer = CrossAttention("cross", section, INITS["he_normal"], rngs=nnx.Rngs(0))
    x, source = draw(2, 3, 8), draw(2, 5, 8)
    read = layer.read(source)
    keys, values = np.split(np.asarray(layer.kv(source)), 2, -1)
    keys, values = (part.reshape(2, 5, -1, 4) for part in (keys, values))
    q = np.asarray(layer.query(x)).reshape(2, 3, 2, 4)
    np.testing.assert_allclose(read.keys, keys)
    np.testing.assert_allclose(read.values, values)
    expected = layer.out(written_out(q, keys, values, False, mask).reshape(2, 3, 8).astype(np.float32))
    np.testing.assert_allclose(layer(x, read, mask), expected, rtol=1e-4, atol=1e-5)
    logits = np.einsum("bthd,bshd->bhts", q, np.repeat(keys, 2 // keys.shape[2], 2)) / 2
    shares = np.exp(logits) * (1 if mask is None else mask[:, None, None])
    shares = (shares / shares.sum(-1, keepdims=True)).mean(1)
    np.testing.assert_allclose(layer.shares(x, read, mask), shares, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("time", "kv_heads"), [(128, 4), (131, 2), (5, 4), (3, 1)])
def test_attention_in_stretches_is_causal_attention(time, kv_heads):
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, time, heads, 8)) for i, heads in enumerate((4, kv_heads, kv_heads))
    )
    weight = jax.random.normal(jax.random.key(3), q.shape)

    def value(function, q, k, v):
        return jnp.sum(function(q, k, v) * weight)

    plain = partial(attention_by_products, causal=True)
    expected, found = (
        jax.jit(jax.value_and_grad(partial(value, function), (0, 1, 2)))(q, k, v)
        for function in (plain, attention_in_stretches)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected)
    low = attention_in_stretches(*(x.astype(jnp.bfloat16) for x in (q, k, v)))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), plain(q, k, v), atol=0.05)


@pytest.mark.parametrize(
    ("platform", "time", "causal", "taken"),
    [("cpu", 128, True, True), ("cpu", 127, True, False), ("cpu", 128, False, False), ("tpu", 128, True, False)],
)
def test_where_attention_is_taken_in_stretches(platform, time, causal, taken):
    q = jax.ShapeDtypeStruct((1, time, 2, 8), jnp.float32)
    with forms_for(platform):
        jaxpr = jax.make_jaxpr(partial(attention, causal=causal))(q, q, q)
    assert (str(jaxpr).count("dot_general") > 2) is taken
