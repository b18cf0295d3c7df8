"""A table becomes batches, the same of every format, by statistics of the training rows; a mistake is a sentence."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from jaxprop.config.schema.data import Table
from jaxprop.data import Stream, open_sources
from jaxprop.data.readers.table import bundled, delimited, files, open_splits, rows, rows_to_predict
from jaxprop.errors import ConfigError, DataError, JaxpropError

FORMATS = ("csv", "semicolon", "tsv", "jsonl", "parquet")
NAMES = ["size", "color", "ripe", "weight", "kind"]
ROWS = [
    [1.0, "red", True, 10, "apple"],
    [2.0, "green", False, None, "pear"],
    [3.0, "red", True, 30, "apple"],
    [4.0, None, False, 40, "pear"],
    [5.5, "blue, dark", True, 50, "plum"],
    [6.0, "red", True, 60, "apple"],
]
CLASSES = ["apple", "pear", "plum"]


def section(train="fruit.csv", **settings):
    return Table(name="table", train=train, **{"target": "kind"} | settings)


def everything(source):
    return source.take(np.arange(source.length))


# -- what a table becomes -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_becomes_the_same_batches(write, kind):
    found = open_splits(section(write("fruit", kind, NAMES, ROWS)), "classify")["train"]
    batch = everything(found)
    assert found.info["class_names"] == CLASSES
    assert found.info["classes"] == 3
    assert batch["labels"].tolist() == [0, 1, 0, 1, 2, 0]
    assert batch["labels"].dtype == np.int32
    assert batch["inputs"].dtype == np.float32
    size, weight = (np.array([row[i] for row in ROWS], float) for i in (0, 3))
    held = weight[~np.isnan(weight)]
    standardized = [(size - size.mean()) / size.std(), np.nan_to_num((weight - held.mean()) / held.std())]
    colors = ["blue, dark", "green", "red", None]  # the missing one is last
    hot = [[row[1] == color for row in ROWS] for color in colors] + [
        [row[2] == truth for row in ROWS] for truth in (False, True)
    ]
    expected = np.array([*standardized, np.isnan(weight), *hot], float).T
    np.testing.assert_allclose(batch["inputs"], expected, atol=1e-6)
    picked = found.take(np.array([4, 4, 0]))
    np.testing.assert_array_equal(picked["inputs"], batch["inputs"][[4, 4, 0]])


def test_all_formats_have_the_same_fingerprint_of_the_same_values(write):
    assert (
        len(
            {
                open_splits(section(write("fruit", kind, NAMES, ROWS)), "classify")["train"].fingerprint
                for kind in FORMATS
            }
        )
        == 1
    )


def test_the_fingerprint_follows_a_value_a_label_and_the_split(write):
    def of(rows, **settings):
        return open_splits(section(write("fruit", "csv", NAMES, rows), **settings), "classify")["train"].fingerprint

    changed = [[7.0, *ROWS[0][1:]], *ROWS[1:]]
    relabelled = [[*ROWS[0][:4], "pear"], *ROWS[1:]]
    found = [of(ROWS), of(changed), of(relabelled), of(ROWS, validation=0.3), of(ROWS, validation=0.3, split_seed=1)]
    assert len(set(found)) == 5
    assert of(ROWS) == found[0]


@pytest.mark.parametrize(
    "labels", [[3, 10, 3, 5, 10, 5], [3.0, 10.0, 3.0, 5.0, 10.0, 5.0], ["3", "10", "3", "5", "10", "5"]]
)
@pytest.mark.parametrize("kind", FORMATS)
def test_integer_classes_are_ordered_by_value_in_every_format(write, kind, labels):
    rows = [[*row[:4], label] for row, label in zip(ROWS, labels, strict=True)]
    found = open_splits(section(write("fruit", kind, NAMES, rows)), "classify")["train"]
    assert found.info["class_names"] == ["3", "5", "10"]
    assert everything(found)["labels"].tolist() == [0, 2, 0, 1, 2, 1]


def test_targets_of_regress_are_standardized_and_their_scale_is_told(write):
    path = write("fruit", "csv", ["x", "a", "b"], [[i, 10 * i, 5 - i] for i in range(6)])
    found = open_splits(section(path, target=["b", "a"]), "regress")["train"]
    assert found.info["target_names"] == ["b", "a"]
    assert found.info["targets"] == 2
    values = np.array([[5 - i, 10 * i] for i in range(6)], float)
    np.testing.assert_allclose(found.info["target_scale"], np.stack([values.mean(0), values.std(0)], 1), rtol=1e-9)
    mean, std = np.array(found.info["target_scale"]).T
    np.testing.assert_allclose(everything(found)["labels"] * std + mean, values, atol=1e-5)
    assert everything(found)["labels"].dtype == np.float32


@pytest.mark.parametrize("kind", FORMATS)
def test_several_columns_of_zeros_and_ones_are_labels(write, kind):
    path = write("fruit", kind, ["x", "sweet", "round"], [[1, 0, True], [2, 1, False], [3, 1, True]])
    found = open_splits(section(path, target=["sweet", "round"]), "multilabel")["train"]
    assert everything(found)["labels"].tolist() == [[0, 1], [1, 0], [1, 1]]
    assert found.info["class_names"] == ["sweet", "round"]


def test_columns_are_chosen_left_out_and_taken_for_categories(write):
    path = write("fruit", "csv", NAMES, ROWS)
    wide = everything(open_splits(section(path, ignore=["color", "ripe"]), "classify")["train"])["inputs"]
    chosen = everything(open_splits(section(path, features=["size", "weight"]), "classify")["train"])["inputs"]
    np.testing.assert_array_equal(wide, chosen)
    prepared = open_splits(section(path, features=["size"], categorical=["size"]), "classify")["train"].prepared
    assert prepared["columns"][0]["values"] == ["1", "2", "3", "4", "5.5", "6"]


def test_rare_categories_share_a_feature(write):
    path = write("many", "csv", ["color", "kind"], [[c, k] for c in "aaabbbcd" for k in "xy"])
    found = open_splits(section(path, max_categories=2), "classify")["train"]
    assert everything(found)["inputs"][::2].argmax(1).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert everything(found)["inputs"].sum(1).tolist() == [1] * 16


def test_categories_may_be_integers_for_embeddings(write):
    path = write("fruit", "csv", NAMES, ROWS)
    found = open_splits(section(path, categories="integers"), "classify")["train"]
    batch = everything(found)
    assert found.info["categories"] == [5, 3]
    assert batch["inputs"].shape == (6, 3)
    assert batch["categories"].dtype == np.int32
    assert batch["categories"][:, 0].tolist() == [3, 2, 3, 4, 1, 3]
    assert batch["categories"][:, 1].tolist() == [2, 1, 2, 1, 2, 2]


def test_a_constant_column_is_zero_and_an_empty_one_is_left_out(write):
    path = write("fruit", "csv", ["same", "none", "x", "kind"], [[0.1, None, i, "ab"[i % 2]] for i in range(6)])
    found = open_splits(section(path), "classify")["train"]
    assert everything(found)["inputs"].shape == (6, 2)
    np.testing.assert_allclose(everything(found)["inputs"][:, 0], 0, atol=1e-3)
    assert found.info["notes"] == ["fruit.csv: the column 'none' has no value in any row and is not used"]


# -- splits ---------------------------------------------------------------------------------------


def numbered(write, name="rows", n=40, kind="csv"):
    return write(name, kind, ["x", "color", "kind"], [[i, f"c{i}", "ab"[i % 2]] for i in range(n)])


def test_fractions_are_held_out_by_class_and_share_nothing(write):
    found = open_splits(section(numbered(write), test=0.25, validation=0.2, features=["x"]), "classify")
    assert {split: source.length for split, source in found.items()} == {"train": 24, "validation": 6, "test": 10}
    values = [everything(source)["inputs"][:, 0] for source in found.values()]
    assert len(np.unique(np.round(np.concatenate(values), 4))) == 40
    assert [np.bincount(everything(source)["labels"]).tolist() for source in found.values()] == [
        [12, 12],
        [3, 3],
        [5, 5],
    ]


def test_statistics_and_categories_are_of_the_training_rows_alone(write):
    found = open_splits(section(numbered(write), test=0.25, validation=0.2), "classify")
    x, hot = (everything(found["train"])["inputs"][:, part] for part in (0, slice(1, None)))
    assert hot.shape[1] == 24
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-6)
    assert everything(found["test"])["inputs"][:, 1:].sum() == 0  # colors that no training row has
    assert "notes" not in found["test"].info
    assert "16 rows have a value such as 'c" in found["train"].info["notes"][0]


def test_a_changed_held_out_row_changes_nothing_that_is_learned(write):
    def learned(row):
        rows = [[1e6 if i == row else i, "ab"[i % 2]] for i in range(40)]
        return open_splits(section(write("rows", "csv", ["x", "kind"], rows), validation=0.2), "classify")[
            "train"
        ].prepared

    before = learned(None)
    changed = [learned(row) != before for row in range(40)]
    assert sum(changed) == 32


def test_splits_may_be_files_of_other_formats_with_other_orders_of_columns(write):
    train = write("fruit", "csv", NAMES, ROWS)
    validation = write("validation", "jsonl", NAMES[::-1], [row[::-1] for row in ROWS[:3]])
    test = write("test", "parquet", [*NAMES, "more"], [[*row, 1] for row in ROWS[3:]])
    found = open_splits(section(train, validation=validation, test=test), "classify")
    for part, split in ((slice(0, 3), "validation"), (slice(3, 6), "test")):
        for name, values in everything(found["train"]).items():
            np.testing.assert_array_equal(everything(found[split])[name], values[part])
    assert found["train"].info.keys() == found["test"].info.keys()


def test_all_rows_of_a_rare_class_may_be_held_out_and_that_is_told(write):
    path = write("rows", "csv", ["x", "kind"], [[i, "rare" if i == 0 else f"k{i}"] for i in range(6)])
    found = open_splits(section(path, validation=0.5), "classify")
    assert found["train"].info["classes"] == 6
    assert sum("cannot be learned" in note for note in found["train"].info["notes"]) == 3


# -- what a run keeps -----------------------------------------------------------------------------


def stored(source):
    return json.loads(json.dumps(source.prepared))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("task", "target"), [("classify", "kind"), ("regress", "size")])
def test_rows_to_predict_are_those_of_the_split_whatever_their_format_and_order(write, kind, task, target):
    train = open_splits(section(write("fruit", "csv", NAMES, ROWS), target=target), task)["train"]
    names = [name for name in NAMES if name != target][::-1]
    path = write("new", kind, names, [[row[NAMES.index(name)] for name in names] for row in ROWS])
    found = rows_to_predict(section(target=target), task, stored(train), [path, path])
    np.testing.assert_array_equal(everything(found)["inputs"], np.tile(everything(train)["inputs"], (2, 1)))
    first = 2 if kind in ("csv", "semicolon", "tsv") else 1
    assert found.info["names"] == [f"{path}:{i}" for i in range(first, first + 6)] * 2
    assert found.info.get("class_names") == train.info.get("class_names")
    assert "labels" not in everything(found)


@pytest.mark.parametrize(
    "text", ["color,size,weight,ripe\nred,1,10,true\n", '{"color": "red", "size": 1, "weight": 10, "ripe": true}']
)
def test_rows_may_come_from_standard_input(write, text, monkeypatch):
    train = open_splits(section(write("fruit", "csv", NAMES, ROWS)), "classify")["train"]
    Path("stdin").write_text(text)
    with open("stdin") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        (found,) = rows_to_predict(section(), "classify", stored(train), ["-"])
    np.testing.assert_array_equal(everything(found)["inputs"], everything(train)["inputs"][:1])
    assert found.info["names"] == ["stdin:2" if text.startswith("color") else "stdin:1"]


def test_rows_that_cannot_be_used_are_told_and_the_others_are_predicted(write):
    train = open_splits(section(write("fruit", "csv", NAMES, ROWS)), "classify")["train"]
    header = "color,size,weight,ripe\n"
    Path("a.csv").write_text(f"{header}red,1,10,true\nred,much,10,true\nred\ngreen,2,,false\nred,inf,1,true\n")
    Path("b.csv").write_text(f'{header}red,3,30,true\n"never closed')
    Path("c.jsonl").write_text('{"color": "red", "size": [], "weight": 1, "ripe": true}\nno\n')
    paths = ["a.csv", "gone.csv", "b.csv", "c.jsonl"]
    found = rows_to_predict(section(), "classify", stored(train), paths)
    assert found.info["names"] == ["a.csv:2", "a.csv:5", "b.csv:2"]
    np.testing.assert_array_equal(everything(found)["inputs"], everything(train)["inputs"][:3])
    told = [(before, name) for before, name, _ in found.info["bad"]]
    assert told == [
        (1, "a.csv:3"), (1, "a.csv:4"), (2, "a.csv:6"), (2, "gone.csv"), (3, "b.csv:3"), (3, "c.jsonl:1"),
        (3, "c.jsonl:2"),
    ]  # fmt: skip
    assert "which is no finite number" in found.info["bad"][0].why
    assert rows_to_predict(section(), "classify", stored(train), ["c.jsonl"]).length == 0
    both = rows_to_predict(section(), "classify", stored(train), ["gone.csv", "away.csv"])
    assert (both.length, len(both.info["bad"])) == (0, 2)
    with pytest.raises(DataError, match=r"gone.csv: no such file"):
        rows_to_predict(section(), "classify", stored(train), ["gone.csv"])


def test_what_no_training_row_has_is_told(write):
    rows = [[*row[:3], row[3] or 0, row[4]] for row in ROWS]
    train = open_splits(section(write("fruit", "csv", NAMES, rows)), "classify")["train"]
    path = write("new", "csv", NAMES[:4], [[1, "violet", True, None], [2, "red", None, 5]])
    found = rows_to_predict(section(), "classify", stored(train), [path])
    assert found.info["notes"] == [
        "new.csv: 1 row has a value such as 'violet' in 'color', which no training row has; it counts as none",
        "new.csv: 1 row has no value in 'ripe', which no training row has; it counts as none",
        "new.csv: 1 row without a value of 'weight', which every training row has; the mean 31.6667 is taken",
    ]
    assert everything(found)["inputs"][0, 2:6].sum() == 0


def test_a_test_file_is_evaluated_without_the_training_file(write):
    train, test = write("fruit", "csv", NAMES, ROWS), write("test", "csv", NAMES, ROWS[:3])
    before = open_splits(section(train, test=test), "classify")
    Path(train).unlink()
    after = open_splits(section(train, test=test), "classify", stored(before["train"]))
    assert list(after) == ["test"]
    assert after["test"].fingerprint == before["test"].fingerprint
    np.testing.assert_array_equal(everything(after["test"])["inputs"], everything(before["test"])["inputs"])


def test_fractions_are_the_same_rows_in_an_evaluation(write):
    settings = section(numbered(write), test=0.25, validation=0.2)
    before = open_splits(settings, "classify")
    after = open_splits(settings, "classify", stored(before["train"]))
    assert {name: source.fingerprint for name, source in after.items()} == {
        name: source.fingerprint for name, source in before.items()
    }


def test_what_another_reader_has_stored_is_refused():
    with pytest.raises(DataError, match="damaged or of another version"):
        rows_to_predict(section(), "classify", {"tokens": []}, ["x.csv"])


def test_a_stream_goes_on_with_the_exact_next_batch(write):
    path = numbered(write)
    whole = Stream(open_splits(section(path), "classify")["train"], batch_size=7, seed=3)
    expected = [next(whole) for _ in range(20)]
    cut = Stream(open_splits(section(path), "classify")["train"], batch_size=7, seed=3)
    for _ in range(9):
        next(cut)
    again = Stream(open_splits(section(path), "classify")["train"], batch_size=7, seed=3)
    again.restore(json.loads(json.dumps(cut.state())))
    for batch in expected[9:]:
        found = next(again)
        for name, values in batch.items():
            np.testing.assert_array_equal(found[name], values)


# -- large files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_a_table_larger_than_memory_is_mapped_and_the_same(write, kind, monkeypatch):
    path = numbered(write, kind=kind)
    small = open_splits(section(path, test=0.25), "classify")
    monkeypatch.setattr(rows, "MEMORY_BYTES", 64)
    for place in (files, delimited):
        monkeypatch.setattr(place, "CACHED_BYTES", 0)
    large = open_splits(section(path, test=0.25), "classify")
    for split, source in small.items():
        assert large[split].fingerprint == source.fingerprint
        np.testing.assert_array_equal(everything(large[split])["inputs"], everything(source)["inputs"])


# -- mistakes -------------------------------------------------------------------------------------

GOOD = "size,kind\n1,a\n2,b\n3,a\n"
MISTAKES = [
    # file, settings, what the sentence says
    (None, {}, r"^fruit.csv: no such file under .*; did you mean 'fruits.csv'\?$"),
    (b"", {}, r"^fruit.csv: the file is empty; expected a header line and at least one row$"),
    (b"\n\n", {}, r"^fruit.csv: the file is empty"),
    (b"size,kind\n", {}, r"^fruit.csv: has a header and no row below it"),
    (b"size;kind\n1;a\n2;b\n", {"delimiter": ","}, r"only one column, 'size;kind', .*; set data.delimiter: \";\"$"),
    (b"kind\na\nb\n", {}, r"no column to learn from beside the target kind$"),
    (b"sort\na\nb\n", {}, r"has only one column, 'sort', .*a table needs a target and at least one more column$"),
    (b"size,kinds\n1,a\n2,b\n", {}, r"has no target column 'kind'; did you mean 'kinds'\? \(it has: size, kinds\)$"),
    (b"size,kind\n1,a\n2,a\n", {}, r"the target 'kind' is 'a' in every row, so that there is nothing to learn"),
    (b"size,kind\n1,\n2,\n", {}, r"the target 'kind' has no value in any row"),
    (b"size,kind\n1,a\n2,\n3,b\n", {}, r"^fruit.csv:3: the target 'kind' has no value; repair or remove this row"),
    (b"size,kind\n1,a\n2,b\n3\n", {}, r"^fruit.csv:4: has 1 value, but the header has 2 columns; repair or"),
    (b"size,kind\n1,a\n2,b,c\n", {}, r"^fruit.csv:3: has 3 values, but the header has 2 columns; a value"),
    (b'size,kind\n1,"a\nx"\n2,b\n\n3\n', {}, r"^fruit.csv:6: has 1 value"),
    (b'size,kind\n1,a\n2,"b\n3,c\n', {}, r"^fruit.csv:3: a double quote is opened here and never closed"),
    (b"size,kind\n1,caf\xe9\n2,b\n", {}, r"^fruit.csv:2: is not UTF-8 text \(byte 0xe9\); save the file as UTF-8"),
    (b"siz\xe9,kind\n1,a\n2,b\n", {}, r"^fruit.csv:1: the header is not UTF-8 text"),
    ("size,kind\n1,a\n".encode("utf-16"), {}, r"^fruit.csv: is UTF-16 text; save it as UTF-8$"),
    (b"size,size,kind\n1,2,a\n1,2,b\n", {}, r"^fruit.csv:1: the column 'size' is there 2 times \(columns 1, 2\)"),
    (b",\n1,2\n", {}, r"^fruit.csv:1: has nothing where the names of the columns are expected"),
    (b"1,2,0\n1,2,1\n", {"target": "0"}, r"^fruit.csv:1: has numbers where the names of the columns are expected"),
    (b"size,kind\n" + b"1,a\n" * 9 + b"big,b\n" + b"2,b\n", {}, r"^fruit.csv:11: 'size' is 'big', which is no finite"),
    (b"size,kind\n" + b"1,a\n" * 9 + b"inf,b\n", {}, r"^fruit.csv:11: 'size' is 'inf', which is no finite number"),
    (b"size,kind\n" + b"1,a\n" * 9 + b"1e39,b\n", {}, r"^fruit.csv:11: 'size' is '1e39', which is no finite number"),
    (b"size,kind\n1,a\n,b\n", {"missing": "refuse"}, r"^fruit.csv:3: 'size' has no value"),
    (b"day,kind\n2024-01-02,a\n2024-01-03,b\n", {}, r"'day' holds dates \('2024-01-02'\).*data.ignore: \[day\]$"),
    (b'price,kind\n"1,200",a\n"3,400",b\n', {}, r"the column 'price' holds numbers with commas \('1,200'\)"),
    (b"price;kind\n1,200;a\n3,400;b\n", {}, r"the column 'price' holds numbers with commas \('1,200'\)"),
    (b"size,kind\n1,0.5\n2,1.5\n", {}, r"the target 'kind' holds numbers such as 0.5, .*set task.name: regress$"),
    (b"size,kind\n" + b"".join(b"1,%d\n" % i for i in range(12)), {}, r"has 12 different values .*: regress$"),
    (GOOD.encode(), {"ignore": ["siez"]}, r"^data.ignore: fruit.csv has no column 'siez'; did you mean 'size'\?$"),
    (GOOD.encode(), {"features": ["siez"]}, r"^data.features: fruit.csv has no column 'siez'; did you mean 'size'\?$"),
    (GOOD.encode(), {"validation": 0.9}, r"^data.validation: 0.9 of the 3 rows of fruit.csv leaves none to train on"),
    (b"PK\x03\x04.....", {}, r"^fruit.csv: is a zip archive; unpack it with unzip$"),
    (b"\x89PNG\r\n", {}, r"^fruit.csv: is a single image; give the folder"),
    (b"\x93NUMPY\x01", {}, r"^fruit.csv: is a .npy file of NumPy, which data.name: arrays reads; write data:"),
    (b"PAR1 and no more", {}, r"^fruit.csv: is damaged, cut short or not a Parquet file; write it again$"),
    (b'{"size": 1, "kind": "a"}\n[1]\n', {"train": "fruit.jsonl"}, r"^fruit.jsonl:2: holds a list, not an object"),
    (b'{"size": 1, "kind": "a"}\n{"size": 1,\n', {"train": "fruit.jsonl"}, r"^fruit.jsonl:2: is not JSON \("),
    (b'{"size": 1, "kind": "a"}\n{"size": 1, "size": 2}\n', {"train": "fruit.jsonl"}, r"has the key 'size' twice"),
    (b'{"size": [1], "kind": "a"}\n{"size": [2], "kind": "b"}\n', {"train": "fruit.jsonl"}, r"'size' holds a list"),
    (b'{"a": 1', {"train": "fruit.jsonl"}, r"^fruit.jsonl:1: is not JSON"),
    (b'[{"a": 1}]', {"train": "fruit.json"}, r"^fruit.json: is one JSON value; write one object a line"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "settings", "sentence"), MISTAKES, ids=[str(case[2])[:40] for case in MISTAKES])
def test_each_mistake_is_one_sentence_with_its_place(content, settings, sentence):
    path = settings.get("train", "fruit.csv")
    Path("fruits.csv").write_text(GOOD)
    if content is not None:
        Path(path).write_bytes(content)
    with pytest.raises(DataError, match=sentence) as caught:
        open_splits(section(**settings), "classify")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("content", "task", "target", "sentence"),
    [
        (b"x,y\n1,2\n2,2\n", "regress", "y", r"the target 'y' is 2 in every training row"),
        (
            b"x,y\n1,a\n2,b\n",
            "regress",
            "y",
            r"the target 'y' holds texts such as 'a', not numbers; set task.name: classify$",
        ),
        (b"x,y\n1,1\n2,nan\n3,2\n", "regress", "y", r"^t.csv:3: the target 'y' has no value"),
        (
            b"x,y\n" + b"1,1\n2,3\n" * 9 + b"3,inf\n",
            "regress",
            "y",
            r"^t.csv:20: the target 'y' is 'inf', not a finite number",
        ),
        (b"x,y,z\n1,1,0\n2,2,1\n", "multilabel", ["y", "z"], r"^t.csv:3: the target 'y' is '2', expected 0 or 1"),
    ],
)
def test_targets_that_do_not_fit_the_task(content, task, target, sentence):
    Path("t.csv").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        open_splits(section("t.csv", target=target), task)


def test_several_targets_do_not_fit_classify():
    with pytest.raises(ConfigError, match="classify has one target, got 2"):
        open_splits(section(target=["a", "b"]), "classify")


def test_a_test_set_with_an_unseen_class_names_the_row_and_the_classes(write):
    train = write("fruit", "csv", NAMES, ROWS)
    test = write("test", "csv", NAMES, [*ROWS, [*ROWS[0][:4], "fig"]])
    sentence = (
        r"^test.csv:8: the target 'kind' is 'fig', a class that no training row has \(classes: apple, pear, plum\)"
    )
    with pytest.raises(DataError, match=sentence):
        open_splits(section(train, test=test), "classify")
    found = open_splits(section(train, test=test, max_bad_fraction=0.2), "classify")
    assert found["test"].length == 6
    assert "skipped 1 of 7 rows" in found["test"].info["notes"][0]


def test_a_column_that_a_later_file_lacks_is_told(write):
    train = write("fruit", "csv", NAMES, ROWS)
    test = write("test", "csv", ["size", "colour", *NAMES[2:]], ROWS)
    with pytest.raises(DataError, match=r"^test.csv: has no column 'color'; did you mean 'colour'\?"):
        open_splits(section(train, test=test), "classify")


def test_bad_rows_are_skipped_up_to_the_fraction_that_is_allowed(write):
    Path("t.csv").write_bytes(b"x,kind\n" + b"1,a\n2,b\n" * 20 + b"3\n4,caf\xe9\n5,a\n")
    found = open_splits(section("t.csv", max_bad_fraction=0.05), "classify")["train"]
    assert found.length == 41
    (note,) = found.info["notes"]
    assert note.startswith("skipped 2 of 43 rows that cannot be used: t.csv:42: has 1 value")
    assert "t.csv:43: is not UTF-8" in note
    with pytest.raises(DataError, match=r"^2 of 43 rows cannot be used, more than data\.max_bad"):
        open_splits(section("t.csv", max_bad_fraction=0.04), "classify")


def test_an_index_without_a_name_is_not_a_feature():
    Path("t.csv").write_text(",x,kind\n0,1,a\n1,2,b\n")
    found = open_splits(section("t.csv"), "classify")["train"]
    assert everything(found)["inputs"].shape == (2, 1)
    assert "t.csv:1: column 1 has no name and is not used" in found.info["notes"][0]


@pytest.mark.parametrize("name", ["__index_level_0__", "id"])
def test_an_index_that_pandas_has_written_to_parquet_is_no_feature(name):
    metadata = {b"pandas": json.dumps({"index_columns": [name], "columns": []}).encode()}
    columns = {"size": [1.5, 2.5, 3.5, 4.5], "y": ["a", "b", "a", "b"], name: [3, 0, 2, 1]}
    parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), "a.parquet")
    train = open_splits(Table(name="table", train="a.parquet", target="y"), "classify")["train"]
    assert train.take(np.arange(2))["inputs"].shape == (2, 1)
    note = f"a.parquet: the column {name!r} is the index of a pandas table and is not used; write it with reset_index()"
    assert [told.startswith(note) for told in train.info["notes"]] == [True]
    with pytest.raises(DataError, match="is the index of a pandas table"):
        open_splits(Table(name="table", train="a.parquet", target=name), "classify")


def test_an_index_of_pandas_that_is_a_range_is_no_column():
    metadata = {b"pandas": b'{"index_columns": [{"kind": "range", "start": 0, "stop": 2, "step": 1}]}'}
    parquet.write_table(pa.table({"x": [1.5, 2.5], "y": ["a", "b"]}).replace_schema_metadata(metadata), "a.parquet")
    assert "notes" not in open_splits(Table(name="table", train="a.parquet", target="y"), "classify")["train"].info


@pytest.mark.parametrize("text", ["1,257.30", "$1,257.30", "-$12.50", "12%", "12,5 %", "3 EUR", "1.257,30", "€5"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_numbers_with_separators_and_signs_are_no_categories(text, delimiter):
    lines = [f'"{text}"{delimiter}a', f"7{delimiter}b"] * 5
    Path("a.csv").write_text("\n".join([f"x{delimiter}y", *lines]) + "\n", encoding="utf-8")
    asked = Table(name="table", train="a.csv", target="y")
    with pytest.raises(DataError, match=r"a.csv: the column 'x' holds numbers (such as|with commas)") as error:
        open_splits(asked, "classify")
    assert text in str(error.value)
    named = asked.model_copy(update={"categorical": ("x",)})
    assert open_splits(named, "classify")["train"].take(np.array([0]))["inputs"].shape == (1, 2)


@pytest.mark.parametrize("name", ["None", "NA", "nan"])
def test_a_class_that_reads_as_a_missing_value_is_named_with_the_fix(name):
    Path("a.csv").write_text(f"x,kind\n1,yes\n2,{name}\n3,yes\n", encoding="utf-8")
    expected = (
        f"a.csv:3: the target 'kind' is '{name}', which is read as a missing value; if it is a class, write another"
    )
    with pytest.raises(DataError, match=expected):
        open_splits(Table(name="table", train="a.csv", target="kind"), "classify")


@pytest.mark.parametrize("start", ["sep=;\n", "\ufeffsep=;\r\n", "SEP=;\n"])
def test_a_first_line_that_names_the_separator_is_no_header(start):
    rows = "".join(f"{i},5;{'ab'[i % 2]}\n" for i in range(6))
    Path("a.csv").write_text(start + "x;y\n" + rows + "7;8;9\n", encoding="utf-8", newline="")
    asked = Table(name="table", train="a.csv", target="y", max_bad_fraction=0.5)
    train = open_splits(asked, "classify")["train"]
    assert train.length == 6
    assert "a.csv:9: has 3 values" in train.info["notes"][0]
    assert train.prepared["columns"][0]["mean"] == 3


def test_a_column_of_names_is_told(write):
    found = open_splits(section(numbered(write, n=200)), "classify")["train"]
    assert any("if it only names the row, set data.ignore: [color]" in note for note in found.info["notes"])


def test_white_space_bom_and_line_ends_do_not_matter(write):
    plain = b"size,color,kind\n1,red,a\n2,blue,b\n3,red,a\n"
    variants = [
        plain.replace(b",", b", "),
        b"\xef\xbb\xbf" + plain,
        plain.replace(b"\n", b"\r\n"),
        plain.replace(b"\n", b"\r"),
        plain.rstrip(b"\n"),
        plain + b"\n\n",
        plain.replace(b"red", b'"red"'),
    ]
    prints = set()
    for content in [plain, *variants]:
        Path("t.csv").write_bytes(content)
        prints.add(open_splits(section("t.csv"), "classify")["train"].fingerprint)
    assert len(prints) == 1


def test_decimal_commas_are_numbers_where_the_delimiter_is_another():
    Path("t.csv").write_text("x;y\n1,5;2,5\n2;3\n3,25;4\n")
    found = open_splits(section("t.csv", target="y"), "regress")["train"]
    mean, std = found.info["target_scale"][0]
    np.testing.assert_allclose(everything(found)["labels"][:, 0] * std + mean, [2.5, 3, 4], rtol=1e-6)
    assert found.prepared["columns"][0]["mean"] == 2.25


def test_a_comma_behind_a_zero_separates_decimals():
    """Of 1,257 alone it cannot be known; thousands never begin with a zero."""
    Path("t.csv").write_text("x;y\n1,257;a\n0,436;b\n-0,125;b\n")
    assert open_splits(section("t.csv", target="y"), "classify")["train"].prepared["columns"][0]["kind"] == "number"
    Path("t.csv").write_text("x;y\n1,257;a\n2,436;b\n")
    with pytest.raises(DataError, match="holds numbers with commas"):
        open_splits(section("t.csv", target="y"), "classify")


def test_tables_of_scikit_learn_open_by_name():
    for name in bundled.TABLES:
        target, task = {"diabetes": ("progression", "regress"), "breast_cancer": ("diagnosis", "classify"),
                        "iris": ("species", "classify"), "wine": ("cultivar", "classify")}[name]  # fmt: skip
        found = open_sources(section(f"sklearn:{name}.csv", target=target, test=0.2, validation=0.1), task)
        assert set(found) == {"train", "validation", "test"}
        assert math.isclose(everything(found["train"])["inputs"].std(), 1, abs_tol=0.01)
    with pytest.raises(DataError, match=r"did you mean 'sklearn:iris\.csv'"):
        open_sources(section("sklearn:iriss.csv"), "classify")


# -- anything -------------------------------------------------------------------------------------

WORDS = st.sampled_from(["a", "b", "1", "2.5", "-3", "", "NA", "true", "x y", 'q"q', "1,5", "é", "2020-01-01", "1e3"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), suffix=st.sampled_from(["csv", "tsv", "jsonl", "pq", "txt"]))
def test_no_bytes_crash_the_reader(content, suffix, tmp_path):
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(content)
    _opens_or_says_why(section(str(path)), "classify")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.lists(WORDS, min_size=1, max_size=4), max_size=12), delimiter=st.sampled_from(",;\t"),
       task=st.sampled_from(["classify", "regress", "multilabel"]), allowed=st.sampled_from([0.0, 0.5]))  # fmt: skip
def test_no_lines_crash_the_reader(lines, delimiter, task, allowed, tmp_path):
    path = tmp_path / "any.csv"
    rows = [["x", "y", "kind"], *lines]
    path.write_text("\n".join(delimiter.join(row) for row in rows), encoding="utf-8")
    _opens_or_says_why(section(str(path), max_bad_fraction=allowed), task)


def _opens_or_says_why(settings, task):
    said, found = None, None
    try:
        found = open_splits(settings, task)["train"]
    except JaxpropError as error:
        said = str(error)
    if found is None:
        assert "\n" not in said
        assert len(said) > 10
        return
    batch = everything(found)
    assert np.isfinite(batch["inputs"]).all()
    assert np.isfinite(batch["labels"]).all()
    if task == "classify":
        assert set(batch["labels"].tolist()) <= set(range(found.info["classes"]))


CLASSES_OF_ALL_SORTS = st.sampled_from(["cat", "dog", "it's", 'a "b"', "x,y", "x;y", "é", "l\nm", "-1", "01"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(st.tuples(st.integers(-99, 99), CLASSES_OF_ALL_SORTS), min_size=2, max_size=30),
    kind=st.sampled_from(FORMATS),
)
def test_a_label_is_never_another_one(data, kind, write):
    path = write("labels", kind, ["x", "kind"], [list(row) for row in data])
    classes = {label for _, label in data}
    if len(classes) == 1 or (len(data) >= 10 and 2 * len(classes) > len(data)):
        with pytest.raises(DataError, match=r"nothing to learn|no classes"):
            open_splits(section(path), "classify")
        return
    found = open_splits(section(path), "classify")["train"]
    batch = everything(found)
    assert [found.info["class_names"][label] for label in batch["labels"]] == [label for _, label in data]
    mean, std = (found.prepared["columns"][0][name] for name in ("mean", "std"))
    np.testing.assert_allclose(batch["inputs"][:, 0] * std + mean, [x for x, _ in data], atol=1e-3)


def test_what_a_run_on_a_table_does_not_take(write, tmp_path):
    section = Table(name="table", train=write("train", "csv", ["a", "y"], [[1, "p"], [2, "q"]]), target="y")
    prepared = open_splits(section, "classify")["train"].prepared
    for name in ("one.png", "two.png"):
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / "many" / name).write_bytes(b"\x89PNG\r\n")
    takes = "and this run takes rows of a CSV, TSV, JSONL or Parquet file"
    with pytest.raises(DataError, match=f"many: is a folder of images, {takes}$"):
        rows_to_predict(section, "classify", prepared, [str(tmp_path / "many")])
    with pytest.raises(DataError, match=f"one.png: is a single image, {takes}$"):
        rows_to_predict(section, "classify", prepared, [str(tmp_path / "many" / "one.png")])
