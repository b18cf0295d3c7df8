"""Every layout of images becomes the same sources; what is bad is named, counted and skipped, or stops the run."""

import io
import json
import os
import re
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxprop.config.schema.data import Images
from jaxprop.data.readers.images import pixels as pixels_module
from jaxprop.data.readers.images.open import image_inputs, open_images, standardization, standardizer
from jaxprop.data.stream import Stream
from jaxprop.errors import DataError, JaxpropError
from tests import pictures
from tests.pictures import EACH, NAMES, SIZE, brightness, encoded, everything


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def section(**settings):
    return Images(name="images", **settings)


def opened(task="classify", prepared=None, **settings):
    return open_images(section(**settings), task, prepared)


def shown(source, batch):
    """The brightness of each image, undone from the standardization."""
    prepared = source.prepared
    values = batch["inputs"][:, 0, 0, 0] * prepared["std"][0] + prepared["mean"][0]
    return np.round(values * 255).astype(int).tolist()


def whole(source):
    return source.take(np.arange(source.length))


LAYOUTS = {
    "folder": lambda: pictures.folder("made"),
    "csv": lambda: pictures.as_csv("made"),
    "semicolons": lambda: pictures.as_csv("made", delimiter=";"),
    "jsonl": lambda: pictures.as_jsonl("made"),
    "idx": lambda: pictures.as_idx("made"),
    "idx folder": lambda: os.path.dirname(pictures.as_idx("made")),
    "gzipped idx": lambda: pictures.as_idx("made", packed=True),
    "parquet": lambda: pictures.as_parquet("made"),
    "parquet of bytes": lambda: pictures.as_parquet("made", struct=False),
    "arrow": lambda: os.path.join(pictures.as_arrow("made"), "data-0.arrow"),
    "tar": lambda: pictures.as_tar("made"),
    "tar folder": lambda: os.path.dirname(pictures.as_tar("made")),
}


@pytest.mark.parametrize("kept", [0, 1024], ids=["decoded each time", "in memory"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_and_labels(layout, kept):
    source = opened(train=LAYOUTS[layout](), cache_mib=kept)["train"]
    batch = whole(source)
    assert source.length == len(NAMES) * EACH
    assert source.info["classes"] == len(NAMES)
    assert source.info["class_names"] == (["0", "1", "2"] if "idx" in layout else list(NAMES))
    assert batch["inputs"].shape == (source.length, *SIZE, 1)
    assert (batch["inputs"].dtype, batch["labels"].dtype) == (np.float32, np.int32)
    assert batch["labels"].tolist() == source.labels().tolist() == [label for label, _ in everything()]
    assert shown(source, batch) == [brightness(*example) for example in everything()]
    assert abs(batch["inputs"].mean()) < 1e-5
    assert abs(batch["inputs"].std() - 1) < 1e-5
    assert ("weight" in batch) == (kept == 0)
    picked = source.take(np.array([5, 5, 0]))
    assert np.array_equal(picked["inputs"], batch["inputs"][[5, 5, 0]])


@pytest.mark.parametrize("labels", [1, 2])
def test_cifar_binaries(labels):
    source = opened(train=pictures.as_cifar("made", labels=labels))["train"]
    batch = whole(source)
    assert batch["inputs"].shape == (12, 32, 32, 3)
    assert source.info["class_names"] == list(NAMES)
    assert batch["labels"].tolist() == [label for label, _ in everything()]
    assert shown(source, batch) == [brightness(*example) for example in everything()]


def in_tar(name, members):
    with tarfile.open(name, "w") as archive:
        for member, content in members.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return name


def test_a_mask_beside_an_image_in_a_tar_is_not_taken_for_it():
    members = {}
    for i in range(4):
        mask, image = np.zeros(SIZE, np.uint8), np.full(SIZE, 100 + i, np.uint8)
        named = {"cls": str(i % 2).encode(), "seg.png": encoded(mask), "png": encoded(image)}
        members |= {f"{i:04}.{extension}": content for extension, content in named.items()}
    path = in_tar("a.tar", members)
    train = opened(train=path)["train"]
    assert shown(train, whole(train)) == [100, 101, 102, 103]
    note = (
        "a.tar: 4 of 4 records hold other images that are not read, such as 0000.seg.png; data.image_column: EXTENSION"
    )
    assert train.info["notes"] == [f"{note} chooses another"]
    masks = opened(train=path, image_column="seg.png")["train"]
    assert masks.prepared["mean"] == [0]
    assert "notes" not in masks.info


@pytest.mark.parametrize(
    "names", [("22.00.png", "22.01.png", "22.02.png"), ("img.v0.png", "img.v1.jpg"), ("a.png", "a.jpg")]
)
def test_several_images_of_one_record_of_a_tar_are_an_error_that_names_them(names):
    picture = encoded(np.zeros(SIZE, np.uint8))
    path = in_tar("a.tar", {"z.png": picture, "z.cls": b"1", **dict.fromkeys(names, picture)})
    extension = names[0].partition(".")[2]
    expected = rf"a.tar: the images {', '.join(names)} are one record, .* set data.image_column: {extension}$"
    with pytest.raises(DataError, match=expected):
        opened(train=path)
    with pytest.raises(DataError, match=expected):
        image_inputs(section(train=path), "classify", opened(train=pictures.folder("b"))["train"].prepared, [path])


@pytest.mark.parametrize(("grey", "channels"), [([0], 3), ([0, 1, 2, 3, 5], 3), (range(8), 1), ([], 3)])
def test_images_are_in_colour_if_one_of_several_is(grey, channels):
    """Whichever comes first: what a grey image becomes in colour loses nothing."""
    for index in range(8):
        place = Path("made", "ab"[index // 4])
        place.mkdir(parents=True, exist_ok=True)
        colour = np.full((*SIZE, 3), [200, 20, index], np.uint8)
        Path(place, f"{index}.png").write_bytes(encoded(colour[:, :, 0] if index in grey else colour))
    source = opened(train="made")["train"]
    assert whole(source)["inputs"].shape == (8, *SIZE, channels)
    note = (
        f"made: {len(grey)} of 8 images looked at are grey and the others in colour, so that all are read in colour; "
    )
    told = [note + "set data.channels: 1 to read all in grey"] if 0 < len(grey) < 8 else []
    assert source.info.get("notes", []) == told
    assert whole(opened(train="made", channels=1)["train"])["inputs"].shape == (8, *SIZE, 1)


def test_channels_of_cifar_are_in_their_order():
    Path("c").mkdir()
    record = bytes([0]) + bytes([10]) * 1024 + bytes([20]) * 1024 + bytes([30]) * 1024
    Path("c/data_batch_1.bin").write_bytes(record + b"\1" + record[1:])
    source = opened(train="c")["train"]
    assert np.allclose(np.array(source.prepared["mean"]) * 255, [10, 20, 30])


def test_the_statistics_are_those_of_the_training_images_alone():
    pictures.folder("train")
    for name in NAMES:
        Path("test", name).mkdir(parents=True)
        Path("test", name, "a.png").write_bytes(encoded(np.full(SIZE, 255, np.uint8)))
    sources = opened(train="train", test="test")
    values = np.array([brightness(*example) for example in everything()])
    assert np.allclose(sources["train"].prepared["mean"][0], values.mean() / 255)
    assert np.allclose(sources["train"].prepared["std"][0], values.std() / 255)
    assert sources["test"].prepared == sources["train"].prepared
    assert shown(sources["test"], whole(sources["test"])) == [255] * 3
    held = opened(train="train", validation=0.25)
    assert held["train"].prepared["mean"] != sources["train"].prepared["mean"]
    assert (held["train"].length, held["validation"].length) == (9, 3)
    stays = np.array(shown(held["train"], whole(held["train"])))
    assert np.allclose(held["train"].prepared["mean"][0], stays.mean() / 255, atol=1e-6)
    assert sorted(held["validation"].labels().tolist()) == [0, 1, 2]


def test_statistics_of_many_images_are_those_of_a_fixed_sample(monkeypatch):
    monkeypatch.setattr(pixels_module, "_SAMPLE", 5)
    pictures.folder("train")
    seen = [opened(train="train", cache_mib=kept)["train"].prepared for kept in (0, 1024)]
    assert seen[0] == seen[1]
    some = [brightness(*everything()[i]) for i in (0, 2, 5, 8, 11)]
    assert np.allclose(seen[0]["mean"][0], np.mean(some) / 255)


def test_size_and_channels_may_be_asked_for():
    pictures.folder("train", channels=3)
    source = opened(train="train", size=[8, 9], channels=1)["train"]
    assert whole(source)["inputs"].shape == (12, 8, 9, 1)
    assert opened(train="train")["train"].take(np.array([0]))["inputs"].shape == (1, *SIZE, 3)


def test_a_run_is_used_without_its_training_images():
    pictures.folder("train")
    prepared = json.loads(json.dumps(opened(train="train")["train"].prepared))
    pictures.folder("test", each=1)
    Path("test/owl/0.png").write_bytes(encoded(pictures.pixels(2, 3)))
    os.rename("train", "gone")
    sources = opened(prepared=prepared, train="train", test="test")
    assert list(sources) == ["test"]
    assert whole(sources["test"])["labels"].tolist() == [0, 1, 2]
    assert shown(sources["test"], whole(sources["test"])) == [brightness(0, 0), brightness(1, 0), brightness(2, 3)]
    with pytest.raises(DataError, match="train: no such file or folder"):
        opened(train="train", test="test")


@pytest.mark.parametrize("kept", [0, 1024])
def test_the_same_part_is_held_out_again_when_a_run_is_used(kept):
    pictures.folder("train")
    Path("train/dog/1.png").write_bytes(b"broken")
    settings = {"train": "train", "validation": 0.3, "max_bad_fraction": 0.2, "cache_mib": kept}
    first = opened(**settings)
    again = opened(prepared=first["train"].prepared, **settings)
    assert again["validation"].fingerprint == first["validation"].fingerprint
    assert np.array_equal(whole(again["validation"])["inputs"], whole(first["validation"])["inputs"])
    assert again["train"].length == first["train"].length


@pytest.mark.parametrize(("task", "labels"), [("regress", ["0.5", "2", "-1"]), ("multilabel", ["a", "a|b", ""])])
def test_other_tasks(task, labels):
    rows = pictures.flat("made", each=1)
    lines = "\n".join(f"{name},{label}" for (name, _), label in zip(rows, labels, strict=True))
    Path("made/list.csv").write_text(f"path,target\n{lines}\n")
    source = opened(task, train="made/list.csv")["train"]
    expected = {"regress": [[0.5], [2], [-1]], "multilabel": [[1, 0], [1, 1], [0, 0]]}[task]
    assert whole(source)["labels"].tolist() == expected
    assert source.info["targets" if task == "regress" else "classes"] == len(expected[0])


def test_the_fingerprint_follows_contents_and_labels_and_not_the_place():
    first = opened(train=pictures.folder("here"))["train"].fingerprint
    assert opened(train=pictures.folder("there"))["train"].fingerprint == first
    Path("there/cat/0.png").write_bytes(encoded(pictures.pixels(0, 3)))
    assert opened(train="there")["train"].fingerprint != first
    os.rename("here/cat", "here/cow")
    assert opened(train="here")["train"].fingerprint != first


@pytest.mark.parametrize("kept", [0, 1024])
def test_a_stream_resumes_at_the_exact_next_batch(kept):
    pictures.folder("train")
    source = opened(train="train", cache_mib=kept)["train"]
    stream = Stream(source, 5, seed=3)
    batches = [next(stream) for _ in range(7)]
    again = Stream(opened(train="train", cache_mib=kept)["train"], 5, seed=3)
    for _ in range(4):
        next(again)
    resumed = Stream(source, 5, seed=3)
    resumed.restore(json.loads(json.dumps(again.state())))
    for expected in batches[4:]:
        found = next(resumed)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_source_that_decodes_each_time_can_be_sent_to_another_process():
    source = opened(train=pictures.folder("train"), cache_mib=0)["train"]
    sent = cloudpickle.loads(cloudpickle.dumps(source))
    assert np.array_equal(whole(sent)["inputs"], whole(source)["inputs"])


# -- bad images -----------------------------------------------------------------------------------


def spoil(name="train/dog/1.png", content=None):
    good = Path(name).read_bytes()
    Path(name).write_bytes(good[:-30] if content is None else content)


BAD = [
    (lambda: spoil(), "train/dog/1.png: is a damaged image, or cut short"),
    (lambda: spoil(content=b"words"), "train/dog/1.png: is no image, or a damaged one"),
    (lambda: spoil(content=b""), "train/dog/1.png: is empty"),
    (
        lambda: spoil(content=encoded(np.zeros((9, 9), np.uint8))),
        r"train/dog/1.png: is 9 x 9 pixels \(height x width\), but the first image is 6 x 5; set data.size: \[6, 5\]",
    ),
]


@pytest.mark.parametrize("kept", [0, 1024])
@pytest.mark.parametrize(("damage", "why"), BAD, ids=["cut", "words", "empty", "size"])
def test_a_bad_image_is_named_and_stops_the_run_or_is_skipped(damage, why, kept):
    pictures.folder("train")
    damage()
    with pytest.raises(DataError, match=f"^{why}.*repair or remove this image, or set data.max_bad_fraction"):
        opened(train="train", cache_mib=kept)
    sources = opened(train="train", max_bad_fraction=0.1, cache_mib=kept)
    batch = whole(sources["train"])
    assert np.isfinite(batch["inputs"]).all()
    good = [example for example in everything() if example != (1, 1)]
    if kept:
        assert batch["labels"].tolist() == [label for label, _ in good]
        assert "skipped 1 of 12 images" in sources["train"].info["notes"][0]
    else:
        counted = batch["weight"] == 1
        assert (~counted).sum() == 1
        assert batch["labels"][counted].tolist() == [label for label, _ in good]
    with pytest.raises(DataError, match=r"more than data.max_bad_fraction"):
        opened(train="train", max_bad_fraction=0.05, cache_mib=kept)


def test_images_that_turn_bad_after_the_check_stop_the_run_when_they_are_more_than_allowed(monkeypatch):
    pictures.folder("train")
    source = opened(train="train", cache_mib=0, max_bad_fraction=0.1)["train"]
    spoil("train/cat/0.png")
    assert source.take(np.array([0, 1]))["weight"].tolist() == [0, 1]
    spoil("train/cat/1.png")
    with pytest.raises(DataError, match=r"2 of 12 images cannot be used"):
        source.take(np.array([1]))


def test_labels_without_a_class_and_classes_that_training_has_not_seen():
    pictures.as_csv("made")
    text = Path("made/list.csv").read_text()
    Path("made/bad.csv").write_text(text.replace("dog-1.png,dog", "dog-1.png,"))
    with pytest.raises(DataError, match=r"made/bad.csv:7: has no label"):
        opened(train="made/bad.csv")
    assert opened(train="made/bad.csv", max_bad_fraction=0.1)["train"].length == 11
    Path("made/test.csv").write_text("image,label\ncat-0.png,cat\ndog-0.png,cow\n")
    with pytest.raises(DataError, match=r"made/test.csv:3: is of the class 'cow', which no training record has"):
        opened(train="made/list.csv", test="made/test.csv")
    assert opened(train="made/list.csv", test="made/test.csv", max_bad_fraction=0.5)["test"].length == 1


@pytest.mark.parametrize(
    ("prepare", "settings", "why"),
    [
        (lambda: None, {"train": "trian"}, r"trian: no such file or folder under .*; did you mean 'train'\?"),
        (lambda: Path("train/cow").mkdir(), {"train": "train"}, "train/cow: has no image in it"),
        (lambda: None, {"train": "train/cat"}, "train/cat: holds images, but no subfolder for each class"),
        (lambda: Path("none").mkdir(), {"train": "none"}, "none: holds neither images nor subfolders"),
        (lambda: pictures.folder("all/train"), {"train": "all"}, "all: holds train, which look like splits"),
        (lambda: Path("train/link").symlink_to("cat"), {"train": "train"}, "train/link: is a link to another folder"),
        (lambda: None, {"train": "train/cat/0.png"}, "train/cat/0.png: is a single image; give the folder"),
        (lambda: np.savez("x.npz", a=1), {"train": "x.npz"}, r"data: \{name: arrays, train: x.npz\}"),
        (lambda: Path("x.zip").write_bytes(b"PK\3\4"), {"train": "x.zip"}, "x.zip: is a zip archive; unpack it"),
        (lambda: Path("x.csv").write_bytes(b""), {"train": "x.csv"}, "x.csv: is empty"),
        (lambda: Path("x.csv").write_text("image,label\n"), {"train": "x.csv"}, "x.csv: lists no images"),
        (
            lambda: Path("x.csv").write_text("a,b\n1,2\n"),
            {"train": "x.csv"},
            r"no column .*\(columns: a, b\).*image_column",
        ),
        (lambda: Path("x.bin").write_bytes(b"12"), {"train": "x.bin"}, "x.bin: is no whole number of CIFAR records"),
        (lambda: Path("x.tar").write_bytes(b"12"), {"train": "x.tar"}, "x.tar: is no tar archive, or damaged"),
        (lambda: Path("x.parquet").write_bytes(b"PAR1xx"), {"train": "x.parquet"}, "x.parquet: is damaged"),
        (
            lambda: Path("data_batch_1").write_bytes(b"\x80\x02"),
            {"train": "data_batch_1"},
            "Python pickle, which is never",
        ),
        (lambda: Path("what").write_bytes(b"\0\1"), {"train": "what"}, "what: is no layout of images that is known"),
        (lambda: os.mkfifo("pipe"), {"train": "pipe"}, "pipe: neither a file nor a folder"),
    ],
)
def test_what_is_no_data_set_says_what_to_do(prepare, settings, why):
    pictures.folder("train")
    prepare()
    with pytest.raises(DataError, match=why) as caught:
        opened(**settings)
    assert "\n" not in str(caught.value)


def test_one_class_only():
    pictures.folder("train")
    for name in NAMES[1:]:
        os.rename(f"train/{name}", f"{name}-aside")
    with pytest.raises(DataError, match="train: has one class only, 'cat'"):
        opened(train="train")


def test_files_that_are_no_images_by_their_names_are_told():
    pictures.folder("train")
    Path("train/cat/readme.txt").write_text("x")
    Path("train/cat/.hidden.png").write_text("x")
    assert opened(train="train")["train"].info["notes"] == [
        "train: 1 file is no image by its name and is not read: train/cat/readme.txt"
    ]


# -- security -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["../secret.png", "/{root}/secret.png", "a/../../secret.png", "link.png", "down/x.png"]
)
def test_no_path_leads_out_of_the_folder(path, tmp_path):
    Path("secret.png").write_bytes(encoded(pictures.pixels(0, 0)))
    pictures.as_csv("made")
    Path("made/link.png").symlink_to(tmp_path / "secret.png")
    Path("outside").mkdir()
    Path("outside/x.png").write_bytes(encoded(pictures.pixels(0, 0)))
    Path("made/down").symlink_to(tmp_path / "outside")
    with Path("made/list.csv").open("a") as lines:
        lines.write(path.format(root=str(tmp_path).lstrip("/")) + ",cat\n")
    with pytest.raises(DataError, match=r"made/list.csv:14: the image .* (out of the folder|absolute path)"):
        opened(train="made/list.csv")


def test_no_link_in_a_class_folder_leads_out(tmp_path):
    pictures.folder("train")
    Path("secret.png").write_bytes(encoded(pictures.pixels(0, 0)))
    Path("train/cat/x.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"train/cat/x.png: is a link that leads out of the folder"):
        opened(train="train")


def test_paths_of_a_list_may_have_another_root():
    pictures.flat("photos")
    Path("lists").mkdir()
    rows = [f"{NAMES[label]}-{index}.png,{NAMES[label]}" for label, index in everything()]
    Path("lists/train.csv").write_text("image,label\n" + "\n".join(rows))
    assert opened(train="lists/train.csv", root="photos")["train"].length == 12


def test_members_of_a_tar_that_are_no_files_are_left_out_and_nothing_is_extracted():
    file = pictures.as_tar("made")
    with tarfile.open(file, "a") as archive:
        for name, kind in (("../out.png", tarfile.REGTYPE), ("link.png", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            content = encoded(pictures.pixels(0, 0)) if kind == tarfile.REGTYPE else b""
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            label = tarfile.TarInfo(name.replace(".png", ".cls"))
            label.size = 3
            archive.addfile(label, io.BytesIO(b"cat"))
    with pytest.raises(DataError, match="has a label, but no image"):
        opened(train=file)
    before = sorted(Path().rglob("*"))
    assert opened(train=file, max_bad_fraction=0.2)["train"].length == 13
    assert sorted(Path().rglob("*")) == before


def test_a_packed_tar_is_refused_with_what_to_do():
    import gzip

    file = pictures.as_tar("made")
    Path("packed.tar").write_bytes(gzip.compress(Path(file).read_bytes()))
    with pytest.raises(DataError, match=r"packed.tar: is compressed, .* unpack it to a plain .tar first"):
        opened(train="packed.tar")


# -- damage of every kind -------------------------------------------------------------------------


def damaged(file, at, change):
    content = Path(file).read_bytes()
    at %= len(content)
    Path(file).write_bytes(content[:at] + change + content[at + len(change) :])


FUZZED = {
    "csv": (pictures.as_csv, "list.csv"),
    "jsonl": (pictures.as_jsonl, "list.jsonl"),
    "idx": (pictures.as_idx, "train-images-idx3-ubyte"),
    "gzipped idx": (lambda root: pictures.as_idx(root, packed=True), "train-images-idx3-ubyte.gz"),
    "cifar": (lambda root: os.path.join(pictures.as_cifar(root), "data_batch_1.bin"), "data_batch_1.bin"),
    "parquet": (pictures.as_parquet, "train-0.parquet"),
    "arrow": (lambda root: os.path.join(pictures.as_arrow(root), "data-0.arrow"), "data-0.arrow"),
    "tar": (pictures.as_tar, "shard-0.tar"),
}


@pytest.mark.parametrize("layout", FUZZED)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), change=st.binary(min_size=1, max_size=6), kept=st.sampled_from([0, 1024]))
def test_a_damaged_file_is_refused_or_read_and_nothing_else(layout, at, change, kept):
    make, name = FUZZED[layout]
    path = make("made")
    damaged(Path("made") / name, at, change)
    try:
        source = opened(train=path, max_bad_fraction=0.5, cache_mib=kept)["train"]
        batch = whole(source)
    except JaxpropError:
        return
    assert len(batch["labels"]) == source.length
    assert np.isfinite(batch["inputs"]).all()
    assert batch["labels"].min() >= 0
    assert batch["labels"].max() < source.info["classes"]


# -- images to predict ----------------------------------------------------------------------------


def learned():
    pictures.folder("train")
    return section(train="train"), opened(train="train")["train"]


def test_files_and_folders_are_predicted_as_they_were_trained():
    given_section, train = learned()
    Path("train/.hidden").mkdir()
    source = image_inputs(given_section, "classify", train.prepared, ["train", "train/dog/1.png"])
    assert source.length == 13
    assert source.info["names"][:2] == ["train/cat/0.png", "train/cat/1.png"]
    assert source.info["names"][-1] == "train/dog/1.png"
    found = source.take(np.arange(13))["inputs"]
    assert np.array_equal(found[:12], whole(train)["inputs"])
    assert np.array_equal(found[12], found[5])


@pytest.mark.parametrize("layout", ["csv", "jsonl", "idx", "parquet", "tar"])
def test_other_layouts_are_predicted_without_labels(layout):
    given_section, train = learned()
    source = image_inputs(given_section, "classify", train.prepared, [LAYOUTS[layout]()])
    assert source.length == 12
    found = source.take(np.arange(12))["inputs"]
    values = np.round((found[:, 0, 0, 0] * train.prepared["std"][0] + train.prepared["mean"][0]) * 255)
    assert values.tolist() == [brightness(*example) for example in everything()]


@pytest.mark.parametrize("content", [encoded(pictures.pixels(1, 1)), b"train/dog/1.png\n\n"])
def test_standard_input_is_an_image_or_paths(content, monkeypatch):
    given_section, train = learned()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    source = image_inputs(given_section, "classify", train.prepared, ["-"])
    assert np.array_equal(source.take(np.array([0]))["inputs"], train.take(np.array([5]))["inputs"])


def test_what_names_no_image_is_told_and_the_others_are_predicted(monkeypatch):
    given_section, train = learned()
    Path("list.csv").write_text("path,size\ntrain/cat/0.png,1\ntrain/cat/1.png\n")
    source = image_inputs(given_section, "classify", train.prepared, ["gone.png", "train/dog/1.png", "list.csv"])
    assert source.info["names"] == ["train/dog/1.png", "list.csv:2", "list.csv:3"]
    assert [(one.before, one.name) for one in source.info["bad"]] == [(0, "gone.png")]
    assert np.array_equal(source.take(np.array([0, 1]))["inputs"], train.take(np.array([5, 0]))["inputs"])
    with pytest.raises(DataError, match=r"list.csv:3: has 1 value, but the header has 2 columns"):
        source.take(np.array([2]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"gone.png\ntrain/dog/1.png\n")))
    source = image_inputs(given_section, "classify", train.prepared, ["-"])
    assert (source.info["names"], len(source.info["bad"])) == (["train/dog/1.png"], 1)


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        ([], "names no images"),
        (["empty"], "empty: holds no images; this run takes image files"),
        (["gone.png"], "gone.png: no such file"),
        (["bad.png"], "bad.png: is no image"),
    ],
)
def test_what_cannot_be_predicted_is_named(paths, why):
    given_section, train = learned()
    Path("bad.png").write_bytes(b"words")
    Path("empty").mkdir()
    with pytest.raises(DataError, match=why):
        image_inputs(given_section, "classify", train.prepared, paths).take(np.array([0]))


def test_colour_where_grey_was_trained():
    given_section, train = learned()
    Image.fromarray(pictures.pixels(1, 1, channels=3)).save("new.png")
    source = image_inputs(given_section, "classify", train.prepared, ["new.png"])
    assert np.allclose(source.take(np.array([0]))["inputs"], train.take(np.array([5]))["inputs"], atol=0.02)


def test_what_a_run_does_not_take_says_what_it_takes():
    """A configuration cannot be changed by who predicts."""
    given_section, train = learned()
    Path("rows.csv").write_text("a,b\n1,2\n")
    Path("notes.txt").write_text("words and more words\n")
    Image.new("RGB", (9, 7)).save("large.png")
    source = image_inputs(given_section, "classify", train.prepared, ["rows.csv", "notes.txt", "large.png"])
    told = {one.name: one.why for one in source.info["bad"]}
    with pytest.raises(DataError) as caught:
        source.take(np.array([0]))
    told["large.png"] = str(caught.value).removeprefix("large.png: ")
    assert told.keys() == {"rows.csv", "notes.txt", "large.png"}
    assert told["rows.csv"].startswith(
        "has no column with the paths of images, which would be called image, path, file"
    )
    assert told["notes.txt"].startswith("is a text file, and this run takes image files")
    assert re.fullmatch(
        r"is 7 x 9 pixels \(height x width\), and this run takes \d+ x \d+; resize it", told["large.png"]
    )
    assert not any("data." in why or name in why for name, why in told.items())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pixels_are_standardized_channel_by_channel(channels, order):
    pixels = np.asarray(np.random.default_rng(0).integers(0, 256, (3, 5, 7, channels), np.uint8), order=order)
    scales = {"mean": [0.2, 0.4, 0.6][:channels], "std": [0.5, 0.25, 0.0][:channels]}
    centre, factor = standardization(**scales)
    found = standardizer(SimpleNamespace(**scales))(pixels)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (pixels.astype(np.float32) - centre) * factor)
