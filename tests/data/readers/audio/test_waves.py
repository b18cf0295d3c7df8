"""Audio files: rates, channels, and what is wrong with a file."""

import numpy as np
import pytest

from jaxprop.data.readers.audio.waves import UnreadableError, decode, probe, resampled

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
RATE = 8000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def write(path, samples=TONE, rate=RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_file(tmp_path, name):
    path = write(tmp_path / name)
    assert probe(path) == (RATE, 1, RATE)
    np.testing.assert_allclose(decode(path, RATE, "refuse"), TONE, atol=1e-4)
    np.testing.assert_array_equal(decode(path.read_bytes(), RATE, "refuse"), decode(path, RATE, "refuse"))


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
def test_another_rate_is_the_same_tone(tmp_path, rate):
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
    found = decode(write(tmp_path / "a.wav", tone, rate), RATE, "refuse")
    assert len(found) == RATE
    np.testing.assert_allclose(found[200:-200], TONE[200:-200], atol=5e-3)
    assert probe(tmp_path / "a.wav").at(RATE) == RATE


def test_two_channels_are_averaged_or_refused(tmp_path):
    path = write(tmp_path / "a.wav", np.stack([TONE, 0 * TONE], 1))
    np.testing.assert_allclose(decode(path, RATE, "average"), TONE / 2, atol=1e-4)
    with pytest.raises(UnreadableError, match=r"has 2 channels; set data\.channels: average"):
        decode(path, RATE, "refuse")


@pytest.mark.parametrize("keep", [50, 1000, 15_000])
def test_a_wav_that_is_cut_short(tmp_path, keep):
    path = write(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UnreadableError, match=r"is cut short: its header says that \d+ bytes more belong to it"):
        probe(path)


def test_a_flac_that_is_cut_short(tmp_path):
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32) * 0.1
    path = write(tmp_path / "a.flac", noise)
    path.write_bytes(path.read_bytes()[:9000])
    assert probe(path).samples == RATE  # what the header says
    with pytest.raises(UnreadableError, match=r"is cut short|is not audio that can be read"):
        decode(path, RATE, "refuse")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is an empty file"), (b"not audio at all", "is not audio"), (b"RIFF\x10\0\0\0WAVE", "is not audio")],
)
def test_what_is_no_audio(tmp_path, content, message):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=message):
        probe(path)


def test_samples_that_are_not_finite(tmp_path):
    broken = TONE.copy()
    broken[5] = np.nan
    path = write(tmp_path / "a.wav", broken, subtype="FLOAT")
    with pytest.raises(UnreadableError, match="NaN or infinite"):
        decode(path, RATE, "refuse")


def test_silence(tmp_path):
    with pytest.raises(UnreadableError, match=r"^is silent: all of its samples are 0$"):
        decode(write(tmp_path / "a.wav", 0 * TONE), RATE, "refuse")


def test_channels_that_cancel_each_other_are_silent(tmp_path):
    """Fault: silence was looked for before the channels were averaged."""
    with pytest.raises(UnreadableError, match=r"^has 2 channels whose mean is silent"):
        decode(write(tmp_path / "a.wav", np.stack([TONE, -TONE], 1)), RATE, "average")


def test_a_sample_that_no_integer_could_have_been_is_damage(tmp_path):
    """Fault: every loss was NaN, and the learning rate was blamed."""
    loud = TONE.copy()
    loud[7] = 1e29
    with pytest.raises(UnreadableError, match=r"^holds a sample of 1e\+29, where 1 is the loudest"):
        decode(write(tmp_path / "a.wav", loud, subtype="FLOAT"), RATE, "refuse")
    assert np.isfinite(decode(write(tmp_path / "b.wav", 2.0**31 * TONE, subtype="FLOAT"), RATE, "refuse")).all()


def test_no_samples(tmp_path):
    with pytest.raises(UnreadableError, match="holds no samples"):
        probe(write(tmp_path / "a.wav", TONE[:0]))


def test_the_same_rate_needs_no_library(monkeypatch):
    monkeypatch.setattr("jaxprop.data.readers.audio.waves.find_spec", lambda _: None)
    assert resampled(TONE, RATE, RATE) is not None
    with pytest.raises(ValueError, match="pip install soxr"):
        resampled(TONE, RATE, 16_000)
    with pytest.raises(ValueError, match="pip install soundfile"):
        decode(b"", RATE, "refuse")
