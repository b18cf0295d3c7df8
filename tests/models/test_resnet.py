"""Sizes, blocks against their convolutions written out, batch norm's padding, depths that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.models import make_model
from jaxprop.models.layers import max_pool_3x3
from jaxprop.models.resnet import Block, ConvNorm, ResNet
from jaxprop.types import Spec

RNG = np.random.default_rng(0)


def section(**options):
    return schema.ResNet(name="resnet", **{"depths": (1, 1), "widths": (2, 4)} | options)


def spec(*shape):
    return Spec({"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}, {"classes": 10})


@pytest.mark.parametrize("stem", ["small", "large"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 5, 3), (8, 8), (1, 1, 2), (3, 2, 1)])
def test_any_size(shape, block, stem):
    config = section(stem=stem, block=block)
    out = nnx.eval_shape(lambda: ResNet(config, spec(*shape), rngs=nnx.Rngs(0))(jnp.ones((2, *shape))))
    assert out.shape == (2, 10)


@pytest.mark.parametrize("shape", [(8,), (2, 8, 8, 1)])
def test_not_an_image(shape):
    with pytest.raises(ShapeError, match=r"model resnet expected images \[H, W, C\]"):
        ResNet(section(), spec(*shape), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 1, 1)}, r"model.depths: expected one number for each of the 2 widths, got 3"),
        ({"norm": "group", "groups": 4}, r"model.groups: expected a divisor of every width, got 4, .* divide 2"),
    ],
)
def test_stages_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        ResNet(section(**options), spec(8, 8), rngs=nnx.Rngs(0))


def convolved(x, kernel, stride):
    """A convolution pixel by pixel."""
    side = kernel.shape[0]
    pad = side // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((n - side) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((x.shape[0], rows, columns, kernel.shape[-1]))
    for i, j in np.ndindex(rows, columns):
        window = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
        out[:, i, j] = np.tensordot(window, kernel, 3)
    return out


def normalized(x):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


def rectified(x):
    return np.maximum(x, 0)


def layer_written_out(layer, x, stride):
    return normalized(convolved(x, np.asarray(layer.conv.kernel[...]), stride)) * np.asarray(layer.norm.scale[...])


@pytest.mark.parametrize(("kind", "strides"), [("basic", (2, 1)), ("bottleneck", (1, 2, 1))])
def test_a_block_equals_its_convolutions_written_out(kind, strides):
    block = Block("stages/1/0", 3, 2, section(block=kind), stride=2, rngs=nnx.Rngs(0))
    block.layers[-1].norm.scale[...] = jnp.full(block.layers[-1].norm.scale.shape, 0.5)
    x = RNG.normal(size=(4, 6, 5, 3)).astype(np.float32)
    y = x
    for i, (layer, stride) in enumerate(zip(block.layers, strides, strict=True)):
        y = layer_written_out(layer, y, stride)
        y = y if i == len(strides) - 1 else rectified(y)
    expected = rectified(y + layer_written_out(block.shortcut, x, 2))
    np.testing.assert_allclose(block(jnp.asarray(x), None), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"block": "bottleneck"}, {"norm": "group", "groups": 2}], ids=str)
def test_a_block_starts_as_the_identity(options):
    channels = 8 if "block" in options else 2
    block = Block("stages/0/0", channels, 2, section(**options), stride=1, rngs=nnx.Rngs(0))
    x = jnp.asarray(RNG.normal(size=(2, 4, 4, channels)), jnp.float32)
    assert block.shortcut is None
    np.testing.assert_array_equal(block(x, None), jnp.maximum(x, 0))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_padding_changes_no_real_example(norm):
    model = make_model(section(norm=norm, groups=2), spec(6, 6, 1))
    batch = {"inputs": RNG.normal(size=(4, 6, 6, 1)).astype(np.float32), "weight": np.array([1, 1, 1, 0], np.float32)}
    params, extras = model.init(jax.random.key(0), batch)
    params = jax.tree.map(lambda x: x + 0.1, params)
    other = {**batch, "inputs": batch["inputs"].copy()}
    other["inputs"][-1] = 100
    (outputs, after), (same, again) = (
        model.apply(params, extras, one, key=jax.random.key(1), train=True) for one in (batch, other)
    )
    np.testing.assert_array_equal(outputs[:3], same[:3])
    jax.tree.map(np.testing.assert_array_equal, after, again)
    three, _ = model.apply(params, extras, {"inputs": batch["inputs"][:3]}, key=jax.random.key(1), train=True)
    np.testing.assert_allclose(outputs[:3], three, rtol=1e-4, atol=1e-5)


def test_the_stem_for_large_images_divides_the_size_by_four():
    def first_block_sees():
        model = ResNet(section(stem="large", depths=(1,), widths=(4,)), spec(33, 64, 3), rngs=nnx.Rngs(0))
        assert model.large
        assert model.stem.conv.kernel.shape == (7, 7, 3, 4)
        return max_pool_3x3(model.stem(jnp.ones((2, 33, 64, 3)), None))

    assert nnx.eval_shape(first_block_sees).shape == (2, 9, 16, 4)


def test_a_convolution_keeps_what_it_was_told_to():
    layer = ConvNorm("", 3, 4, section(), kernel=3, stride=2, rngs=nnx.Rngs(0))
    assert layer(jnp.ones((1, 5, 4, 3)), None).shape == (1, 3, 2, 4)
