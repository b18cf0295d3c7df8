"""Blocks against their sublayers written out, and sizes that do not fit."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.errors import ConfigError
from jaxprop.models.blocks import FEED_FORWARD, Block, DecoderBlock, expect_heads
from jaxprop.models.layers import INITS

RNG = np.random.default_rng(0)


def config(**options):
    return schema.Transformer(
        name="transformer", **{"width": 8, "heads": 2, "layers": 1, "init": "he_normal"} | options
    )


def test_residual_branches_start_smaller():
    section = schema.Transformer(name="transformer", layers=8, width=64, heads=1, ff_multiple=1)
    block = Block("blocks/0", section, causal=True, rope=True, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(block.mlp.up.kernel[...].std() / block.mlp.down.kernel[...].std(), 4, rtol=0.1)


def test_swiglu_equals_its_products_written_out():
    layer = FEED_FORWARD["swiglu"]("mlp", config(), INITS["he_normal"], rngs=nnx.Rngs(0))
    x = RNG.normal(size=(2, 3, 8)).astype(np.float32)
    gate, up, down = (np.asarray(part.kernel[...]) for part in (layer.gate, layer.up, layer.down))
    gated = x @ gate
    expected = (gated / (1 + np.exp(-gated)) * (x @ up)) @ down
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)
    assert not any(part.bias for part in (layer.gate, layer.up, layer.down))


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_a_block_is_two_residual_branches(norm):
    block = Block("blocks/0", config(norm=norm), causal=False, rope=True, rngs=nnx.Rngs(0))
    x = jnp.asarray(RNG.normal(size=(2, 3, 8)), jnp.float32)
    middle = x + block.attn(block.attn_norm(x))
    np.testing.assert_allclose(block(x), middle + block.mlp(block.mlp_norm(middle)), rtol=1e-5, atol=1e-6)
    scaled = block.attn_norm(3 * x + (1.0 if norm == "layer" else 0.0))
    np.testing.assert_allclose(scaled, block.attn_norm(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "positions", "message"),
    [
        ({"width": 9}, "rope", r"multiple of 4 for 2 heads with rope positions, got 9; write width: 12"),
        ({"width": 9}, "learned", r"multiple of 2 .* got 9; write width: 10"),
        (
            {"width": 6, "heads": 3},
            "sincos",
            r"multiple of 12 for 3 heads with sincos positions, got 6; write width: 12",
        ),
        ({"heads": 4, "width": 16, "kv_heads": 3}, "rope", r"kv_heads: expected a divisor of heads \(4\), got 3; .* 2"),
        ({"heads": 4, "width": 16, "kv_heads": 8}, "rope", r"kv_heads: expected a divisor .* got 8; write kv_heads: 4"),
    ],
)
def test_heads_that_do_not_fit(options, positions, message):
    with pytest.raises(ConfigError, match=message):
        expect_heads(config(**options), positions)


def test_a_decoder_block_equals_its_sublayers_written_out():
    block = DecoderBlock("decoder/0", config(), rope=True, rngs=nnx.Rngs(0))
    x, source = (RNG.normal(size=(2, n, 8)).astype(np.float32) for n in (3, 5))
    mask = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)
    y = x + block.attn(block.attn_norm(x))
    shares = block.cross.shares(block.cross_norm(y), block.cross.read(source), mask)
    np.testing.assert_allclose(block.shares(x, source, mask), shares, rtol=1e-6)
    y = y + block.cross(block.cross_norm(y), block.cross.read(source), mask)
    np.testing.assert_allclose(block(x, source, mask), y + block.mlp(block.mlp_norm(y)), rtol=1e-6)
    assert block.attn.causal
