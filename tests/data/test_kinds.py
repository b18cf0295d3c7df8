"""What a path is, is told by content before name; the advice names a reader and a line of YAML."""

import io
import zipfile

import numpy as np
import pytest
import yaml

from jaxprop.data.kinds import HEAD, KINDS, advice, format_of, kind_of, section


def npz():
    held = io.BytesIO()
    np.savez(held, inputs=np.zeros(2))
    return held.getvalue()


def zipped():
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("a.txt", "a")
    return held.getvalue()


FILES = [
    ("a.csv", b"x,y\n1,2\n", "csv"),
    ("a.CSV", b"x\n1\n", "csv"),
    ("a.data", b"1.0,2.0\n", "csv"),
    ("a.tsv", b"x\ty\n", "tsv"),
    ("a.jsonl", b'{"x": 1}\n', "jsonl"),
    ("a.json", b'{"x": 1}\n{"x": 2}\n', "jsonl"),
    ("a.json", b'[{"x": 1}]', "json"),
    ("a.json", b'{"x": [\n1,\n2]}', "json"),
    ("a.jsonl", b'{"x": "' + b"a" * HEAD, "jsonl"),
    ("a.json", b'{"info": {}, "images": [], "annotations": [], "categories": []}', "coco"),
    ("a.json", b'{\n "images": [\n  {\n   "id": 1,\n   "file_name": "a.png"\n', "coco"),
    ("a.json", b'{"annotations": [{"id": 1, "bbox": [' + b"1, " * HEAD, "coco"),
    ("a.json", b'{"categories": [{"id": 1, "name": "cat"}], "images": [' + b" " * HEAD, "coco"),
    ("a.jsonl", b'{"images": [{"file_name": "a.png"}]}\n{"images": []}\n', "jsonl"),
    ("a.csv", b"PAR1\x00", "parquet"),
    ("a.npz", npz(), "npz"),
    ("a.npy", b"\x93NUMPY\x01\x00", "npy"),
    ("a.zip", zipped(), "zip"),
    ("a.xlsx", zipped(), "excel"),
    ("a.csv", b"\x1f\x8b\x08", "gzip"),
    ("a", b"\x80\x04\x95", "pickle"),
    ("a.png", b"\x89PNG\r\n\x1a\n", "image"),
    ("train-images-idx3-ubyte", b"\x00\x00\x08\x03" + b"\x00" * 12, "idx"),
    ("a.tar", b"\x00" * 257 + b"ustar\x0000", "tar"),
    ("a.txt", b"\xff\xfea\x00", "utf16"),
    ("a.txt", b"Call me Ishmael.\n", "text"),
    ("a.md", b"One, two\n", "text"),
    ("a.wav", b"RIFF\x24\x00\x00\x00WAVEfmt ", "recording"),
    ("a.webp", b"RIFF\x24\x00\x00\x00WEBPVP8 ", "image"),
    ("a", b"fLaC\x00\x00\x00\x22", "recording"),
    ("a.db", b"SQLite format 3\x00", "sqlite"),
    ("a.feather", b"ARROW1\x00\x00", "arrow"),
    ("data-00000-of-00001.arrow", b"\xff\xff\xff\xff\x00", "arrow"),
    ("a.bin", b"\x01\x00\x02", "binary"),
    ("a.csv", b"", "empty"),
    ("a.csv", b" \n\n", "empty"),
]


@pytest.mark.parametrize(("name", "head", "kind"), FILES, ids=[f"{name}-{kind}" for name, _, kind in FILES])
def test_files_are_known_by_content_and_then_by_name(name, head, kind, tmp_path):
    assert format_of(name, head[:HEAD]) == kind
    (tmp_path / name).write_bytes(head)
    assert kind_of(tmp_path / name) == kind
    said = advice(tmp_path / name, "nothing")
    assert said.startswith(f"is {KINDS[kind].what}")
    assert "; " in said


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["cats/1.png", "dogs/2.jpg"], "images"),
        (["a.wav", "a.txt", "b.wav", "b.txt"], "recordings"),
        (["84/121123/84-121123-0000.flac", "84/121123/84-121123.trans.txt"], "recordings"),
        (["cats/1.png", "cats/labels.csv", "dogs/2.JPEG"], "images"),
        (["a.txt", "b.txt", "pictures/1.png"], "texts"),
        (["a.csv", "b.parquet"], "tables"),
        (["dataset_dict.json", "train/data-00000-of-00001.arrow", "train/state.json"], "dataset"),
        (["LibriSpeech/dev-clean/84/84-0.flac", "LibriSpeech/README.TXT", "b.flac"], "recordings"),
        (["a.exe"], "folder"),
        ([".hidden.txt"], "empty"),
        ([], "empty"),
    ],
)
def test_folders_are_known_by_what_most_of_their_files_are(names, kind, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert kind_of(tmp_path) == kind


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.reader is not None])
def test_the_advice_is_yaml_that_names_the_reader_and_the_path(kind):
    found = yaml.safe_load(section("my data.bin", KINDS[kind]))
    assert found["data"]["name"] == KINDS[kind].reader
    assert "my data.bin" in found["data"].values()


def test_a_reader_is_not_advised_to_itself(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n")
    assert "which data.name" not in advice(tmp_path / "a.csv", "table")
    assert "which data.name: table reads" in advice(tmp_path / "a.csv", "arrays")


def test_a_file_that_cannot_be_read_is_of_no_known_kind(tmp_path):
    assert kind_of(tmp_path / "missing") == "binary"


def test_images_with_coco_json_are_not_those_of_classes(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"{i}.png").touch()
    (tmp_path / "notes.json").write_text('{"about": "them"}')
    assert kind_of(tmp_path) == "images"
    (tmp_path / "boxes.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert kind_of(tmp_path) == "objects"
