"""A config made for a folder, arrays or a data set of Hugging Face loads and opens."""

import numpy as np
import pyarrow as pa
import pytest
import yaml

from jaxprop.config.load import load
from jaxprop.data import READERS, open_sources
from jaxprop.tools.init import starter
from tests import pictures


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(path):
    with open("made.yaml", "w") as file:
        file.write(starter(path, "made"))
    return load("made.yaml").config


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
    [
        (["c/1.png", "d/2.png"], "images", "classify"),
        (["a.txt", "b.txt"], "text", "language"),
        (["a.wav", "a.txt"], "speech", "transcribe"),
    ],
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
