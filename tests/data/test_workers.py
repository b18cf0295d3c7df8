"""Worker processes give the same batches in the same order, and resume at the exact next one, however many they are."""

import json
import multiprocessing
import sys
import wave

import numpy as np
import pytest
from PIL import Image

from jaxprop.config.build import build
from jaxprop.config.schema.data import Coco, Images, Speech
from jaxprop.data import open_sources
from jaxprop.data.mixture import MixtureStream, Phase
from jaxprop.data.readers.images.open import open_images
from jaxprop.data.stream import Stream
from jaxprop.data.workers import Workers
from jaxprop.errors import ConfigError, DataError, MissingExtraError
from jaxprop.types import Source
from tests import pictures


def counting(length=20):
    content = np.arange(length, dtype=np.int32)
    return Source(length, lambda indices: {"inputs": content[indices]}, {}, "f00d")


def mixture():
    return MixtureStream(counting(), (15, 5), [Phase(0, (1.0, 1.0)), Phase(3, (1.0, 4.0))], 4, 7)


STREAMS = {"stream": lambda: Stream(counting(), 6, seed=2), "mixture": mixture}


def taken(stream, count):
    return [{name: values.copy() for name, values in next(stream).items()} for _ in range(count)]


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", STREAMS)
def test_workers_give_the_same_batches_and_resume_with_another_number_of_them(kind):
    make = STREAMS[kind]
    expected = taken(make(), 12)
    first = Workers(make(), 2)
    assert_same(taken(first, 5), expected[:5])
    saved = json.loads(json.dumps(first.state()))
    first.close()
    plain = make()
    plain.restore(saved)
    assert_same(taken(plain, 7), expected[5:])
    resumed = Workers(make(), 1)
    resumed.restore(saved)
    assert (resumed.epoch, resumed.position) == (first.epoch, first.position)
    assert_same(taken(resumed, 7), expected[5:])
    resumed.restore(saved)
    assert_same(taken(resumed, 1), expected[5:6])
    resumed.close()
    assert not multiprocessing.active_children()


@pytest.mark.timeout(300)
def test_images_are_decoded_in_workers_and_an_error_keeps_its_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures.folder("train")
    section = Images(name="images", train="train", engine="grain", workers=1)
    source = open_images(section, "classify")["train"]
    workers = Workers(Stream(source, 5, seed=1), section.workers)
    assert_same(taken(workers, 4), taken(Stream(source, 5, seed=1), 4))
    workers.close()
    (tmp_path / "train/dog/1.png").write_bytes(b"words")
    with pytest.raises(
        DataError, match=r"^train/dog/1.png: is no image, or a damaged one.*repair or remove this image"
    ):
        taken(workers, 3)
    workers.close()


def coco(folder):
    for i in range(7):
        Image.fromarray(np.full((12, 16, 3), 30 * i, np.uint8)).save(folder / f"{i}.png")
    held = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 12, "width": 16} for i in range(7)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [i, 1, 4, 5]} for i in range(7)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "boxes.json").write_text(json.dumps(held))
    return Coco(name="coco", train=str(folder / "boxes.json"), engine="grain"), "detect"


def speech(folder):
    pytest.importorskip("soundfile")
    for i in range(7):
        with wave.open(str(folder / f"{i}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(np.full(16000 + 1000 * i, i + 1, np.int16).tobytes())
    (folder / "list.csv").write_text("audio,text\n" + "".join(f"{i}.wav,a b\n" for i in range(7)))
    return Speech(name="speech", train=str(folder / "list.csv"), engine="grain", buckets=2), "transcribe"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("write", [coco, speech])
def test_images_with_boxes_and_recordings_are_read_in_workers(tmp_path, write):
    source = open_sources(*write(tmp_path))["train"]
    workers = Workers(Stream(source, 3, seed=1), 1)
    assert_same(taken(workers, 5), taken(Stream(source, 3, seed=1), 5))
    workers.close()


def test_pairs_which_lie_in_memory_take_no_workers(tmp_path):
    sections = {"task": {"name": "translate"}, "model": {"name": "seq2seq_rnn"}, "run": {"steps": 1}}
    data = {"name": "pairs", "train": "a.jsonl", "engine": "grain"}
    with pytest.raises(ConfigError, match=r"data\.engine: unknown key \(known: batch_size"):
        build({**sections, "data": data, "optimizer": {"name": "sgd", "lr": 0.1}})


def test_without_grain_the_error_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    monkeypatch.setitem(sys.modules, "grain.python", None)
    with pytest.raises(MissingExtraError, match="pip install grain"):
        Workers(Stream(counting(), 4, seed=0), 1)
