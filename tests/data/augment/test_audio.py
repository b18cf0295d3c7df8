"""Augmentations of audio: their distributions, and what they keep."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.schema import augment as schema
from jaxprop.data.augment import AUGMENTATIONS, make_augmentation
from jaxprop.data.augment.audio import background_noise, spec_augment, speed
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.types import Spec

KEY = jax.random.key(0)
SETTINGS = {"spec_augment": {}, "speed": {"change": 0.2}, "background_noise": {}}


def batch_of(count=64, size=800):
    lengths = np.linspace(size // 2, size, count).astype(np.int32)
    time = np.arange(size) / 8000
    inputs = np.sin(2 * np.pi * 500 * time)[None] * (np.arange(size) < lengths[:, None])
    return {"inputs": inputs.astype(np.float32), "input_lengths": lengths, "labels": np.ones((count, 2), np.int32)}


@pytest.fixture(params=SETTINGS)
def augment(request):
    return partial(AUGMENTATIONS[request.param], **SETTINGS[request.param])


def test_it_follows_its_key_and_is_the_same_under_jit(augment):
    batch = batch_of()
    found, compiled = augment(KEY, batch), jax.jit(augment)(KEY, batch)
    other = augment(jax.random.key(1), batch)
    assert found["inputs"].shape == batch["inputs"].shape
    assert found["input_lengths"].dtype == np.int32
    for name in found:
        np.testing.assert_allclose(found[name], compiled[name], atol=1e-5)
    assert any((np.asarray(found[name]) != np.asarray(other[name])).any() for name in found)
    np.testing.assert_array_equal(found["labels"], batch["labels"])


def test_what_is_padded_stays_zero_and_reaches_nothing(augment):
    batch = batch_of()
    found = augment(KEY, batch)
    real = np.arange(800) < np.asarray(found["input_lengths"])[:, None]
    assert not np.asarray(found["inputs"])[~real].any()
    alone = {name: value[:1] for name, value in batch.items()}
    changed = {**batch, "inputs": np.concatenate([batch["inputs"][:1], batch["inputs"][1:] + 1])}
    np.testing.assert_array_equal(found["inputs"][0], augment(KEY, changed)["inputs"][0])
    assert augment(KEY, alone)["inputs"].shape == (1, 800)


def test_masks_have_widths_up_to_their_shares():
    batch = batch_of(count=2000)
    found = spec_augment(KEY, batch, bands=1, band_share=0.3, times=3, time_share=0.2)
    bands, times = np.asarray(found["masked_bands"]), np.asarray(found["masked_times"])
    assert (bands.shape, times.shape) == ((2000, 1, 2), (2000, 3, 2))
    widths = bands[..., 1] - bands[..., 0]
    assert 0 <= widths.min() < 0.01
    assert 0.29 < widths.max() <= 0.3
    assert bands.min() >= 0
    assert bands.max() <= 1
    share = (times[..., 1] - times[..., 0]) / batch["input_lengths"][:, None]
    assert 0.19 < share.max() <= 0.2001
    assert share.mean() == pytest.approx(0.1, rel=0.05)
    assert (times[..., 1] <= batch["input_lengths"][:, None] + 1e-3).all()


def test_a_tone_that_is_played_faster_is_higher():
    batch = batch_of(count=32, size=4000)
    batch["input_lengths"][:] = 3000
    batch["inputs"][:, 3000:] = 0
    found = speed(KEY, batch, change=0.2)
    lengths = np.asarray(found["input_lengths"])
    assert 2500 <= lengths.min() < 2700
    assert 3500 < lengths.max() <= 3750
    for wave, length in zip(np.asarray(found["inputs"]), lengths, strict=True):
        rate = 3000 / length
        spectrum = np.abs(np.fft.rfft(wave[:length] * np.hanning(length)))
        assert np.fft.rfftfreq(length, 1 / 8000)[spectrum.argmax()] == pytest.approx(500 * rate, abs=4)


def test_what_would_not_fit_is_not_slowed_down():
    batch = batch_of()
    found = speed(KEY, {**batch, "input_lengths": np.full(64, 800, np.int32)}, change=0.2)
    assert (np.asarray(found["input_lengths"]) <= 800).all()
    slowed = np.asarray(found["input_lengths"]) == 800
    assert slowed.any()
    np.testing.assert_allclose(np.asarray(found["inputs"])[slowed], batch["inputs"][slowed], atol=1e-5)


def test_noise_has_its_ratio():
    batch = batch_of(count=200)
    added = np.asarray(background_noise(KEY, batch, low=0.0, high=20.0)["inputs"]) - batch["inputs"]
    ratio = []
    for noise, wave, length in zip(added, batch["inputs"], batch["input_lengths"], strict=True):
        ratio.append(10 * np.log10(np.square(wave).sum() / np.square(noise[:length]).sum()))
    assert -1 < min(ratio) < 2
    assert 18 < max(ratio) < 21
    assert np.mean(ratio) == pytest.approx(10, abs=1)
    some = background_noise(KEY, batch, probability=0.5)["inputs"] != batch["inputs"]
    assert 60 < np.asarray(some).any(1).sum() < 140


def test_a_configuration_of_all_of_them():
    sections = [schema.Speed(name="speed"), schema.BackgroundNoise(name="background_noise"),
                schema.SpecAugment(name="spec_augment")]  # fmt: skip
    batch = batch_of()
    spec = Spec({name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in batch.items()}, {})
    found = make_augmentation(sections, spec)(KEY, batch)
    assert found.keys() == batch.keys() | {"masked_bands", "masked_times"}
    with pytest.raises(ValueError, match="expected low to be at most high"):
        schema.BackgroundNoise(name="background_noise", low=50.0)
    images = Spec({"inputs": jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)}, {})
    with pytest.raises(ConfigError, match=r"data\.augment\.0: speed needs audio"):
        make_augmentation(sections, images)


def test_integers_are_no_audio(augment):
    with pytest.raises(ShapeError, match="needs floating-point inputs"):
        augment(KEY, {"inputs": np.zeros((2, 5), np.int32)})
