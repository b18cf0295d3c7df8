"""COCO JSON, alone or in a folder of any of the usual layouts, gets a config that opens, and one that trains."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxprop.config.load import load
from jaxprop.data import open_sources
from jaxprop.errors import UsageError
from jaxprop.run.train import train
from jaxprop.tools.init import starter


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def coco(file, images, count=4, size=(32, 48), said=True):
    """Writes `count` images of a height and width into a folder, and a JSON file with a box of each."""
    images.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    for i in range(count):
        Image.fromarray(np.full((height, width, 3), 5 * i, np.uint8)).save(images / f"{i}.png")
    told = {"height": height, "width": width} if said else {}
    held = {
        "images": [{"id": i, "file_name": f"{i}.png", **told} for i in range(count)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 4, 16, 16]} for i in range(count)
        ],
    }
    file.write_text(json.dumps(held))


def made(path):
    with open("made.yaml", "w") as file:
        file.write(starter(str(path), "made"))
    return load("made.yaml").config


def test_a_file_beside_its_images(here):
    coco(here / "boxes.json", here)
    text = starter("boxes.json", "made")
    assert "# Made by 'jaxprop init' of boxes.json, which has 4 images and 4 boxes." in text
    assert "# Classes with their boxes: cat 2, dog 2." in text
    config = made("boxes.json")
    assert (config.data.train, config.data.images, config.data.size) == ("boxes.json", None, (32, 48))
    assert open_sources(config.data, "detect")["train"].take(np.array([0]))["inputs"].shape == (1, 32, 48, 3)


def test_many_images_are_held_out_and_choose_the_best_checkpoint(here):
    coco(here / "boxes.json", here, count=40)
    config = made("boxes.json")
    assert set(open_sources(config.data, "detect")) == {"train", "validation"}
    assert config.checkpoint.best == "map"


def layout(here, name):
    """Writes one of the layouts that are in use; returns what it is to be read from."""
    if name == "official":
        for split in ("train", "val"):
            coco(here / "set" / "annotations" / f"instances_{split}2017.json", here / "set" / f"{split}2017")
    elif name == "a folder a split":
        for split in ("train", "valid", "test"):
            coco(here / "set" / split / "_annotations.coco.json", here / "set" / split)
    elif name == "files for one folder":
        for split in ("train", "test"):
            coco(here / "set" / f"{split}.json", here / "set" / "photos")
    else:
        coco(here / "set" / "result.json", here / "set" / "images")


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("official", {"train", "validation"}),
        ("a folder a split", {"train", "validation", "test"}),
        ("files for one folder", {"train", "test"}),
        ("one file", {"train"}),
    ],
)
def test_a_folder_of_images_with_its_annotations(here, name, splits):
    layout(here, name)
    config = made("set")
    assert (config.task.name, config.data.name) == ("detect", "coco")
    assert set(open_sources(config.data, "detect")) == splits


def test_a_file_for_training_brings_those_of_the_other_splits(here):
    layout(here, "official")
    config = made("set/annotations/instances_train2017.json")
    assert set(open_sources(config.data, "detect")) == {"train", "validation"}
    assert config.data.validation == "set/annotations/instances_val2017.json"


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((32, 48), (32, 48)), ((300, 900), (96, 256)), ((2000, 1000), (256, 128)), ((600, 600), (256, 256))],
)
@pytest.mark.parametrize("said", [True, False])
def test_large_images_are_made_smaller_in_their_usual_shape(here, size, wanted, said):
    coco(here / "boxes.json", here, count=2, size=size, said=said)
    assert made("boxes.json").data.size == wanted


def test_what_cannot_be_guessed_is_a_sentence(here):
    coco(here / "a.json", here / "elsewhere" / "below" / "deeper" / "still")
    with pytest.raises(UsageError, match=r"a\.json: none of its images \(0\.png, 1\.png, \.\.\.\) lie in"):
        starter("a.json", "made")
    coco(here / "set" / "a.json", here / "set")
    coco(here / "set" / "b.json", here / "set")
    with pytest.raises(UsageError, match=r"set: has several COCO JSON files \(a\.json, b\.json\); name the one"):
        starter("set", "made")


@pytest.mark.timeout(300)
def test_the_config_trains(here):
    pytest.importorskip("faster_coco_eval")
    coco(here / "boxes.json", here, count=40)
    made("boxes.json")
    small = ["model.widths=[8, 8]", "model.pyramid=8", "model.depth=1", "model.head_depth=1"]
    short = load("made.yaml", ["run.epochs=null", "run.steps=2", "parallel.devices=1", *small]).config
    outcome = train(short, here / "run", quiet=True)
    assert outcome.exit_code == 0
    assert "map" in json.loads((here / "run" / "summary.json").read_text())["metrics"]
