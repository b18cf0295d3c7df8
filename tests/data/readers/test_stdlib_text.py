"""The standard library as text: split by file, every byte predicted once, and an honest unigram figure."""

import os
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from jaxprop.config.schema.data import StdlibText, TrainedTokenizer
from jaxprop.data.readers.stdlib_text import list_files, open_stdlib_text, split_files
from jaxprop.data.stream import one_pass
from jaxprop.data.tokenizers import restore
from jaxprop.errors import DataError

STDLIB = Path(sysconfig.get_path("stdlib"))


def section(**settings):
    return StdlibText(name="stdlib_text", **settings)


@pytest.fixture
def library(tmp_path):
    """A folder like a standard library: 40 modules and some files that do not belong."""
    root = tmp_path / "lib"
    texts = {f"pkg{i % 4}/mod{i}.py": f"# module {i}\n" + f"value_{i} = {i}\n" * (i + 1) for i in range(40)}
    texts |= {
        "LICENSE.txt": "A licence.\n",
        "site-packages/other.py": "no",
        "test/test_x.py": "no",
        "pkg1/tests/t.py": "no",
        "pkg1/__pycache__/mod.py": "no",
        "encodings/cp437.py": "no",
        "config-3.11-x86/Makefile.py": "no",
        "_sysconfigdata_linux.py": "no",
        "image.png": "no",
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def text_of(source):
    """The text a source's windows were cut from, put together again."""
    batch = source.take(np.arange(source.length))
    targets = batch["labels"][batch["mask"] == 1]
    return bytes([batch["inputs"][0, 0], *targets.tolist()])


def test_the_real_library_makes_a_usable_data_set():
    sources = open_stdlib_text(section())
    train, test = sources["train"].info, sources["test"].info
    assert train["vocabulary"] == test["vocabulary"] == 256
    assert train["bytes"] > 4_000_000
    assert 0.02 < test["bytes"] / (train["bytes"] + test["bytes"]) < 0.3
    assert train["files"] > 8 * test["files"] / 2
    assert 2.5 < train["unigram_nats"] == test["unigram_nats"] < 4.0
    assert set(list_files(STDLIB)) >= {"json/decoder.py", "typing.py"}


def test_the_training_text_caps_at_max_bytes_and_the_test_text_in_proportion():
    full = open_stdlib_text(section())
    capped = open_stdlib_text(section(max_bytes=9_000))
    assert capped["train"].info["bytes"] == 9_000
    assert capped["test"].info["bytes"] == 1_000
    for split in ("train", "test"):
        start = full[split].take(np.array([0]))
        assert np.array_equal(capped[split].take(np.array([0]))["labels"], start["labels"])
        assert capped[split].info["files"] < full[split].info["files"]


def test_only_the_librarys_own_text_is_listed(library):
    assert list_files(library) == sorted([f"pkg{i % 4}/mod{i}.py" for i in range(40)] + ["LICENSE.txt"])


def test_no_file_is_in_both_splits_and_none_is_lost(library):
    files = list_files(library)
    train, test = split_files(files, 0.3)
    assert sorted(train + test) == files
    assert not set(train) & set(test)
    sources = open_stdlib_text(section(sequence_length=32, test_fraction=0.3), library)
    for split, names in (("train", train), ("test", test)):
        expected = b"".join((library / name).read_bytes() + b"\0" for name in names)
        assert text_of(sources[split]) == expected
        assert sources[split].info["files"] == len(names)
        assert sources[split].info["bytes"] == len(expected)


def test_a_file_keeps_its_split_when_others_come_and_go_or_the_fraction_grows(library):
    files = list_files(library)
    _, test = split_files(files, 0.3)
    assert [name for name in test if name in files[::2]] == split_files(files[::2], 0.3)[1]
    assert set(test) <= set(split_files(files, 0.6)[1])


def test_the_order_does_not_depend_on_the_file_system(library, monkeypatch):
    before = open_stdlib_text(section(), library)["train"].fingerprint
    walk = os.walk

    def backwards(root):
        for folder, folders, names in walk(root):
            folders.sort(reverse=True)
            yield folder, folders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert open_stdlib_text(section(), library)["train"].fingerprint == before


@pytest.mark.parametrize("length", [1, 2, 7, 64, 100_000])
def test_every_byte_but_the_first_is_predicted_once_from_the_byte_before(library, length):
    for source in open_stdlib_text(section(sequence_length=length, test_fraction=0.3), library).values():
        batch = source.take(np.arange(source.length))
        assert batch["inputs"].shape == batch["labels"].shape == batch["mask"].shape == (source.length, length)
        assert [batch[name].dtype.name for name in ("inputs", "labels", "mask")] == ["int32", "int32", "float32"]
        assert batch["mask"].sum() == source.info["bytes"] - 1
        assert np.array_equal(batch["inputs"][:, 1:], batch["labels"][:, :-1])
        assert np.array_equal(batch["inputs"][1:, 0], batch["labels"][:-1, -1])
        assert (batch["mask"][:-1] == 1).all()
        assert (np.diff(batch["mask"][-1]) <= 0).all()
        assert (batch["labels"][batch["mask"] == 0] == 0).all()


def test_the_unigram_figure_is_the_masked_loss_of_a_unigram_model_over_an_evaluation(library):
    sources = open_stdlib_text(section(sequence_length=32, test_fraction=0.3), library)
    counts = np.bincount(np.frombuffer(text_of(sources["train"]), np.uint8), minlength=256) + 1
    nats = -np.log(counts / counts.sum())
    loss = tokens = 0.0
    for batch in one_pass(sources["test"], batch_size=5):
        weight = batch["mask"] * batch["weight"][:, None]
        loss += (nats[batch["labels"]] * weight).sum()
        tokens += weight.sum()
    assert sources["test"].info["unigram_nats"] == pytest.approx(loss / tokens, rel=1e-6)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"one\r\ntwo\r\n", b"one\ntwo\n\0"),
        ("naïve\n".encode(), "naïve\n\0".encode()),
        ("naïve\n".encode("latin-1"), b""),
        (b"zero \0 byte", b""),
        (b"", b""),
    ],
    ids=["windows line ends", "utf-8", "latin-1", "zero byte", "empty"],
)
def test_files_that_are_not_utf8_text_are_left_out(library, content, kept):
    before = {split: text_of(s) for split, s in open_stdlib_text(section(test_fraction=0.3), library).items()}
    (library / "odd.py").write_bytes(content)
    after = {split: text_of(s) for split, s in open_stdlib_text(section(test_fraction=0.3), library).items()}
    split = "test" if "odd.py" in split_files(["odd.py"], 0.3)[1] else "train"
    assert len(after[split]) == len(before[split]) + len(kept)
    assert kept in after[split]


def test_a_tokenizer_is_trained_on_the_training_files(library):
    keys = {"test_fraction": 0.3, "sequence_length": 8, "tokenizer": TrainedTokenizer(train="bpe", vocabulary=280)}
    opened = open_stdlib_text(section(**keys), library)
    bytes_of = open_stdlib_text(section(test_fraction=0.3), library)
    tokenizer = restore(opened["train"].prepared["tokenizer"])
    for split, source in opened.items():
        batch = source.take(np.arange(source.length))
        tokens = [int(batch["inputs"][0, 0]), *batch["labels"][batch["mask"] == 1].tolist()]
        assert tokenizer.decode(tokens) == text_of(bytes_of[split]).decode().replace("\0", "")
        assert source.info["vocabulary"] == 280
        assert source.info["bytes"] == bytes_of[split].info["bytes"]
    again = open_stdlib_text(section(**keys), library, opened["train"].prepared)
    assert again["test"].fingerprint == opened["test"].fingerprint


def test_the_fingerprint_knows_the_text_and_the_window(library):
    first = open_stdlib_text(section(sequence_length=32), library)["train"].fingerprint
    assert open_stdlib_text(section(sequence_length=32), library)["train"].fingerprint == first
    assert open_stdlib_text(section(sequence_length=16), library)["train"].fingerprint != first
    for name in list_files(library):
        (library / name).write_text("changed = True\n")
    assert open_stdlib_text(section(sequence_length=32), library)["train"].fingerprint != first


@pytest.mark.parametrize("case", ["missing", "zipped", "compiled only"])
def test_a_python_without_sources_is_a_clear_error(tmp_path, case):
    root = tmp_path / "python311.zip"
    if case == "zipped":
        root.write_bytes(b"PK")
    if case == "compiled only":
        root.mkdir()
        (root / "typing.pyc").write_bytes(b"")
        (root / "LICENSE.txt").write_bytes(b"A licence.")
    with pytest.raises(DataError, match=r"no standard library sources under .*data\.name: arrays"):
        open_stdlib_text(section(), root)


@pytest.mark.parametrize(("fraction", "split"), [(1e-9, "test"), (1 - 1e-9, "train")])
def test_an_empty_split_is_a_clear_error(library, fraction, split):
    with pytest.raises(DataError, match=rf"{split} split .* is empty .*change data\.test_fraction"):
        open_stdlib_text(section(test_fraction=fraction), library)
