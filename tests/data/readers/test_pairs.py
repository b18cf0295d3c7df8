"""Pairs of texts: source and target in step, teacher-forced, and one sentence for each way files can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxprop.config.schema.data import Pairs, TrainedTokenizer
from jaxprop.data import READERS, open_sources
from jaxprop.data.readers.pairs import open_pairs
from jaxprop.data.stream import Stream
from jaxprop.errors import ConfigError, DataError

ROWS = [("ab", "x y"), ("c", "zzz é"), ("a longer source", "w")] * 4


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def section(train="train.jsonl", **keys):
    return Pairs(name="pairs", train=train, **keys)


def jsonl(name="train.jsonl", rows=ROWS):
    Path(name).write_text("".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in rows), encoding="utf-8")


def parallel(left, right):
    Path("train.en").write_bytes(left)
    Path("train.de").write_bytes(right)
    return section("train.en", train_targets="train.de")


def written(source):
    batch = source.take(np.arange(source.length))
    return [
        (bytes(s[m == 1].tolist()).decode(), bytes(t[h == 1].tolist()).decode())
        for s, m, t, h in zip(batch["inputs"], batch["input_mask"], batch["labels"], batch["mask"], strict=True)
    ]


def test_a_target_is_told_token_by_token_up_to_its_end():
    jsonl(rows=[("ab", "xyz"), ("c", "w")])
    batch = open_pairs(section())["train"].take(np.arange(2))
    assert batch["inputs"].tolist() == [[97, 98, 0, 0, 0, 0, 0, 0], [99, 0, 0, 0, 0, 0, 0, 0]]
    assert batch["input_mask"].sum(1).tolist() == [2, 1]
    assert batch["targets"][:, :5].tolist() == [[0, 120, 121, 122, 0], [0, 119, 0, 0, 0]]
    assert batch["labels"][:, :4].tolist() == [[120, 121, 122, 0], [119, 0, 0, 0]]
    assert batch["mask"].sum(1).tolist() == [4, 2]
    assert [batch[name].dtype.name for name in ("inputs", "targets", "labels", "mask", "input_mask")] == [
        "int32", "int32", "int32", "float32", "float32",
    ]  # fmt: skip


def test_a_target_that_is_cut_does_not_end():
    jsonl(rows=[("a", "x" * 9), ("b", "y")])
    source = open_pairs(section(max_length=4))["train"]
    batch = source.take(np.arange(2))
    assert batch["labels"].tolist() == [[120, 120, 120, 120, 0], [121, 0, 0, 0, 0]]
    assert batch["mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    assert "1 of 2 texts are longer than data.max_length (4)" in source.info["notes"][0]


@pytest.mark.parametrize("kind", ["jsonl", "tsv", "csv", "parallel"])
def test_every_kind_of_file(kind):
    data = section(f"train.{kind}")
    if kind == "jsonl":
        jsonl()
    elif kind == "parallel":
        data = parallel(*("\n".join(side).encode() for side in zip(*ROWS, strict=True)))
    else:
        mark = {"tsv": "\t", "csv": ","}[kind]
        Path(f"train.{kind}").write_text("\n".join(mark.join(row) for row in [("source", "target"), *ROWS]))
    source = open_sources(data, "language")["train"]
    assert written(source) == [(s, f"{t}\0") for s, t in ROWS]
    assert (source.info["vocabulary"], source.info["begin"], source.info["end"]) == (256, 0, 0)


def test_other_names_of_columns():
    Path("a.jsonl").write_text('{"en": "x", "de": "y"}\n')
    assert written(open_pairs(section("a.jsonl", source="en", target="de"))["train"]) == [("x", "y\0")]


def test_a_stored_run_needs_no_training_data():
    jsonl()
    jsonl("test.jsonl", ROWS[:2])
    keys = {"test": "test.jsonl", "tokenizer": TrainedTokenizer(train="bpe", vocabulary=270)}
    opened = open_pairs(section(**keys))
    Path("train.jsonl").unlink()
    kept = open_pairs(section(**keys), json.loads(json.dumps(opened["train"].prepared)))
    assert list(kept) == ["test"]
    assert kept["test"].fingerprint == opened["test"].fingerprint


def test_a_part_is_held_out():
    jsonl()
    opened = open_pairs(section(validation=0.25))
    assert {split: source.length for split, source in opened.items()} == {"train": 9, "validation": 3}
    kept = open_pairs(section(validation=0.25), opened["train"].prepared)
    assert kept["validation"].fingerprint == opened["validation"].fingerprint


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_a_stream_goes_on_with_the_exact_next_batch(stop):
    jsonl()
    whole, stopped = (Stream(open_pairs(section())["train"], batch_size=5, seed=1) for _ in range(2))
    expected = [next(whole) for _ in range(8)][stop:]
    for _ in range(stop):
        next(stopped)
    resumed = Stream(open_pairs(section())["train"], batch_size=5, seed=1)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    for batch in expected:
        other = next(resumed)
        assert all(np.array_equal(batch[name], other[name]) for name in batch)


def test_blank_lines_on_both_sides_are_no_pair():
    assert written(open_pairs(parallel(b"a\n\nb\n", b"x\r\n\r\ny"))["train"]) == [("a", "x\0"), ("b", "y\0")]


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (b"a\nb\n", b"x\n", r"train\.de ends at line 1, but train\.en goes on"),
        (b"a\n", b"x\ny\n", r"train\.en ends at line 1, but train\.de goes on"),
        (b"a\nb\n", b"x\n\n", r"train\.en:2: its 'target' is empty.*this pair"),
        (b"a\ncaf\xe9\n", b"x\ny\n", r"train\.en:2: is not UTF-8 on one side"),
        (b"", b"x\n", r"train\.en: is empty"),
    ],
)
def test_files_that_do_not_belong_together(left, right, message):
    with pytest.raises(DataError, match=message):
        open_pairs(parallel(left, right))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"source": "x"}', r"train\.jsonl:13: has no 'target'"),
        ('{"source": 3, "target": "y"}', "its 'source' is int, not text"),
        ('{"source": "a\\u0000", "target": "y"}', "its 'source' holds a zero byte"),
        ('{"source": "a", "target": "\\udc00"}', "its 'target' holds half of a character"),
    ],
)
def test_a_bad_pair_is_named_counted_and_skipped(line, message):
    jsonl()
    with Path("train.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        open_pairs(section())
    source = open_pairs(section(max_bad_fraction=0.1))["train"]
    assert source.length == 12
    assert source.info["notes"][0].startswith("skipped 1 of 13 pairs")


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"train": "plain.txt"}, DataError, r"plain\.txt is plain text; expected JSONL.*data\.train_targets"),
        ({"train": "gone.jsonl"}, DataError, "no such file"),
        ({"train": "other.jsonl"}, DataError, "has no column 'source'"),
        ({"train": "train.jsonl", "train_targets": "plain.txt"}, DataError, "expected one plain text file"),
        ({"train": "train.jsonl", "test_targets": "plain.txt"}, ConfigError, r"data\.test_targets: there is no file"),
        ({"train": "train.jsonl", "validation": 0.99}, DataError, "leaves none to train on"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(keys, error, message):
    jsonl()
    Path("plain.txt").write_text("x\n")
    Path("other.jsonl").write_text('{"de": "x"}\n')
    with pytest.raises(error, match=message):
        open_pairs(section(**keys))


# -- what is predicted ----------------------------------------------------------------------------


def inputs(*paths, **keys):
    jsonl()
    stored = open_pairs(section(**keys))["train"].prepared
    return READERS["pairs"].inputs(section(**keys), "translate", stored, list(paths))


def read_of(source):
    batch = source.take(np.arange(source.length))
    return [bytes(s[m == 1].tolist()).decode() for s, m in zip(batch["inputs"], batch["input_mask"], strict=True)]


def test_sources_come_from_files_and_as_they_are_typed():
    Path("new.txt").write_text("one\n\ntwo\n")
    Path("new.jsonl").write_text('{"source": "three"}\n{"target": "x"}\n')
    found = inputs("new.txt", "new.jsonl", "four", "is it 5?", "a/b c")
    assert read_of(found) == ["one", "two", "three", "four", "is it 5?", "a/b c"]
    assert found.info["names"] == ["new.txt:1", "new.txt:3", "new.jsonl:1", "four", "is it 5?", "a/b c"]
    assert len(found.info["bad"]) == 1
    assert found.info["bad"][0].name == "new.jsonl:2"


@pytest.mark.parametrize("path", ["gone.txt", "folder/gone", "*.tsv", "GONE.JSONL"])
def test_what_looks_like_a_path_is_one(path):
    with pytest.raises(DataError, match=r"no such file|no file matches"):
        inputs(path)


def test_a_source_that_is_longer_than_the_model_reads_is_told_and_the_others_go_on():
    found = inputs("short", "y" * 17, "a b " * 200)
    assert read_of(found) == ["short"]
    assert [f"{one.name}: {one.why}" for one in found.info["bad"]] == [
        f"{text}: has {len(text)} tokens, and the model reads 16; split it into sentences"
        for text in ("y" * 17, "a b " * 200)
    ]


def test_names_of_the_columns_are_those_of_the_run():
    Path("train.jsonl").write_text('{"en": "one", "de": "eins"}\n')
    keys = {"source": "en", "target": "de"}
    stored = open_pairs(section(**keys))["train"].prepared
    Path("new.csv").write_text("de,en\nzwei,two\n")
    assert read_of(READERS["pairs"].inputs(section(**keys), "translate", stored, ["new.csv"])) == ["two"]
