"""Models of audio: what all of them promise, and the pieces they share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.core.precision import cast_floating, policy
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.losses.ctc import ctc
from jaxprop.models.log_mel import Mel, log_mel
from jaxprop.models.speech import TimeConv, features
from jaxprop.train.objective import loss_from
from jaxprop.types import Spec
from tests.gradients import check
from tests.models import audio

NAMES = list(audio.SMALL)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_gradients(x64, name):
    check(*audio.loss_of(name, activation="silu"))


def test_an_example_alone_has_the_outputs_that_it_has_in_a_batch(name):
    model, batch = audio.model_of(name), audio.batch_of()
    params, extras = audio.drawn(model, batch)
    found = audio.outputs_of(model, params, extras, batch)
    for i, length in enumerate(batch["input_lengths"].tolist()):
        alone = {key: value[i : i + 1] for key, value in batch.items()} | {
            "inputs": batch["inputs"][i : i + 1, :length]
        }
        single = audio.outputs_of(model, params, extras, alone)
        frames = int(found["lengths"][i])
        assert frames == int(single["lengths"][0]) == single["logits"].shape[1]
        np.testing.assert_allclose(found["logits"][i, :frames], single["logits"][0], rtol=2e-4, atol=2e-5)


def test_what_padding_holds_reaches_nothing(name):
    model, batch = audio.model_of(name), audio.batch_of()
    params, extras = audio.drawn(model, batch)
    real = np.arange(batch["inputs"].shape[1]) < batch["input_lengths"][:, None]
    noisy = {**batch, "inputs": np.where(real, batch["inputs"], 7).astype(np.float32)}
    one, two = (audio.outputs_of(model, params, extras, b) for b in (batch, noisy))
    frames = np.arange(one["logits"].shape[1]) < np.asarray(one["lengths"])[:, None]
    np.testing.assert_array_equal(np.asarray(one["logits"])[frames], np.asarray(two["logits"])[frames])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_compute_dtype_is_that_of_the_params(name, dtype):
    model, batch = audio.model_of(name), audio.batch_of()
    params, extras = audio.drawn(model, batch)
    low = model.apply(cast_floating(params, dtype), extras, batch, key=audio.KEY, train=True)[0]
    assert low["logits"].dtype == dtype
    assert low["lengths"].dtype == jnp.int32
    assert np.isfinite(np.asarray(low["logits"], np.float32)).all()


def test_dropout_follows_the_key_and_evaluation_is_deterministic(name):
    model, batch = audio.model_of(name, dropout=0.5), audio.batch_of()
    params, extras = audio.drawn(model, batch)
    train = jax.jit(lambda key: model.apply(params, extras, batch, key=key, train=True)[0]["logits"])
    assert (train(jax.random.key(0)) == train(jax.random.key(0))).all()
    assert (train(jax.random.key(0)) != train(jax.random.key(1))).any()
    np.testing.assert_array_equal(*(audio.outputs_of(model, params, extras, batch)["logits"] for _ in range(2)))


def test_masks_of_spec_augment_are_read(name):
    model, batch = audio.model_of(name), audio.batch_of()
    params, extras = audio.drawn(model, batch)
    whole = {"masked_bands": np.tile(np.array([0, 1], np.float32), (4, 1, 1))}
    none = {"masked_bands": np.zeros((4, 2, 2), np.float32), "masked_times": np.zeros((4, 2, 2), np.float32)}
    plain, masked, unmasked = (
        audio.outputs_of(model, params, extras, batch | more)["logits"] for more in ({}, whole, none)
    )
    np.testing.assert_allclose(plain, unmasked, rtol=1e-5, atol=1e-6)
    assert np.abs(plain - masked).max() > 1e-3


def test_readable_paths(name):
    model, batch = audio.model_of(name), audio.batch_of()
    paths = leaf_paths(jax.eval_shape(model.init, audio.KEY, batch)[0])
    expected = {"conv_bilstm": "layers/1/backward/recurrent/kernel", "conformer": "blocks/0/conv/depthwise"}
    assert {"convs/0/dense/kernel", "head/kernel", expected[name]} <= set(paths)


def test_what_is_no_audio_is_told(name):
    spec = Spec({"inputs": jax.ShapeDtypeStruct((5, 5), jnp.float32)}, {"classes": 3})
    with pytest.raises(ShapeError, match=f"model {name} expected samples of audio"):
        audio.model_of(name, spec)
    with pytest.raises(ConfigError, match=r"hop_ms: expected at most window_ms \(10\)"):
        audio.model_of(name, window_ms=10.0, hop_ms=20.0)


def test_masks_are_zeros_of_the_features():
    mel = Mel(8000, 200, 80, 20)
    x = np.random.default_rng(0).normal(size=(1, 4000)).astype(np.float32)
    plain, frames = log_mel(x, np.array([4000]), mel)
    bands, times = np.array([[[0.25, 0.5]]], np.float32), np.array([[[800, 1600]]], np.float32)
    masked, same = features(x, np.array([4000]), mel, bands, times)
    assert frames == same
    held = np.asarray(masked[0] != 0)
    centres = np.arange(plain.shape[1]) * 80 + 100
    assert not held[:, 5:10].any()
    assert not held[(centres >= 800) & (centres < 1600)].any()
    rest = np.ones(held.shape, bool)
    rest[:, 5:10] = False
    rest[(centres >= 800) & (centres < 1600)] = False
    np.testing.assert_array_equal(np.asarray(masked[0])[rest], np.asarray(plain[0])[rest])


def test_masked_frames_have_no_huge_gradients_at_the_start(name):
    model = audio.model_of(name, **({"channels": (32, 32)} if name == "conv_bilstm" else {"width": 32}))
    batch = audio.batch_of() | {"masked_times": np.tile(np.array([100, 300], np.float32), (4, 1, 1))}
    params, extras = jax.jit(model.init)(audio.KEY, batch)
    loss = loss_from(model, ctc, cast=()).mean_loss
    grads = jax.jit(jax.grad(lambda params: loss(params, extras, batch, audio.KEY, policy("float32"))[0]))(params)
    norms = [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(grads)]
    assert max(norms) < 100 * np.median(norms)


@pytest.mark.parametrize(("kernel", "stride", "time"), [(3, 1, 7), (5, 2, 8), (5, 2, 7), (7, 3, 10), (3, 4, 5)])
def test_a_convolution_over_time_is_one(kernel, stride, time):
    conv = TimeConv(
        "c", 3, 4, kernel=kernel, stride=stride, activation="relu", init="he_normal", rngs=nnx.Rngs(0)
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(2, time, 3)).astype(np.float32)
    found, frames = conv(jnp.asarray(x), jnp.array([time, 2]))
    x[1, 2:] = 0
    weights = np.asarray(conv.dense.kernel[...]).reshape(kernel, 3, 4)
    around = kernel // 2
    y = jax.lax.conv_general_dilated(
        jnp.asarray(x), weights, (stride,), [(around, around)], dimension_numbers=("NWC", "WIO", "NWC")
    )
    np.testing.assert_allclose(found, jax.nn.relu(conv.norm(y + conv.dense.bias[...])), rtol=1e-4, atol=1e-5)
    assert frames.tolist() == [-(-time // stride), -(-2 // stride)]
