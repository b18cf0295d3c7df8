"""A config made for one's own data loads, names the guessed target, and trains."""

import json

import numpy as np
import pyarrow as pa
import pytest
import yaml

from jaxprop.config.load import load
from jaxprop.data import READERS, open_sources
from jaxprop.errors import UsageError
from jaxprop.tools.init import quoted, starter
from tests import pictures


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def csv(name, header, rows):
    with open(name, "w") as file:
        file.write("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return name


def made(path):
    with open("made.yaml", "w") as file:
        file.write(starter(path, "made"))
    return load("made.yaml").config


@pytest.mark.parametrize(
    ("header", "rows", "target", "task"),
    [
        ("size,color", [(i, "red" if i % 2 else "blue") for i in range(60)], "color", "classify"),
        ("target,size", [(i % 3, i) for i in range(60)], "target", "classify"),
        ("Quality,size", [(i % 7, i) for i in range(60)], "Quality", "classify"),
        ("size,cost", [(i, 1.5 * i) for i in range(60)], "cost", "regress"),
        ("size,cost", [(i, 3 * i) for i in range(60)], "cost", "regress"),
        ("size,no", [(i, i % 2) for i in range(3)], "no", "classify"),
        ("size,the class: a or b", [(i, i % 2) for i in range(60)], "the class: a or b", "classify"),
    ],
)
def test_a_table_gets_a_config_that_opens(header, rows, target, task):
    config = made(csv("my data.csv", header, rows))
    assert (config.data.target, config.task.name) == (target, task)
    sources = open_sources(config.data, config.task.name)
    assert set(sources) == ({"train", "validation", "test"} if len(rows) >= 40 else {"train"})
    assert sources["train"].length >= config.data.batch_size


def test_columns_that_cannot_be_features_are_ignored_with_the_reason():
    rows = [(f"n{i}", f"2024-01-{i % 28 + 1:02}", "", i, i % 2) for i in range(60)]
    config = made(csv("a.csv", "name,day,nothing,size,y", rows))
    assert config.data.ignore == ("name", "day", "nothing")
    assert open_sources(config.data, "classify")["train"].take(np.array([0]))["inputs"].shape == (1, 1)
    text = starter("a.csv", "a")
    assert "# day: holds dates" in text
    assert "# name: holds a text of its own in most rows" in text


def test_jsonl_with_lists_ignores_them():
    with open("a.jsonl", "w") as file:
        file.writelines(json.dumps({"x": i, "tags": [1], "y": "ab"[i % 2]}) + "\n" for i in range(50))
    config = made("a.jsonl")
    assert config.data.ignore == ("tags",)
    assert "train" in open_sources(config.data, "classify")


REVIEWS = [
    (f"it was {'a fine' if i % 2 else 'a dull'} film about number {i}", "good" if i % 2 else "bad") for i in range(60)
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("first", ["review", "mood"])
def test_a_column_of_sentences_is_what_is_learned_from(suffix, first):
    columns = ["review", "mood"] if first == "review" else ["mood", "review"]
    rows = [dict(zip(("review", "mood"), row, strict=True)) for row in REVIEWS]
    with open(f"a.{suffix}", "w") as file:
        if suffix == "jsonl":
            file.writelines(json.dumps({name: row[name] for name in columns}) + "\n" for row in rows)
        else:
            between = "\t" if suffix == "tsv" else ";"
            file.writelines(
                between.join(line) + "\n" for line in [columns, *([row[c] for c in columns] for row in rows)]
            )
    config = made(f"a.{suffix}")
    assert (config.data.name, config.data.text, config.data.label) == ("text", "review", "mood")
    sources = open_sources(config.data, config.task.name)
    assert set(sources) == {"train", "validation"}
    assert sources["train"].info["class_names"] == ["bad", "good"]


def test_names_beside_numbers_stay_a_table_and_reviews_beside_numbers_do_not():
    rows = [(i, f"Mrs Anna Smith{i}", i % 2) for i in range(60)]
    assert made(csv("a.csv", "size,name,y", rows)).data.ignore == ("name",)
    rows = [(i, text, mood) for i, (text, mood) in enumerate(REVIEWS)]
    assert made(csv("b.csv", "size,review,label", rows)).data.name == "text"
    assert "# Not used: size." in starter("b.csv", "b")


@pytest.mark.parametrize(("dtype", "task"), [("int32", "classify"), ("float32", "regress")])
def test_arrays_get_a_config_that_opens(dtype, task):
    np.savez("a.npz", inputs=np.zeros((40, 3)), labels=np.arange(40).astype(dtype) % 2)
    config = made("a.npz")
    assert (config.task.name, config.data.name) == (task, "arrays")
    assert "validation" in open_sources(config.data, task)


LABELS = {"label": [0, 1] * 20}
NUMBERS = {"a": np.linspace(0, 1, 40), "b": np.arange(40)}
PIXELS = {"image": [pictures.encoded(np.full((4, 4), i, np.uint8)) for i in range(40)]}


@pytest.mark.parametrize(
    ("columns", "inputs", "task"),
    [
        (NUMBERS | LABELS, ("a", "b"), "classify"),
        ({"y": np.linspace(0, 1, 40)} | {"x": np.arange(40)}, ("x",), "regress"),
        ({"id": np.arange(40), "words": ["some text"] * 40} | LABELS, "words", "classify"),
        (LABELS | PIXELS, "image", "classify"),
    ],
)
@pytest.mark.parametrize("layout", ["file", "folder", "splits"])
def test_a_data_set_of_arrow_files_gets_a_config_that_opens(here, layout, columns, inputs, task):
    place = {"file": here, "folder": here / "mine", "splits": here / "mine" / "train"}[layout]
    place.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    with pa.OSFile(str(place / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    if layout != "file":
        (place / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    if layout == "splits":
        (here / "mine" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    config = made("data.arrow" if layout == "file" else "mine")
    assert (config.data.name, config.data.inputs, config.task.name) == ("huggingface", inputs, task)
    assert set(open_sources(config.data, task)) == {"train", "validation"}


@pytest.mark.parametrize(
    ("names", "reader", "task"),
    [(["c/1.png", "d/2.png"], "images", "classify"), (["a.txt", "b.txt"], "text", "language")],
)
def test_folders_get_a_config_for_their_reader(here, names, reader, task):
    for name in names:
        (here / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "mine" / name).write_text("a")
    text = starter("mine", "mine")
    found = yaml.safe_load(text)
    assert (found["data"]["name"], found["data"]["train"], found["task"]["name"]) == (reader, "mine", task)
    if reader in READERS:
        assert made("mine").data.name == reader


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.xlsx", b"PK\x03\x04", "a.xlsx: is a workbook of a spreadsheet program; save the sheet as CSV"),
        ("a.csv", b"", "a.csv: is empty; give a file"),
        ("a.csv", b"x\n1\n", "has 1 column that can be used"),
        ("a.npy", b"\x93NUMPY\x01", "a.npy: holds one array"),
        ("a.npz", b"PK\x03\x04", "a.npz: cannot be read as a .npz file"),
    ],
)
def test_what_cannot_be_trained_on_is_a_sentence(here, name, content, sentence):
    (here / name).write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        starter(name, "a")


@pytest.mark.parametrize(
    "text", ["a", "a b", "no", "1", "~", "a: b", "a #b", "é", "x/y.csv", "./x", "[a]", "'", '"', "a\nb", " a", "1e3"]
)
def test_quoted_text_is_read_back_by_yaml(text):
    assert yaml.safe_load(f"k: {quoted(text)}") == {"k": text}
    assert yaml.safe_load(f"k: [{quoted(text)}, b]") == {"k": [text, "b"]}


def test_a_folder_with_a_folder_for_each_split(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for label in ("cats", "dogs"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for i in range(12):
                Image.new("L", (8, 8), 20 * i).save(folder / f"{i}.png")
    text = starter(str(tmp_path / "photos"), "photos")
    section = yaml.safe_load(text)["data"]
    assert (section["train"], section["test"]) == (
        str(tmp_path / "photos" / "train"),
        str(tmp_path / "photos" / "test"),
    )
    assert section["validation"] == 0.15
    (tmp_path / "photos" / "val" / "cats").mkdir(parents=True)
    assert yaml.safe_load(starter(str(tmp_path / "photos"), "photos"))["data"]["validation"].endswith("val")
