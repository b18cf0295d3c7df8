"""The MLP against the same products written out."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.models.mlp import Mlp
from jaxprop.types import Spec


def test_equals_the_products_written_out():
    spec = Spec({"inputs": jax.ShapeDtypeStruct((2, 3), jnp.float32)}, {"classes": 4})
    model = Mlp(schema.Mlp(name="mlp", hidden=(5, 6), activation="tanh"), spec, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
    h = x.reshape(7, 6)
    for layer in model.layers:
        h = np.tanh(h @ np.asarray(layer.dense.kernel[...]) + np.asarray(layer.dense.bias[...]))
    np.testing.assert_allclose(model(jnp.asarray(x)), h @ np.asarray(model.head.kernel[...]), rtol=1e-4, atol=1e-5)


def test_no_hidden_layer_is_a_linear_model():
    spec = Spec({"inputs": jax.ShapeDtypeStruct((6,), jnp.float32)}, {"classes": 4})
    model = Mlp(schema.Mlp(name="mlp", hidden=()), spec, rngs=nnx.Rngs(0))
    assert len(model.layers) == 0
    assert model(jnp.ones((2, 6))).shape == (2, 4)
