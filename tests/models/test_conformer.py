"""The convolution module of a conformer against a grouped convolution, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.errors import ConfigError
from jaxprop.models.conformer import ConvModule
from jaxprop.models.layers import INITS
from tests.models import audio


def test_the_shifted_products_are_a_depthwise_convolution():
    config = schema.Conformer(name="conformer", width=6, heads=1, kernel=5)
    module = ConvModule("c", config, INITS["glorot_uniform"], rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 6)), jnp.float32)
    real = np.arange(9) < np.array([[9], [4]])
    value, gate = jnp.split(module.gated(module.norm(x)), 2, -1)
    gated = jnp.where(real[..., None], value * jax.nn.sigmoid(gate), 0)
    mixed = jax.lax.conv_general_dilated(
        gated, module.depthwise[...][:, None, :], (1,), [(2, 2)], dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=6,
    )  # fmt: skip
    expected = module.out(jax.nn.silu(module.inner_norm(mixed)))
    np.testing.assert_allclose(module(x, jnp.asarray(real)), expected, rtol=1e-4, atol=1e-5)


def test_a_width_that_heads_do_not_divide_is_told():
    with pytest.raises(ConfigError, match="expected a multiple of 8 for 4 heads, got 12; write width: 16"):
        audio.model_of("conformer", width=12, heads=4)


def test_an_even_kernel_has_no_middle():
    with pytest.raises(ValueError, match="expected an odd number, got 4; write 5"):
        schema.Conformer(name="conformer", kernel=4)
