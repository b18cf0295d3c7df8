"""Sources mixed from sections: examples one after another, and one sentence where they do not fit each other."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxprop.config.schema.data import Arrays, Digits, HuggingFace, Images, Mixture, Random, TextFiles, TrainedTokenizer
from jaxprop.data import LENGTHS, READERS, MixtureStream, Phase, open_sources
from jaxprop.errors import DataError
from tests import pictures

X = np.linspace(-1, 1, 48).reshape(12, 2, 2).astype(np.float32)
CLASSES = np.arange(12) % 3


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def arrays(name, inputs=X, labels=CLASSES, **more):
    np.savez(name, inputs=inputs, labels=labels, **more)
    return Arrays(name="arrays", train=name)


def mixed(*sources, **settings):
    return Mixture(name="mixture", sources=sources, **settings)


def test_examples_of_all_sources_stand_one_after_another():
    section = mixed(arrays("a.npz"), arrays("b.npz", inputs=X[:5] + 1, labels=CLASSES[:5]))
    train = open_sources(section, "classify")["train"]
    assert (train.length, train.info) == (17, {"classes": 3, "lengths": [12, 5]})
    batch = train.take(np.array([16, 0, 12, 11]))
    assert np.array_equal(batch["inputs"], np.stack([X[4] + 1, X[0], X[0] + 1, X[11]]))
    assert batch["labels"].tolist() == [CLASSES[4], CLASSES[0], CLASSES[0], CLASSES[11]]
    assert train.labels().tolist() == [*CLASSES, *CLASSES[:5]]


def test_a_weight_that_only_some_have_is_one_for_the_others():
    section = mixed(arrays("a.npz"), arrays("b.npz", weight=np.full(12, 0.5)))
    batch = open_sources(section, "classify")["train"].take(np.array([0, 12]))
    assert batch["weight"].tolist() == [1, 0.5]


def test_splits_of_all_sources_are_joined_and_a_fraction_holds_for_each():
    first = arrays("a.npz").model_copy(update={"test": "a.npz"})
    section = mixed(first, arrays("b.npz"), validation=0.25)
    sources = open_sources(section, "classify")
    assert {name: source.length for name, source in sources.items()} == {"train": 18, "validation": 6, "test": 12}
    assert sources["train"].info["lengths"] == [9, 9]


def test_what_was_learned_prepares_a_run_that_is_used():
    pictures.folder("a")
    pictures.folder("b", each=2)
    first, second = (Images(name="images", train=name, test="b") for name in "ab")
    section = mixed(first, second)
    opened = open_sources(section, "classify")
    prepared = json.loads(json.dumps(opened["train"].prepared))
    again = open_sources(section, "classify", prepared)
    assert again["test"].fingerprint == opened["test"].fingerprint
    found = READERS["mixture"].inputs(section, "classify", prepared, ["b"])
    assert np.array_equal(found.take(np.array([0]))["inputs"], opened["test"].take(np.array([0]))["inputs"])


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (lambda: arrays("b.npz", inputs=X[:, :1]), r"data.sources.1 \(arrays\): has inputs of shape \(1, 2\)"),
        (lambda: arrays("b.npz", labels=np.arange(12)), r"data.sources.1 \(arrays\): has the classes 12, but .* 3"),
        (lambda: Digits(name="digits"), r"data.sources.1 \(digits\): has inputs of shape \(8, 8, 1\)"),
    ],
)
def test_sources_that_do_not_fit_each_other_are_refused(second, why):
    with pytest.raises(DataError, match=why):
        open_sources(mixed(arrays("a.npz"), second()), "classify")


def test_a_source_without_files_predicts_nothing():
    section = mixed(Random(name="random"), Random(name="random"))
    with pytest.raises(DataError, match="has no files that could be predicted"):
        READERS["mixture"].inputs(section, "classify", {"sources": [{}, {}]}, ["x"])


# -- text -----------------------------------------------------------------------------------------


def text(name, count, **settings):
    """A file of one letter, so that each window says which source it is of."""
    Path(name).write_text(name[0] * count, encoding="utf-8")
    return TextFiles(name="text", train=name, sequence_length=8, **settings)


def texts(**settings):
    """A plain file, and a column of Parquet rows."""
    pq.write_table(pa.table({"body": ["b" * 100] * 4}), "b.parquet")
    rows = HuggingFace(name="huggingface", train="b.parquet", inputs="body", sequence_length=8)
    return mixed(text("a.txt", 400), rows, **settings)


def test_a_language_model_learns_from_a_mixture_of_texts():
    sources = open_sources(texts(validation=0.1), "language")
    info, batch = sources["train"].info, sources["train"].take(np.array([0, 50]))
    assert (info["vocabulary"], info["documents"], info["bytes"]) == (256, 5, 361 + 364)
    assert "unigram_nats" not in info
    assert [chr(row[0]) for row in batch["inputs"]] == ["a", "b"]
    prepared = json.loads(json.dumps(sources["train"].prepared))
    assert prepared["tokenizer"] == {"kind": "bytes"}
    again = open_sources(texts(validation=0.1), "language", prepared)
    assert again["validation"].fingerprint == sources["validation"].fingerprint


PHASES = [Phase(0, (1.0, 0.0)), Phase(3, (1.0, 3.0)), Phase(9, (0.0, 1.0))]


@pytest.mark.parametrize("stop", [0, 2, 3, 8, 13])
def test_a_mixture_of_texts_with_weights_by_step_goes_on_with_the_exact_next_batch(stop):
    def stream():
        train = open_sources(texts(), "language")["train"]
        return MixtureStream(train, train.info[LENGTHS], PHASES, batch_size=4, seed=5)

    uninterrupted, stopped, resumed = stream(), stream(), stream()
    expected = [next(uninterrupted) for _ in range(16)]
    shares = [(batch["inputs"][:, 0] == ord("b")).mean() for batch in expected]
    assert shares[:3] == [0, 0, 0]
    assert shares[9:] == [1] * 7
    assert np.mean(shares[3:9]) == 0.75
    for _ in range(stop):
        next(stopped)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    for batch in expected[stop:]:
        found = next(resumed)
        assert batch.keys() == found.keys()
        assert all(np.array_equal(found[name], values) for name, values in batch.items())


def test_texts_of_another_tokenizer_or_length_are_refused():
    section = mixed(text("a.txt", 400), text("b.txt", 400, tokenizer=TrainedTokenizer(train="bpe", vocabulary=260)))
    with pytest.raises(DataError, match=r"data.sources.1 \(text\): has another tokenizer than data.sources.0 .*; set"):
        open_sources(section, "language")
    longer = text("b.txt", 400).model_copy(update={"sequence_length": 9})
    with pytest.raises(DataError, match=r"data.sources.1 \(text\): has inputs of shape \(9,\) .*, but data.sources.0"):
        open_sources(mixed(text("a.txt", 400), longer), "language")
