"""Recordings as a source: lengths, padding, and recordings that turn out to be damaged."""

import numpy as np

from jaxprop.data.readers.audio.alphabet import Alphabet
from jaxprop.data.readers.audio.recordings import padded, recordings, rounded


def test_lengths_are_rounded_up():
    assert [rounded(n, 8000) for n in (0, 1, 800, 801)] == [800, 800, 800, 1600]
    rows, lengths = padded([np.ones(2), np.ones(5)], 4)
    assert (rows.sum(1).tolist(), lengths.tolist()) == ([2, 4], [2, 4])


def test_a_damaged_recording_weighs_nothing():
    waves = [np.ones(500, np.float32), None, np.ones(900, np.float32)]
    source = recordings("t", waves.__getitem__, np.array([500, 700, 900]), ["a", "ab", "b"], Alphabet("ab"), rate=1000)
    batch = source.take(np.array([0, 1, 2]))
    assert batch["weight"].tolist() == [1, 0, 1]
    assert batch["input_lengths"].tolist() == [500, 0, 900]
    assert "weight" not in source.take(np.array([0, 2]))
    assert source.labels().tolist() == [[1, 0], [1, 2], [2, 0]]
    assert source.prepared == {"characters": ["a", "b"], "sample_rate": 1000}
