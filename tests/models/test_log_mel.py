"""Log-mel features against plain NumPy, frame by frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.models.log_mel import EVEN, FLOOR, Mel, frames_of, log_mel, mel_of, triangles


def reference(samples, mel):
    """Features of one recording, by the formula of the docstring."""
    window = np.array([0.5 * (1 - np.cos(2 * np.pi * n / mel.window)) for n in range(mel.window)])
    rows = []
    for start in range(0, len(samples) - mel.window + 1, mel.hop):
        frame = samples[start : start + mel.window] * window
        spectrum = np.array([
            np.sum(frame * np.exp(-2j * np.pi * k * np.arange(mel.window) / mel.points))
            for k in range(mel.points // 2 + 1)
        ])  # fmt: skip
        rows.append(np.log(np.abs(spectrum) ** 2 @ bands(mel) + FLOOR))
    x = np.array(rows)
    return (x - x.mean(0)) / (x.std(0) + EVEN)


def bands(mel):
    def scale(f):
        return 2595 * np.log10(1 + f / 700)

    edges = np.linspace(0, scale(mel.rate / 2), mel.bands + 2)
    out = np.zeros((mel.points // 2 + 1, mel.bands))
    hertz = 700 * (10 ** (edges / 2595) - 1)
    for k in range(mel.points // 2 + 1):
        f = k * mel.rate / mel.points
        for m in range(mel.bands):
            low, peak, high = hertz[m : m + 3]
            if low < f <= peak:
                out[k, m] = (f - low) / (peak - low)
            elif peak < f < high:
                out[k, m] = (high - f) / (high - peak)
    return out


MELS = [Mel(8000, 200, 80, 23), Mel(16000, 400, 160, 40), Mel(1000, 32, 32, 5), Mel(1000, 30, 7, 4)]


@pytest.mark.parametrize("mel", MELS)
def test_features_are_those_of_the_formula(mel):
    rng = np.random.default_rng(0)
    lengths = np.array([mel.window * 6 + 3, mel.window * 3, mel.window])
    samples = rng.normal(size=(3, lengths.max())) * np.array([[0.3], [0.01], [1.0]])
    with jax.enable_x64(True):
        found, frames = log_mel(jnp.asarray(samples), jnp.asarray(lengths), mel)
        found = np.asarray(found)
    for i, length in enumerate(lengths):
        expected = reference(samples[i, :length], mel)
        assert len(expected) == frames[i]
        np.testing.assert_allclose(found[i, : frames[i]], expected, rtol=1e-7, atol=1e-9)
        assert not found[i, frames[i] :].any()
    single = log_mel(jnp.asarray(samples, jnp.float32), jnp.asarray(lengths), mel)[0]
    np.testing.assert_allclose(single[0], found[0], atol=2e-3)


@pytest.mark.parametrize("mel", MELS)
def test_the_triangles_are_those_of_the_formula(mel):
    np.testing.assert_allclose(triangles(mel), bands(mel), atol=1e-12)


def test_silence_and_nothing_are_finite():
    mel = mel_of(8000, 25.0, 10.0, 40)
    found, frames = log_mel(jnp.zeros((3, 1000)), jnp.array([1000, 100, 0]), mel)
    assert frames.tolist() == [11, 0, 0]
    assert np.isfinite(found).all()
    assert frames_of(jnp.array([199, 200, 280]), mel).tolist() == [0, 1, 2]


def test_loudness_does_not_matter_above_the_floor():
    mel, x = mel_of(8000, 25.0, 10.0, 40), np.random.default_rng(0).normal(size=(1, 4000)).astype(np.float32)
    one, two = (log_mel(scale * x, np.array([4000]), mel)[0] for scale in (1.0, 0.1))
    np.testing.assert_allclose(one, two, atol=1e-3)
