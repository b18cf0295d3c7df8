"""Data sets of the library `datasets`, Arrow and Parquet: images and numbers by the names of their columns."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprop.config.schema.data import HuggingFace
from jaxprop.data.readers.huggingface import huggingface_inputs, open_huggingface
from jaxprop.errors import DataError, JaxpropError
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
    "rate": [0.5, 1.0, 1.5, 2.0],
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


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"inputs": "ages"}, r"x.data: has no column 'ages'; did you mean 'age'\?"),
        ({"inputs": "age", "label": "kin"}, r"has no column 'kin'; did you mean 'kind'\?"),
        ({"inputs": "ragged"}, "lists of different lengths; pad them"),
        ({"inputs": "missing"}, "'missing' holds values that are no numbers, or missing ones; use the reader table"),
        ({"inputs": ["age", "pair"]}, "a column of lists makes the inputs alone"),
        ({"inputs": "words"}, "'words' holds text, which the reader text takes from Parquet"),
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
