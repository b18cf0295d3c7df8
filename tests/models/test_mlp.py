"""The MLP against the same products written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.precision import cast_floating
from jaxprop.errors import ShapeError
from jaxprop.models import make_model
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


# -- categories -----------------------------------------------------------------------------------

CATEGORIES = np.array([[1, 0], [0, 2], [1, 1]], np.int32)


def of_categories(numbers=3, **options):
    shapes = {
        "inputs": jax.ShapeDtypeStruct((numbers,), jnp.float32),
        "categories": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    spec = Spec(shapes, {"targets": 1, "categories": (2, 3)})
    batch = {"inputs": np.random.default_rng(0).normal(size=(3, numbers)).astype(np.float32), "categories": CATEGORIES}
    return make_model(schema.Mlp(name="mlp", hidden=(4,), **options), spec), batch


def first_layer(params, columns):
    dense = params["layers"][0]["dense"]
    hidden = np.maximum(columns @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]), 0)
    return hidden @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])


def test_categories_stand_one_hot_beside_the_numbers():
    model, batch = of_categories()
    params, extras = model.init(jax.random.key(0), batch)
    columns = np.concatenate([batch["inputs"], np.eye(2)[CATEGORIES[:, 0]], np.eye(3)[CATEGORIES[:, 1]]], 1)
    outputs, _ = model.apply(params, extras, batch, key=None, train=False)
    np.testing.assert_allclose(outputs, first_layer(params, columns), rtol=1e-4, atol=1e-5)
    assert "categories" not in params


def test_categories_are_looked_up_in_a_table_for_each_column():
    model, batch = of_categories(embedding=5)
    params, extras = model.init(jax.random.key(0), batch)
    tables = [np.asarray(params["categories"]["tables"][i]["embedding"]) for i in range(2)]
    assert [table.shape for table in tables] == [(2, 5), (3, 5)]
    columns = np.concatenate([batch["inputs"], tables[0][CATEGORIES[:, 0]], tables[1][CATEGORIES[:, 1]]], 1)
    outputs, _ = model.apply(params, extras, batch, key=None, train=False)
    np.testing.assert_allclose(outputs, first_layer(params, columns), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("embedding", ["one-hot", 2])
def test_categories_alone_in_bfloat16_and_one_that_is_unknown(embedding):
    model, batch = of_categories(numbers=0, embedding=embedding)
    params, extras = model.init(jax.random.key(0), batch)
    low = cast_floating(params, jnp.bfloat16)
    for bad in (3, -1):
        unknown = {"inputs": batch["inputs"].astype(jnp.bfloat16), "categories": CATEGORIES.copy()}
        unknown["categories"][1, 1] = bad
        outputs, _ = model.apply(low, extras, unknown, key=None, train=False)
        assert outputs.dtype == jnp.bfloat16
        assert jnp.isnan(outputs[:, 0]).tolist() == [False, True, False]


def test_a_batch_without_the_categories_of_its_spec():
    model, batch = of_categories()
    params, extras = model.init(jax.random.key(0), batch)
    for categories in ({}, {"categories": CATEGORIES[:, :1]}):
        with pytest.raises(ShapeError, match=r"expected batch\['categories'\] \[B, 2\]"):
            model.apply(params, extras, {"inputs": batch["inputs"], **categories}, key=None, train=False)
