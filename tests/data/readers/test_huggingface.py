"""Data sets of the library `datasets`, Arrow and Parquet: images and numbers by the names of their columns."""

import datetime
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprop.config.schema.data import HuggingFace, TextFiles, TrainedTokenizer
from jaxprop.data.readers.huggingface import huggingface_inputs, open_huggingface
from jaxprop.data.readers.text import open_text
from jaxprop.data.stream import Stream
from jaxprop.errors import DataError, JaxpropError, UsageError
from tests import pictures
from tests.pictures import NAMES, brightness, encoded, everything


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def section(**settings):
    return HuggingFace(name="huggingface", **{"inputs": "image"} | settings)


def opened(task="classify", prepared=None, **settings):
    return open_huggingface(section(**settings), task, prepared)


def whole(source):
    return source.take(np.arange(source.length))


ROWS = {
    "age": [20, 30, 40, 50],
    "height": [1.5, 1.75, 1.5, 2.0],
    "pair": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]],
    "tokens": [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 1, 2]],
    "ragged": [[1], [1, 2], [1], [1]],
    "missing": [1.0, None, 2.0, 3.0],
    "words": ["a", "b", "c", "d"],
    "kind": ["no", "yes", "no", "yes"],
    "some": ["no", None, "yes", None],
    "rate": [0.5, 1.0, 1.5, 2.0],
    "when": [datetime.date(2000, 1, 1)] * 4,
}


def rows(path, kind="parquet"):
    held = pa.table(ROWS)
    if kind == "parquet":
        pq.write_table(held, path, row_group_size=3)
    else:
        new = pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream
        with pa.OSFile(path, "wb") as sink, new(sink, held.schema) as writer:
            writer.write_table(held, max_chunksize=3)
    return path


@pytest.mark.parametrize("place", ["folder", "file", "parquet"])
def test_images_are_those_of_the_reader_images(place):
    folder = pictures.as_arrow("made")
    path = {"folder": folder, "file": f"{folder}/data-0.arrow", "parquet": pictures.as_parquet("other")}[place]
    source = opened(train=path)["train"]
    batch = whole(source)
    assert source.info["class_names"] == list(NAMES)
    assert batch["labels"].tolist() == [label for label, _ in everything()]
    prepared = source.prepared
    values = np.round((batch["inputs"][:, 0, 0, 0] * prepared["std"][0] + prepared["mean"][0]) * 255)
    assert values.tolist() == [brightness(*example) for example in everything()]


def test_a_folder_of_splits():
    for split in ("train", "test"):
        pictures.as_arrow(f"all/{split}")
    Path("all/dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    assert opened(train="all", test="all")["test"].length == 12
    with pytest.raises(DataError, match="all: has no split 'validation'"):
        opened(train="all", validation="all")


@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream"])
def test_numbers_side_by_side(kind):
    source = opened(train=rows("x.data", kind), inputs=["age", "height"], label="kind", standardize=True)["train"]
    batch = whole(source)
    expected = np.stack([ROWS["age"], ROWS["height"]], 1)
    np.testing.assert_allclose(batch["inputs"], (expected - expected.mean(0)) / expected.std(0), rtol=1e-6)
    assert (batch["labels"].tolist(), source.info["class_names"]) == ([0, 1, 0, 1], ["no", "yes"])
    regress = opened("regress", train="x.data", inputs="pair", label="rate")["train"]
    assert whole(regress)["inputs"].tolist() == ROWS["pair"]
    assert whole(regress)["labels"].tolist() == [[0.5], [1.0], [1.5], [2.0]]
    tokens = opened(train="x.data", inputs="tokens", label="kind")["train"]
    assert (tokens.info["vocabulary"], whole(tokens)["inputs"].dtype) == (10, np.int32)


@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream"])
@pytest.mark.parametrize("settings", [{"standardize": True}, {"max_bad_fraction": 0.5, "label": "some"}, {}])
def test_numbers_that_are_read_each_time_are_those_kept_in_memory(kind, settings):
    given = {"train": rows("x.data", kind), "inputs": ["age", "height"], "label": "kind"} | settings
    kept, lazy = (opened(cache_mib=size, **given)["train"] for size in (1024, 0))
    assert lazy.length == (2 if "some" in settings.values() else 4)
    assert (kept.fingerprint, kept.prepared) == (lazy.fingerprint, lazy.prepared)
    for name, values in whole(kept).items():
        assert np.array_equal(whole(lazy)[name], values)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"inputs": "ages"}, r"x.data: has no column 'ages'; did you mean 'age'\?"),
        ({"inputs": "age", "label": "kin"}, r"has no column 'kin'; did you mean 'kind'\?"),
        ({"inputs": "ragged"}, r"x.data\[1\]: the column 'ragged' holds lists of different lengths; pad them"),
        ({"inputs": "missing"}, r"x.data\[1\]: has no number in the column 'missing'; use the reader table"),
        ({"inputs": ["age", "pair"]}, "'pair' holds lists, of which one column alone makes the inputs"),
        (
            {"inputs": ["age", "words"]},
            "'words' holds text, of which one column alone makes the inputs; set data.inputs",
        ),
        ({"inputs": "when"}, r"'when' holds values of the type date32\[day\], not numbers; name other columns"),
        ({"train": "gone"}, "gone: no such file or folder"),
    ],
)
def test_columns_that_cannot_be_used(settings, why):
    with pytest.raises(DataError, match=why):
        opened(**{"train": rows("x.data"), "label": "kind"} | settings)


def test_a_run_is_used_without_its_training_rows():
    rows("x.data")
    given = {"train": "x.data", "inputs": ["age", "height"], "label": "kind", "standardize": True}
    first = opened(**given)["train"]
    prepared = json.loads(json.dumps(first.prepared))
    os.rename("x.data", "y.data")
    sources = opened(prepared=prepared, **given, test="y.data")
    assert list(sources) == ["test"]
    assert np.array_equal(whole(sources["test"])["inputs"], whole(first)["inputs"])
    found = huggingface_inputs(section(**given), "classify", prepared, ["y.data"])
    assert np.array_equal(whole(found)["inputs"], whole(first)["inputs"])
    assert found.info["names"][0] == "y.data:0"


def test_images_to_predict_may_be_files():
    train = opened(train=pictures.as_parquet("made"))["train"]
    Path("new.png").write_bytes(encoded(pictures.pixels(1, 1)))
    found = huggingface_inputs(section(train="made"), "classify", train.prepared, ["new.png", "made/train-0.parquet"])
    assert found.length == 13
    assert np.array_equal(found.take(np.array([0, 6]))["inputs"][0], train.take(np.array([5]))["inputs"][0])


# -- text -----------------------------------------------------------------------------------------

TEXTS = [("a fine film, really", 1), ("dull", 0), ("the best of the year so far", 1), ("no é", 0)] * 5
CLASSES = ["thumbs up", "thumbs down"]  # in the order of their numbers, which is not that of the alphabet


def saved(folder, rows=TEXTS, shards=2, names=CLASSES, metadata=True):
    """A folder as `save_to_disk` writes it: Arrow streams, the list of them, and the features."""
    place = Path(folder)
    place.mkdir(parents=True)
    label = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "string", "_type": "Value"}
    info = {"features": {"text": {"dtype": "string", "_type": "Value"}, "label": label}}
    schema = pa.schema([("text", pa.string()), ("label", pa.int64() if names else pa.string())])
    if metadata:
        schema = schema.with_metadata({"huggingface": json.dumps({"info": info})})
    files = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    for i, name in enumerate(files):
        part = rows[i * len(rows) // shards : (i + 1) * len(rows) // shards]
        table = pa.table({"text": [text for text, _ in part], "label": [label for _, label in part]}, schema)
        with pa.OSFile(str(place / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(table, max_chunksize=3)
    (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))
    (place / "dataset_info.json").write_text(json.dumps(info))
    return folder


def parquet(path, rows=TEXTS):
    held = {"text": [text for text, _ in rows], "label": [CLASSES[label] for _, label in rows]}
    pq.write_table(pa.table(held), path, row_group_size=3)
    return path


def written(source):
    batch = whole(source)
    return [
        (bytes(row[held == 1].tolist()).decode(), source.info["class_names"][label])
        for row, held, label in zip(batch["inputs"], batch["input_mask"], batch["labels"], strict=True)
    ]


NAMED = [(text, CLASSES[label]) for text, label in TEXTS]


@pytest.mark.parametrize("metadata", [True, False], ids=["names in the files", "names beside them"])
def test_text_with_classes_of_a_saved_data_set(metadata):
    source = opened(train=saved("made", metadata=metadata), inputs="text")["train"]
    assert written(source) == NAMED
    assert source.info["class_names"] == CLASSES
    assert source.labels().tolist() == [label for _, label in TEXTS]


def test_text_of_parquet_shards_by_split():
    Path("made").mkdir()
    parquet("made/train-00000-of-00002.parquet", TEXTS[:9])
    parquet("made/train-00001-of-00002.parquet", TEXTS[9:])
    parquet("made/test-00000-of-00001.parquet", TEXTS[:4])
    sources = opened(train="made", test="made", inputs="text", buckets=2)
    assert written(sources["train"]) == NAMED
    assert written(sources["test"]) == NAMED[:4]
    assert sources["train"].info["class_names"] == sorted(CLASSES)
    assert sources["train"].buckets.sizes == (8, 32)


def test_text_is_tokenized_as_the_reader_text_does():
    bpe = TrainedTokenizer(train="bpe", vocabulary=280)
    keys = {"validation": 0.25, "tokenizer": bpe, "max_length": 16}
    here = opened(train=parquet("x.parquet"), inputs="text", **keys)
    there = open_text(TextFiles(name="text", train="x.parquet", label="label", **keys), "classify")
    assert list(here) == list(there) == ["train", "validation"]
    for split, source in here.items():
        for name, values in whole(there[split]).items():
            assert np.array_equal(whole(source)[name], values)
        assert source.prepared == there[split].prepared


def test_a_language_model_learns_from_a_column_of_text():
    source = opened("language", train=saved("made"), inputs="text", label="none", sequence_length=16)["train"]
    batch = whole(source)
    read = bytes([batch["inputs"][0, 0], *batch["labels"][batch["mask"] == 1].tolist()])
    assert read == "".join(f"{text}\0" for text, _ in TEXTS).encode()
    assert source.info["documents"] == len(TEXTS)
    with pytest.raises(DataError, match=r"age holds no text, which task.name: language learns from; name a column"):
        opened("language", train=rows("x.data"), inputs="age")


def test_a_stored_run_of_text_evaluates_and_predicts():
    given = {"train": saved("made"), "inputs": "text"}
    first = opened(**given)["train"]
    prepared = json.loads(json.dumps(first.prepared))
    os.rename("made", "moved")
    again = opened(prepared=prepared, test="moved", **given)["test"]
    assert np.array_equal(whole(again)["inputs"], whole(first)["inputs"])
    Path("new.txt").write_text("dull\n")
    found = huggingface_inputs(section(**given), "classify", prepared, ["moved", "new.txt", parquet("x.parquet")])
    assert found.length == 2 * len(TEXTS) + 1
    assert found.info["names"][len(TEXTS) - 1 : len(TEXTS) + 2] == ["moved:20", "new.txt:1", "x.parquet:1"]
    assert np.array_equal(whole(found)["inputs"][:20], whole(first)["inputs"])
    Path("moved/dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match=r"moved: has no split 'test' \(it holds: none\); name another folder"):
        huggingface_inputs(section(**given), "classify", prepared, ["moved"])
    with pytest.raises(UsageError, match="use 'jaxprop generate RUN"):
        huggingface_inputs(section(**given), "language", prepared, ["moved"])


@pytest.mark.parametrize("task", ["classify", "language"])
@pytest.mark.parametrize("stop", [0, 3, 11])
def test_a_stream_of_text_goes_on_with_the_exact_next_batch(task, stop):
    saved("made")

    def stream():
        return Stream(opened(task, train="made", inputs="text", sequence_length=8)["train"], batch_size=3, seed=4)

    whole_run, stopped, resumed = stream(), stream(), stream()
    expected = [next(whole_run) for _ in range(16)]
    for _ in range(stop):
        next(stopped)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    for batch in expected[stop:]:
        found = next(resumed)
        assert all(np.array_equal(found[name], values) for name, values in batch.items())


def test_a_label_outside_the_names_is_a_missing_one():
    saved("made", [*TEXTS, ("unknown", -1)])
    with pytest.raises(DataError, match=r"made:21: has no label; repair or remove this text"):
        opened(train="made", inputs="text")
    assert opened(train="made", inputs="text", max_bad_fraction=0.1)["train"].length == len(TEXTS)


def test_a_file_that_a_saved_data_set_lists_and_lacks_is_named():
    Path(saved("made"), "data-00001-of-00002.arrow").unlink()
    with pytest.raises(
        DataError, match=r"made/data-00001-of-00002.arrow: no such file, which .*state.json lists; save"
    ):
        opened(train="made", inputs="text")


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../data-0.arrow", "/etc/passwd", "a/b.arrow", ""])
def test_a_list_of_files_names_none_outside_its_folder(name):
    folder = pictures.as_arrow("made")
    Path(folder, "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match=r"state.json: names files outside its folder"):
        opened(train=folder)


@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**5), change=st.binary(min_size=1, max_size=6), number=st.integers(0, 10**9))
def test_a_damaged_file_is_refused_or_read_and_nothing_else(kind, at, change, number):
    path = rows(f"x-{number}.data", kind)
    content = Path(path).read_bytes()
    at %= len(content)
    Path(path).write_bytes(content[:at] + change + content[at + len(change) :])
    try:
        batch = whole(opened(train=path, inputs=["age", "height"], label="kind")["train"])
    except JaxpropError:
        pass
    else:
        assert len(batch["labels"]) == len(batch["inputs"])
