"""Generated words: seeded, of speakers of their own, and padded without a trace."""

import numpy as np
import pytest

from jaxprop.config.schema.data import Tones
from jaxprop.data.readers.audio.tones import PHONES, RATE, WORDS, open_tones, sound, utterance


@pytest.fixture(scope="module")
def opened():
    return open_tones(Tones(name="tones", examples=12, test_examples=5))


def test_a_batch(opened):
    train = opened["train"]
    batch = train.take(np.arange(12))
    assert {name: x.dtype.name for name, x in batch.items()} == {
        "inputs": "float32", "input_lengths": "int32", "labels": "int32", "label_lengths": "int32",
    }  # fmt: skip
    assert (train.info["sample_rate"], train.info["vocabulary"]) == (RATE, len(PHONES) + 1)
    characters = train.info["characters"]
    for row in range(12):
        text = "".join(characters[k - 1] for k in batch["labels"][row][: batch["label_lengths"][row]])
        assert set(text.split()) <= set(WORDS)
        assert 2 <= len(text.split()) <= 4
        length = batch["input_lengths"][row]
        assert not batch["inputs"][row, length:].any()
        assert not batch["labels"][row, batch["label_lengths"][row] :].any()
        assert 0.15 < np.abs(batch["inputs"][row]).max() < 0.95
    assert batch["inputs"].shape[1] * 10 % RATE == 0


def test_it_is_the_same_each_time_and_splits_differ(opened):
    again = open_tones(Tones(name="tones", examples=12, test_examples=5))
    for split in ("train", "test"):
        one, two = (s[split].take(np.arange(5)) for s in (opened, again))
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
        assert opened[split].fingerprint == again[split].fingerprint
    assert opened["train"].fingerprint != opened["test"].fingerprint
    other = open_tones(Tones(name="tones", examples=12, test_examples=5, data_seed=1))
    assert other["train"].fingerprint != opened["train"].fingerprint
    heard = [split.take(np.arange(5))["inputs"] for split in (opened["train"], other["train"])]
    assert heard[0].shape != heard[1].shape or (heard[0] != heard[1]).any()


def test_vowels_have_their_formants():
    """The spectrum of a vowel is stronger around its first formant than an octave and a half above it."""
    said = utterance(np.random.default_rng(0))._replace(text="i", durations=(400, 4000, 400), scale=1.0, noise=0.0)
    for letter in "aeiou":
        wave = sound(said._replace(text=letter))[800:4000]
        power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
        hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
        first = PHONES[letter].formants[0]
        near, off = (power[np.abs(hertz - f) < 150].sum() for f in (first, 3.2 * first + 600))
        assert near > 5 * off, letter


def test_buckets_hold_recordings_of_their_length():
    train = open_tones(Tones(name="tones", examples=30, test_examples=2, buckets=3))["train"]
    sizes, of = train.buckets.sizes, train.buckets.of()
    batch = train.take(np.arange(30))
    assert len(sizes) == 3
    assert sizes[-1] == batch["inputs"].shape[1]
    assert all(batch["input_lengths"][i] <= sizes[of[i]] for i in range(30))
    cut = train.buckets.cut({**batch, "inputs": batch["inputs"][of == 0]}, sizes[0])
    assert cut["inputs"].shape[1] == sizes[0]
