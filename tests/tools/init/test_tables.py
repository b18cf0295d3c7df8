"""A config made for one's own data loads, names the guessed target, and trains."""

import json

import numpy as np
import pytest

from jaxprop.config.load import load
from jaxprop.data import open_sources
from jaxprop.errors import UsageError
from jaxprop.tools.init import starter


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


PAIRS = [(f"good morning number {i}", f"guten Morgen Nummer {i}") for i in range(50)]


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl"])
@pytest.mark.parametrize("columns", [("en", "de"), ("src", "tgt")])
def test_two_columns_of_sentences_are_pairs_to_translate(suffix, columns):
    rows = [dict(zip(columns, pair, strict=True)) for pair in PAIRS]
    if columns == ("src", "tgt"):
        rows = [{"id": i, **row} for i, row in enumerate(rows)]
    with open(f"a.{suffix}", "w") as file:
        if suffix == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            between = "\t" if suffix == "tsv" else ";"
            file.writelines(between.join(map(str, row)) + "\n" for row in [list(rows[0]), *(r.values() for r in rows)])
    config = made(f"a.{suffix}")
    assert (config.task.name, config.data.name) == ("translate", "pairs")
    assert (config.data.source, config.data.target) == columns
    assert set(open_sources(config.data, config.task.name)) == {"train", "validation"}


def test_columns_called_source_and_target_are_pairs_even_where_one_is_numbers():
    """Fault: number words and their digits became a regression."""
    words = ["one", "two", "three", "four", "five", "six"]
    rows = [(f"{a} {b}", 10 * i + j) for i, a in enumerate(words) for j, b in enumerate(words)]
    assert made(csv("pairs.csv", "source,target", rows)).data.name == "pairs"
    assert made(csv("scores.csv", "input,output", rows)).task.name == "regress"


def test_names_of_people_and_their_towns_are_no_pairs_to_translate():
    rows = [(f"Anna{i}", f"Bonn{i}") for i in range(50)]
    assert made(csv("a.csv", "name,town", rows)).task.name == "classify"


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
