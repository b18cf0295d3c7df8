"""Images of any side."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.errors import ShapeError
from jaxprop.models.cnn import Cnn
from jaxprop.types import Spec


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 5, 3), (8, 8), (1, 1, 2), (3, 2, 1)])
def test_any_side(shape):
    section = schema.Cnn(name="cnn", channels=(4, 5, 6), hidden=())
    spec = Spec({"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}, {"classes": 10})
    out = nnx.eval_shape(lambda: Cnn(section, spec, rngs=nnx.Rngs(0))(jnp.ones((2, *shape))))
    assert out.shape == (2, 10)


@pytest.mark.parametrize("shape", [(8,), (2, 8, 8, 1)])
def test_not_an_image(shape):
    with pytest.raises(ShapeError, match=r"model cnn expected images \[H, W, C\]"):
        Cnn(
            schema.Cnn(name="cnn"),
            Spec({"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}, {"classes": 10}),
            rngs=nnx.Rngs(0),
        )
