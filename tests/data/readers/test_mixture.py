"""Sources mixed from sections: examples one after another, and one sentence where they do not fit each other."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxprop.config.schema.data import (
    Arrays,
    Digits,
    HuggingFace,
    Images,
    Mixture,
    Random,
    Table,
    TextFiles,
    TrainedTokenizer,
)
from jaxprop.data import LENGTHS, READERS, MixtureStream, Phase, open_sources
from jaxprop.data.readers.mixture import join
from jaxprop.errors import DataError
from jaxprop.types import Source
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


def test_a_weight_of_one_batch_alone_is_one_for_the_others_in_it():
    """Fault: where a damaged record gave a batch weights, the examples of all other sources had the weight 0."""

    def part(bad):
        def take(indices):
            batch = {"inputs": np.ones((len(indices), 2), np.float32)}
            hurt = np.isin(indices, bad)
            return batch | ({"weight": np.where(hurt, 0, 1).astype(np.float32)} if hurt.any() else {})

        return Source(length=4, take=take, info={}, fingerprint="x")

    both = join([part([2]), part([])], "classify")
    assert both.take(np.array([0, 2, 4, 6]))["weight"].tolist() == [1, 0, 1, 1]
    assert "weight" not in both.take(np.array([0, 4]))


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
        (
            lambda: arrays("b.npz", inputs=X[:, :1]),
            r"b.npz:inputs: has examples of shape \(1, 2\), but a.npz:inputs of",
        ),
        (lambda: arrays("b.npz").model_copy(update={"standardize": True}), r"data.sources.1.standardize: is true, but"),
        (lambda: arrays("b.npz").model_copy(update={"classes": 5}), r"data.sources.1.classes: is 5, but .* is not set"),
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


# -- two files are prepared as one file of both ---------------------------------------------------


def rows(name, lines):
    Path(name).write_text("\n".join(["x,c,y", *lines]) + "\n", encoding="utf-8")
    return Table(name="table", train=name, target="y")


def numpy_rows(name, inputs, labels):
    return arrays(name, inputs, labels).model_copy(update={"standardize": True})


def arrow_rows(name, inputs, labels):
    columns = {f"x{i}": column for i, column in enumerate(inputs.T)}
    pq.write_table(pa.table(columns | {"label": labels}), name)
    return HuggingFace(name="huggingface", train=name, inputs=tuple(columns), standardize=True)


def images(name, numbers):
    for number in numbers:
        place = Path(name) / "abc"[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02}.png").write_bytes(pictures.encoded(np.full((3, 2), 7 * number, np.uint8)))
    return Images(name="images", train=name)


FIRST = [f"{i},{'uv'[i % 2]},{i % 3}" for i in range(9)]
SECOND = [f"{1000 + 7 * i},{'vw'[i % 2]},{i % 4 + 1}" for i in range(8)] + [",w,2"]
NUMBERS = np.random.default_rng(0).normal(size=(20, 3)) * [1, 10, 100]


def of_tables():
    return [rows("a.csv", FIRST), rows("b.csv", SECOND)], rows("both.csv", FIRST + SECOND), ["b.csv"]


def of_arrays():
    labels = np.arange(20) % 4
    parts = [numpy_rows("a.npz", NUMBERS[:8], labels[:8] % 2), numpy_rows("b.npz", NUMBERS[8:] + 50, labels[8:])]
    both = np.concatenate([NUMBERS[:8], NUMBERS[8:] + 50]), np.concatenate([labels[:8] % 2, labels[8:]])
    return parts, numpy_rows("both.npz", *both), ["b.npz"]


def of_huggingface():
    labels = np.arange(20) % 4
    parts = [
        arrow_rows("a.parquet", NUMBERS[:8], labels[:8] % 2),
        arrow_rows("b.parquet", NUMBERS[8:] + 50, labels[8:]),
    ]
    both = np.concatenate([NUMBERS[:8], NUMBERS[8:] + 50]), np.concatenate([labels[:8] % 2, labels[8:]])
    return parts, arrow_rows("both.parquet", *both), ["b.parquet"]


def of_images():
    """The second has two of the three classes, and brighter images."""
    second = [i for i in range(12, 30) if i % 3]
    return [images("a", range(6)), images("b", second)], images("both", [*range(6), *second]), ["b"]


@pytest.mark.parametrize(
    ("made", "task"),
    [
        *itertools.product([of_tables, of_arrays, of_huggingface], ["classify", "regress"]),
        (of_images, "classify"),
    ],
)
def test_a_mixture_of_two_files_is_prepared_as_one_file_of_both(made, task):
    parts, whole, new = made()
    section = mixed(*parts)
    train, single = open_sources(section, task)["train"], open_sources(whole, task)["train"]
    lengths = ("lengths",)
    told = {name: value for name, value in train.info.items() if name not in lengths and not name.endswith("_scale")}
    assert told == {name: value for name, value in single.info.items() if not name.endswith("_scale")}
    assert np.allclose(train.info.get("target_scale", 0), single.info.get("target_scale", 0), rtol=1e-9)

    def sorted_rows(source):
        batch = source.take(np.arange(source.length))
        flat = np.concatenate(
            [batch[name].reshape(source.length, -1).astype(float) for name in ("inputs", "labels")], 1
        )
        return flat[np.lexsort(flat.T.round(4))]

    assert np.allclose(sorted_rows(train), sorted_rows(single), atol=1e-6)
    # What is predicted is prepared as it was for training.
    prepared = json.loads(json.dumps(train.prepared))
    found = READERS["mixture"].inputs(section, task, prepared, new)
    trained = train.take(np.arange(train.info["lengths"][0], train.length))["inputs"]
    assert np.array_equal(found.take(np.arange(found.length))["inputs"], trained)


def test_a_mixture_of_two_lines_predicts_the_second_as_well():
    """The targets of both are in the units of both."""
    parts = [rows("a.csv", [f"{i},u,{i}" for i in range(9)]), rows("b.csv", [f"{i},u,{1000 + i}" for i in range(9)])]
    train = open_sources(mixed(*parts), "regress")["train"]
    ((mean, std),) = train.info["target_scale"]
    assert np.allclose(train.labels()[[0, 9]].ravel() * std + mean, [0, 1000], atol=1e-3)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (["one,u,1"] * 9, "b.csv: the column 'x' holds texts, but numbers in a.csv; correct its values"),
        ([",u,1"] * 9, "a.csv: uses the column 'x', which b.csv has not, or without any value"),
    ],
)
def test_tables_whose_columns_differ_are_refused(second, why):
    with pytest.raises(DataError, match=why):
        open_sources(mixed(rows("a.csv", FIRST), rows("b.csv", second)), "classify")


def test_what_sources_of_two_kinds_have_learned_is_not_combined():
    section = mixed(
        numpy_rows("a.npz", NUMBERS[:8], np.arange(8) % 2), arrow_rows("b.parquet", NUMBERS[8:], np.arange(12) % 2)
    )
    with pytest.raises(
        DataError, match=r"data.sources.1 \(huggingface\): is prepared by another scale than data.sources.0"
    ):
        open_sources(section, "classify")


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
