"""Patches, positions, pooling, and patches that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.models.vit import Vit, patches, sincos_positions
from jaxprop.types import Spec

RNG = np.random.default_rng(0)


def tiny(*shape, **options):
    section = schema.Vit(name="vit", **{"layers": 1, "width": 8, "heads": 2, "patch": 2} | options)
    spec = Spec({"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}, {"classes": 10})
    return Vit(section, spec, rngs=nnx.Rngs(0))


def test_patches_are_squares_of_the_image_row_by_row():
    x = RNG.normal(size=(2, 6, 4, 3)).astype(np.float32)
    found = np.asarray(patches(jnp.asarray(x), 2)).reshape(2, 3, 2, 2, 2, 3)
    for i, j in np.ndindex(3, 2):
        np.testing.assert_array_equal(found[:, i, j], x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2])


def test_sines_and_cosines_of_row_and_column():
    found = sincos_positions(3, 2, 8, jnp.dtype("float32"))
    for n, (y, x) in enumerate(np.ndindex(3, 2)):
        expected = [f(at * w) for at in (y, x) for f in (np.sin, np.cos) for w in (1.0, 0.01)]
        np.testing.assert_allclose(found[n], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("positions", ["learned", "sincos"])
@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (4, 6, 3), (4, 4), (2, 2, 1)])
def test_any_image_that_patches_divide(shape, pool, positions):
    out = nnx.eval_shape(lambda: tiny(*shape, pool=pool, positions=positions)(jnp.ones((2, *shape))))
    assert out.shape == (2, 10)


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_equals_its_parts_written_out(pool):
    model = tiny(4, 4, 1, pool=pool)
    x = jnp.asarray(RNG.normal(size=(3, 4, 4, 1)), jnp.float32)
    h = np.asarray(patches(x, 2)) @ np.asarray(model.embed.kernel[...])  # biases start at zero
    if pool == "token":
        h = np.concatenate([np.tile(np.asarray(model.token.embedding[...]), (3, 1, 1)), h], 1)
    h = model.blocks[0](jnp.asarray(h + np.asarray(model.positions.embedding[...])))
    h = np.asarray(model.final_norm(h))
    pooled = h[:, 0] if pool == "token" else h.mean(1)
    np.testing.assert_allclose(model(x), pooled @ np.asarray(model.head.kernel[...]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_the_place_of_a_patch_matters(positions):
    model = tiny(4, 4, 1, positions=positions, pool="mean", width=16)
    if model.positions is not None:
        model.positions.embedding[...] *= 50
    x = jnp.asarray(RNG.normal(size=(1, 4, 4, 1)), jnp.float32)
    assert jnp.abs(model(x) - model(x[:, ::-1])).max() > 1e-3


@pytest.mark.parametrize("shape", [(8,), (2, 8, 8, 1)])
def test_not_an_image(shape):
    with pytest.raises(ShapeError, match=r"model vit expected images \[H, W, C\]"):
        tiny(*shape)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((28, 28, 1), r"images, 28 x 28, got 5; write patch: 1, 2, 4, 7, 14 or 28"),
        ((5, 7, 1), r"images, 5 x 7, got 5; write patch: 1$"),
    ],
)
def test_patches_that_do_not_divide_the_image(shape, message):
    with pytest.raises(ConfigError, match=r"model.patch: expected a divisor .*" + message):
        tiny(*shape, patch=5)
