"""The panel of transcripts: the worst first, with a spectrogram that is that of the recording."""

import base64

import numpy as np
import pytest

from jaxprop.report.panels import as_json
from jaxprop.tasks.transcripts import WORST, edits, words, worst_transcripts

CHARACTERS = [" ", "a", "b"]
RATE = 8000


def tokens(text, size=8):
    row = [CHARACTERS.index(c) + 1 for c in text]
    return np.array(row + [0] * (size - len(row)), np.int32), len(row)


def panel(pairs):
    labels, counts = zip(*(tokens(label) for label, _ in pairs), strict=True)
    said, said_counts = zip(*(tokens(one) for _, one in pairs), strict=True)
    n = len(pairs)
    start = np.tile(np.arange(8) * 0.1, (n, 1))
    predictions = {
        "tokens": np.array(said), "count": np.array(said_counts), "start": start, "end": start + 0.05,
        "probability": np.ones(n),
    }  # fmt: skip
    predictions |= {"label_start": start + 0.01, "label_end": start + 0.06}
    wave = np.zeros((n, RATE), np.float32)
    wave[:, 4000:] = np.sin(2 * np.pi * 1000 * np.arange(4000) / RATE)
    batch = {
        "labels": np.array(labels), "label_lengths": np.array(counts), "inputs": wave,
        "input_lengths": np.full(n, RATE, np.int32),
    }  # fmt: skip
    return worst_transcripts(predictions, batch, characters=CHARACTERS, rate=RATE)


def test_the_worst_come_first():
    drawn = panel([("a b", "a b"), ("a b", "b"), ("a b", "b a"), *[("a", "a")] * 9])
    examples = drawn.data["examples"]
    assert len(examples) == WORST
    assert [(one["example"], one["errors"]) for one in examples[:3]] == [(2, 2), (1, 1), (0, 0)]
    assert (examples[0]["reference"], examples[0]["said"]) == ("a b", "b a")
    assert examples[0]["words"] == [["b", 0.0, 0.05], ["a", 0.2, 0.25]]
    assert examples[0]["reference_words"] == [["a", 0.01, 0.06], ["b", 0.21, 0.26]]


def test_the_picture_is_of_the_recording():
    one = panel([("a", "b")]).data["examples"][0]
    pixels = np.frombuffer(base64.b64decode(one["pixels"]), np.uint8).reshape(one["height"], one["width"])
    assert one["seconds"] == 1
    loud = pixels[:, one["width"] // 2 + 2 :].mean(1)
    assert 0.35 < 1 - loud.argmax() / one["height"] < 0.75  # the tone's band, of 0 Hz at the bottom
    assert pixels[:, : one["width"] // 2 - 2].mean() < loud.max() - 20


def test_the_report_takes_it_and_leaves_damaged_ones_out():
    data = panel([("a", "b"), ("b", "b")]).data
    kept = lambda data: as_json({"step": 1, "panels": [{"kind": "transcripts", "data": data}]})  # noqa: E731
    assert len(kept(data)["panels"][0]["examples"]) == 2
    for name, value in (("pixels", "!"), ("pixels", ""), ("width", 3), ("seconds", 0), ("height", None)):
        damaged = {"examples": [{**data["examples"][0], name: value}]}
        assert kept(damaged) is None, name


@pytest.mark.parametrize(("a", "b", "count"), [("", "", 0), ("ab", "", 2), ("ab", "ba", 2), ("abc", "axc", 1)])
def test_edits(a, b, count):
    assert edits(a, b) == edits(b, a) == count


def test_words_have_the_times_of_their_letters():
    assert words([1, 2, 1, 1, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5], CHARACTERS) == [
        {"word": "a", "start": 1.0, "end": 2.0},
        {"word": "b", "start": 4.0, "end": 5.0},
    ]
