"""Your own text: what it becomes for each task, in every kind of file, and a sentence for each way it can be wrong."""

import csv
import json
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprop.config.schema.data import TextFiles, TrainedTokenizer
from jaxprop.data import open_sources
from jaxprop.data.readers.text import open_text, text_inputs
from jaxprop.data.stream import Stream, one_pass
from jaxprop.errors import ConfigError, DataError, JaxpropError, UsageError

ROWS = [("a fine film, really", "good"), ("dull", "bad"), ("the best of the year so far", "good"), ("no é", "bad")] * 5


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def section(train="train.jsonl", **keys):
    return TextFiles(name="text", train=train, **keys)


def jsonl(name="train.jsonl", rows=ROWS, text="text", label="label"):
    Path(name).write_text("".join(json.dumps({text: t, label: a}) + "\n" for t, a in rows), encoding="utf-8")
    return name


def written(source):
    """Texts, and names of the classes, of all records of a source of bytes."""
    batch = source.take(np.arange(source.length))
    texts = [
        bytes(row[held == 1].tolist()).decode() for row, held in zip(batch["inputs"], batch["input_mask"], strict=True)
    ]
    return list(zip(texts, [source.info["class_names"][i] for i in batch["labels"]], strict=True))


def language_of(source):
    """The bytes that a source's windows were cut from, put together again."""
    batch = source.take(np.arange(source.length))
    return bytes([batch["inputs"][0, 0], *batch["labels"][batch["mask"] == 1].tolist()])


# -- language -------------------------------------------------------------------------------------


def test_files_are_documents_one_after_the_other():
    Path("corpus").mkdir()
    for name, text in {"b.txt": "two\r\n", "a.txt": "one é", "c.md": ""}.items():
        Path("corpus", name).write_bytes(text.encode())
    Path("corpus/c.md").write_text("three")
    source = open_text(section("corpus", sequence_length=4), "language")["train"]
    assert language_of(source) == "one é\0two\n\0three\0".encode()
    assert source.info["vocabulary"] == 256
    assert source.info["documents"] == 3
    assert source.info["bytes"] == len("one é\0two\n\0three\0".encode())
    assert source.prepared == {"tokenizer": {"kind": "bytes"}}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_records_are_documents(kind):
    texts = ["first text", "second, with more", "third é"]
    path = f"train.{kind}"
    if kind == "jsonl":
        Path(path).write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    elif kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"body": texts}), path)
    else:
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="," if kind == "csv" else "\t", lineterminator="\n")
            writer.writerows([["body"], *[[text] for text in texts]])
    source = open_text(section(path, text="body"), "language")["train"]
    assert language_of(source) == "".join(f"{text}\0" for text in texts).encode()


def test_a_large_file_is_one_document_in_blocks(monkeypatch):
    monkeypatch.setattr("jaxprop.data.records.BLOCK", 10)
    Path("book.txt").write_text("line one\nline two\nand a line that is longer\n")
    source = open_text(section("book.txt"), "language")["train"]
    assert language_of(source) == b"line one\nline two\nand a line that is longer\n\0"
    assert source.info["documents"] == 1


def test_a_fraction_of_the_documents_is_held_out():
    rows = [(f"document {i}", None) for i in range(20)]
    jsonl(rows=rows)
    opened = open_text(section(validation=0.2, sequence_length=5), "language")
    train, held = (set(language_of(opened[split]).decode().split("\0")) - {""} for split in ("train", "validation"))
    assert len(held) == 4
    assert train | held == {text for text, _ in rows}
    assert not train & held
    again = open_text(section(validation=0.2, sequence_length=5), "language")
    assert again["validation"].fingerprint == opened["validation"].fingerprint
    other = open_text(section(validation=0.2, sequence_length=5, split_seed=1), "language")
    assert other["validation"].fingerprint != opened["validation"].fingerprint


def test_of_one_document_the_end_is_held_out():
    text = "".join(f"line {i}\n" for i in range(100))
    Path("book.txt").write_text(text)
    opened = open_text(section("book.txt", validation=0.1, sequence_length=16), "language")
    train, held = (language_of(opened[split]).decode() for split in ("train", "validation"))
    assert train.rstrip("\0") + held.rstrip("\0") == text
    assert len(held) == pytest.approx(0.1 * len(text), abs=2)
    assert 0 < opened["train"].info["unigram_nats"] < 5


def test_a_tokenizer_is_trained_on_what_is_trained_on():
    rows = [(f"the cat sat on mat {i}. " * 4, None) for i in range(40)]
    jsonl(rows=rows)
    Path("test.txt").write_text("the cat sat on the mat")
    keys = {"tokenizer": TrainedTokenizer(train="bpe", vocabulary=300), "validation": 0.25, "test": "test.txt"}
    opened = open_text(section(sequence_length=8, **keys), "language")
    assert list(opened) == ["train", "validation", "test"]
    train = opened["train"]
    assert train.info["vocabulary"] == 300
    assert train.info["tokenizer"] == "tokenizers"
    batch = train.take(np.arange(train.length))
    assert batch["bytes"].shape == (train.length,)
    assert batch["bytes"].sum() / batch["mask"].sum() > 2.5
    prepared = json.loads(json.dumps(train.prepared))
    Path("train.jsonl").unlink()
    kept = open_text(section(sequence_length=8, **keys), "language", prepared)
    assert list(kept) == ["test"]
    assert kept["test"].fingerprint == opened["test"].fingerprint


def test_the_validation_split_is_the_same_for_a_stored_run():
    jsonl(rows=[(f"text number {i}", None) for i in range(30)])
    keys = {"tokenizer": TrainedTokenizer(train="bpe", vocabulary=280), "validation": 0.2}
    opened = open_text(section(**keys), "language")
    kept = open_text(section(**keys), "language", opened["train"].prepared)
    assert list(kept) == ["validation"]
    assert kept["validation"].fingerprint == opened["validation"].fingerprint


@pytest.mark.parametrize("limit", [10**9, 0])
def test_a_broken_document_is_left_out_where_it_may_be(limit, monkeypatch):
    monkeypatch.setattr("jaxprop.data.again.KEPT", limit)
    Path("corpus").mkdir()
    for i in range(9):
        Path("corpus", f"{i}.txt").write_text(f"text {i}")
    Path("corpus/5b.txt").write_bytes(b"one\ncaf\xe9")
    with pytest.raises(DataError, match=r"corpus/5b\.txt: is not UTF-8 in line 2 \(byte 0xe9\).*this document"):
        open_text(section("corpus"), "language")
    source = open_text(section("corpus", max_bad_fraction=0.1), "language")["train"]
    assert language_of(source).decode().split("\0")[:-1] == [f"text {i}" for i in range(9)]
    assert source.info["notes"] == [
        "skipped 1 of 10 documents that cannot be used: corpus/5b.txt: is not UTF-8 in line 2 (byte 0xe9); convert it "
        "with iconv -f FROM -t UTF-8"
    ]


def test_empty_files_among_others_are_no_documents():
    Path("corpus").mkdir()
    for name, text in {"a.py": "x = 1\n", "__init__.py": "", "b.py": "y = 2\n"}.items():
        Path("corpus", name).write_text(text)
    source = open_text(section("corpus"), "language")["train"]
    assert language_of(source) == b"x = 1\n\0y = 2\n\0"
    assert source.info["documents"] == 2


def test_three_lines_of_data_train_a_language_model():
    Path("book.txt").write_text("It was the best of times. " * 50)
    opened = open_sources(section("book.txt", validation=0.1), "language")
    assert {split: source.length for split, source in opened.items()} == {"train": 10, "validation": 2}


# -- labelled texts -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_texts_with_their_classes(kind):
    path = f"train.{kind}"
    if kind == "jsonl":
        jsonl(path, text="sentence", label="sentiment")
    elif kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"sentence": [t for t, _ in ROWS], "sentiment": [a for _, a in ROWS]}), path)
    else:
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="," if kind == "csv" else "\t", lineterminator="\n")
            writer.writerows([["sentence", "sentiment"], *ROWS])
    source = open_text(section(path, text="sentence", label="sentiment"), "classify")["train"]
    assert written(source) == ROWS
    assert source.labels().tolist() == [1, 0, 1, 0] * 5
    assert source.info == {
        "classes": 2, "class_names": ["bad", "good"], "vocabulary": 256, "tokenizer": "bytes", "max_length": 32,
    }  # fmt: skip


def test_a_folder_for_each_class():
    for i, (text, label) in enumerate(ROWS):
        path = Path("train", label, f"{i:02}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    source = open_text(section("train"), "classify")["train"]
    assert sorted(written(source)) == sorted(ROWS)


def test_long_texts_are_cut_and_that_is_told():
    jsonl()
    source = open_text(section(label="label", max_length=10), "classify")["train"]
    batch = source.take(np.arange(4))
    assert batch["inputs"].shape == (4, 10)
    assert batch["input_mask"].sum(1).tolist() == [10, 4, 10, 5]
    note = "10 of 20 texts are longer than data.max_length (10) and are cut; the longest has 27 tokens"
    assert source.info["notes"] == [note]


def test_the_length_is_that_of_the_training_texts():
    jsonl()
    jsonl("test.jsonl", [("a text that is longer than any that was trained on", "good"), ("short", "bad")])
    opened = open_text(section(label="label", test="test.jsonl"), "classify")
    assert opened["test"].take(np.arange(2))["inputs"].shape == (2, 32)
    assert "longest training text (32)" in opened["test"].info["notes"][0]


def test_a_stratified_part_is_held_out_and_the_tokenizer_has_not_seen_it():
    rows = [(f"text {chr(97 + i % 26)}{i}", "bad" if i % 4 else "good") for i in range(80)]
    jsonl(rows=rows)
    keys = {"label": "label", "validation": 0.25, "tokenizer": TrainedTokenizer(train="bpe", vocabulary=300)}
    opened = open_sources(section(**keys), "classify")
    assert {split: source.length for split, source in opened.items()} == {"train": 60, "validation": 20}
    assert np.bincount(opened["validation"].labels()).tolist() == [15, 5]
    kept = open_sources(section(**keys), "classify", json.loads(json.dumps(opened["train"].prepared)))
    assert list(kept) == ["validation"]
    assert kept["validation"].fingerprint == opened["validation"].fingerprint


def test_numbers_and_several_labels():
    Path("a.jsonl").write_text(
        '{"text": "x", "y": 1.5, "z": 2, "tags": ["p", "q"]}\n{"text": "w", "y": "-1", "z": 0, "tags": []}\n'
    )
    source = open_text(section("a.jsonl", label=("y", "z")), "regress")["train"]
    assert source.take(np.arange(2))["labels"].tolist() == [[1.0, 1.0], [-1.0, -1.0]]  # standardized
    assert source.info["target_scale"] == source.prepared["target_scale"] == [[0.25, 1.25], [1.0, 1.0]]
    assert source.info["target_names"] == ["y", "z"]
    source = open_text(section("a.jsonl", label="tags"), "multilabel")["train"]
    assert source.take(np.arange(2))["labels"].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert source.info["class_names"] == ["p", "q"]


BAD = {
    "null text": ('{"text": null, "label": "good"}', "has no 'text'"),
    "number": ('{"text": 7, "label": "good"}', "its 'text' is int, not text"),
    "empty": ('{"text": "  ", "label": "good"}', "its 'text' is empty"),
    "zero byte": ('{"text": "a\\u0000", "label": "good"}', "its 'text' holds a zero byte"),
    "surrogate": ('{"text": "\\ud800", "label": "good"}', r"its 'text' holds half of a character \(a surrogate\)"),
    "no label": ('{"text": "x"}', "has no label"),
    "null label": ('{"text": "x", "label": null}', "has no label"),
    "no json": ("{", "is not JSON"),
}


@pytest.mark.parametrize(("line", "why"), BAD.values(), ids=BAD)
def test_a_bad_record_is_named_counted_and_skipped(line, why):
    jsonl()
    with Path("train.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=rf"train\.jsonl:21: {why}.*max_bad_fraction"):
        open_text(section(label="label"), "classify")
    source = open_text(section(label="label", max_bad_fraction=0.05), "classify")["train"]
    assert written(source) == ROWS
    assert source.info["notes"][0].startswith("skipped 1 of 21 texts that cannot be used: train.jsonl:21: ")


def test_a_class_that_training_has_not_is_told():
    jsonl()
    jsonl("test.jsonl", [("x", "good"), ("y", "so-so")])
    with pytest.raises(
        DataError, match=r"test\.jsonl:2: its label 'so-so' is no class of the training data \(bad, good\)"
    ):
        open_text(section(label="label", test="test.jsonl"), "classify")


@pytest.mark.parametrize(
    ("keys", "task", "error", "message"),
    [
        ({"label": "mood"}, "classify", DataError, r"has no column 'mood' \(it has: 'text', 'label'\)"),
        ({"text": "txt", "label": "label"}, "classify", DataError, "did you mean 'text'"),
        ({}, "classify", ConfigError, "has columns, so name the one of the label"),
        ({}, "regress", ConfigError, "needs the name of the label's column"),
        ({"label": "label"}, "regress", DataError, r"train\.jsonl:1: its 'label' is no number"),
        ({"label": ("label", "text")}, "classify", ConfigError, "takes one column"),
        ({"train": "one.jsonl", "label": "label"}, "classify", DataError, r"one\.jsonl: has one class only, 'good'"),
        ({"train": "plain.txt"}, "classify", DataError, r"plain\.txt is plain text, which holds no labels"),
        ({"train": "plain.txt", "label": "label"}, "classify", DataError, "is plain text, which holds no labels"),
        ({"train": "empty.txt"}, "language", DataError, r"empty\.txt: is empty"),
        ({"train": "blank.jsonl"}, "language", DataError, r"blank\.jsonl holds no text to learn from"),
        ({"train": "gone.jsonl", "label": "label"}, "classify", DataError, r"data\.train: gone\.jsonl: no such file"),
        ({"test": "gone.jsonl", "label": "label"}, "classify", DataError, r"data\.test: gone\.jsonl: no such file"),
        ({"label": "label", "validation": 0.99}, "classify", DataError, r"data\.validation: 0\.99 of"),
        ({"label": "label", "tokenizer": "gone.json"}, "classify", DataError, r"data\.tokenizer: gone\.json"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_sentence(keys, task, error, message):
    jsonl(rows=ROWS[:4])
    jsonl("one.jsonl", [("x", "good"), ("y", "good")])
    Path("plain.txt").write_text("one\ntwo\n")
    Path("empty.txt").write_text("")
    Path("blank.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(error, match=message):
        open_text(section(**keys), task)


# -- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classify", "language"])
@pytest.mark.parametrize("stop", [0, 1, 7, 12])
def test_a_stream_goes_on_with_the_exact_next_batch(task, stop):
    jsonl()
    keys = {"label": "label", "sequence_length": 8, "tokenizer": TrainedTokenizer(train="bpe", vocabulary=280)}

    def stream():
        return Stream(open_text(section(**keys), task)["train"], batch_size=3, seed=4)

    whole, stopped = stream(), stream()
    expected = [next(whole) for _ in range(15)][stop:]
    for _ in range(stop):
        next(stopped)
    resumed = stream()
    resumed.restore(json.loads(json.dumps(stopped.state())))
    for batch in expected:
        other = next(resumed)
        assert batch.keys() == other.keys()
        assert all(np.array_equal(batch[name], other[name]) for name in batch)


def test_changed_texts_or_labels_are_another_stream():
    prints = []
    for rows in (ROWS, [("other", "good"), *ROWS[1:]], [(ROWS[0][0], "bad"), *ROWS[1:]]):
        jsonl(rows=rows)
        prints.append(open_text(section(label="label"), "classify")["train"].fingerprint)
    assert len(set(prints)) == 3


def test_batches_of_a_pass_have_one_shape():
    jsonl()
    source = open_text(section(label="label"), "classify")["train"]
    shapes = {tuple(array.shape for array in batch.values()) for batch in one_pass(source, 6)}
    assert len(shapes) == 1


# -- what is predicted ----------------------------------------------------------------------------


def stored(**keys):
    jsonl()
    keys = {"label": "label", **keys}
    return section(**keys), open_text(section(**keys), "classify")["train"].prepared


def predicted(paths, **keys):
    data, prepared = stored(**keys)
    source = text_inputs(data, "classify", prepared, paths)
    return texts_of(source), source


def texts_of(source):
    batch = source.take(np.arange(source.length))
    texts = [
        bytes(row[held == 1].tolist()).decode() for row, held in zip(batch["inputs"], batch["input_mask"], strict=True)
    ]
    return dict(zip(source.info["names"], texts, strict=True))


def test_each_line_of_a_plain_file_is_predicted():
    Path("new.txt").write_text("one\n\ntwo é\n", encoding="utf-8")
    assert predicted(["new.txt"])[0] == {"new.txt:1": "one", "new.txt:3": "two é"}


def test_a_text_may_stand_in_the_place_of_a_file():
    Path("a file.txt").write_text("one")
    assert predicted(["a dull film", "a file.txt"])[0] == {"a dull film": "a dull film", "a file.txt:1": "one"}
    with pytest.raises(DataError, match="no such file"):
        predicted(["another file.txt"])


def test_a_column_a_folder_and_several_paths_are_predicted():
    jsonl("new.jsonl", [("one", None)])
    Path("new").mkdir()
    Path("new/a.txt").write_text("two\nlines")
    assert predicted(["new.jsonl", "new"])[0] == {"new.jsonl:1": "one", "new/a.txt": "two\nlines"}


def test_lines_of_standard_input_are_predicted_while_it_is_open(pipe):
    data, prepared = stored()
    sources = text_inputs(data, "classify", prepared, ["-"])
    pipe.write(b"one\ntwo\nthr")
    assert texts_of(next(sources)) == {"stdin:1": "one", "stdin:2": "two"}
    pipe.write(b"ee\n\n\xff\nfour\n")
    second = next(sources)
    assert texts_of(second) == {"stdin:3": "three", "stdin:6": "four"}
    assert second.info["bad"] == [(1, "stdin:5", "is not UTF-8 (byte 0xff)")]


@pytest.mark.parametrize(
    "content", ['{"text": "one", "label": "a"}\n{"text": "two"}\n', "label,text\na,one\n,two\n"], ids=["jsonl", "csv"]
)
def test_standard_input_is_read_as_a_file_of_the_same_content(pipe, content):
    data, prepared = stored()
    file = Path("new.jsonl" if content.startswith("{") else "new.csv")
    file.write_text(content)
    pipe.write(content.encode())
    pipe.close()
    named = {name.replace("stdin", str(file)): text for source in text_inputs(data, "classify", prepared, ["-"])
             for name, text in texts_of(source).items()}  # fmt: skip
    assert named == texts_of(text_inputs(data, "classify", prepared, [str(file)]))
    assert list(named.values()) == ["one", "two"]


def test_an_object_without_the_column_is_a_bad_record(pipe):
    data, prepared = stored()
    pipe.write(b'{"review": "one"}\n')
    (source,) = [next(text_inputs(data, "classify", prepared, ["-"]))]
    assert source.info["bad"] == [(0, "stdin:1", "has no 'text'")]


def test_standard_input_stands_between_files(monkeypatch):
    data, prepared = stored()
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"two")))
    Path("a.txt").write_text("one")
    Path("b.txt").write_text("three")
    sources = text_inputs(data, "classify", prepared, ["a.txt", "-", "b.txt", "gone.txt"])
    found = [(texts_of(source), source.info["bad"]) for source in sources if source.length]
    assert found[:2] == [({"a.txt:1": "one"}, []), ({"stdin:1": "two"}, [])]
    assert found[2][0] == {"b.txt:1": "three"}
    assert found[2][1][0].name == "gone.txt"


def test_what_is_predicted_is_shaped_as_in_training():
    Path("new.txt").write_text("a line that is longer than all the texts that were trained on\n")
    source = predicted(["new.txt"])[1]
    assert source.take(np.arange(1))["inputs"].shape == (1, 32)
    assert "are cut" in source.info["notes"][0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("new.txt", b"\n", r"new\.txt: holds no text to predict"),
        ("new.csv", b"sentence\nx\n", "has no column 'text'"),
    ],
)
def test_what_cannot_be_predicted_is_one_sentence(name, content, message):
    data, prepared = stored()
    Path(name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        text_inputs(data, "classify", prepared, [name])


def test_what_cannot_be_predicted_is_told_and_the_others_are_predicted():
    Path("new.txt").write_bytes(b"one\ncaf\xe9\ntwo\n")
    Path("new.jsonl").write_text('{"text": 7}\n')
    names, source = predicted(["new.txt", "new.jsonl"])
    assert list(names) == ["new.txt:1", "new.txt:3"]
    assert source.info["bad"] == [
        (1, "new.txt:2", "is not UTF-8 (byte 0xe9)"), (2, "new.jsonl:1", "its 'text' is int, not text"),
    ]  # fmt: skip
    assert predicted(["new.jsonl"])[1].length == 0


def test_what_stands_before_a_quote_that_is_never_closed_is_predicted():
    Path("new.csv").write_text('text\none\ntwo\n"three\nfour\n')
    names, source = predicted(["new.csv"])
    assert names == {"new.csv:2": "one", "new.csv:3": "two"}
    assert [(one.before, one.name) for one in source.info["bad"]] == [(2, "new.csv")]


def test_a_language_model_generates():
    with pytest.raises(UsageError, match="jaxprop generate"):
        text_inputs(section(), "language", {}, ["new.txt"])


# -- fuzz -----------------------------------------------------------------------------------------

VALUE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.lists(st.text(max_size=3), max_size=2)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=8),
    task=st.sampled_from(["classify", "regress", "multilabel", "language"]),
    allowed=st.sampled_from([0.0, 0.5, 0.99]),
)
def test_any_records_become_their_own_labels_or_one_sentence(rows, task, allowed):
    jsonl(rows=rows)
    source = opened_or_one_sentence(section(label="label", max_bad_fraction=allowed), task)
    if source is None:
        return
    if task == "language":
        assert source.take(np.arange(source.length))["inputs"].dtype == np.int32
        return
    batch = source.take(np.arange(source.length))
    assert len(batch["labels"]) == source.length <= len(rows)
    good = [(text, label) for text, label in rows if isinstance(text, str) and text.strip() and usable(text)]
    if task == "classify":
        for text, name in written(source):
            assert any(text == t.encode()[:512].decode(errors="ignore") and name in named(a) for t, a in good)
    else:
        assert np.isfinite(batch["labels"]).all()


def opened_or_one_sentence(data, task):
    said = ""
    try:
        return open_text(data, task)["train"]
    except JaxpropError as error:
        said = str(error)
    assert len(said.splitlines()) == 1


def usable(text):
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def named(label):
    if isinstance(label, bool):
        return [str(label).lower()]
    return (
        [str(label).strip(), str(int(label))]
        if isinstance(label, float) and np.isfinite(label)
        else [str(label).strip()]
    )
