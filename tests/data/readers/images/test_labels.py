"""Labels of every kind become numbers; those that cannot be used are named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprop.data.bad import BadRecords
from jaxprop.data.readers.images.labels import encode, name_of, names_of
from jaxprop.data.readers.images.records import Records
from jaxprop.errors import DataError


def records(labels, **more):
    return Records(len(labels), read=None, name=lambda i: f"list.csv:{i + 2}", labels=labels, digest="", **more)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["b", "a", "b"], ["a", "b"]),
        ([10, 9, 2], ["2", "9", "10"]),
        (["10", "9", "2"], ["2", "9", "10"]),
        ([1.0, 0.0], ["0", "1"]),
        ([True, False], ["false", "true"]),
        (["b", " a ", "", None], ["a", "b"]),
    ],
)
def test_classes_are_named_in_order(labels, expected):
    assert names_of("classify", "list.csv", records(labels)) == expected


def test_names_that_the_files_give_keep_their_order():
    held = records([2, 0], class_names=["dog", "owl", "cat"])
    assert names_of("classify", "x", held) == ["dog", "cat"]
    assert encode("classify", held, ["dog", "cat"], BadRecords(0)).values.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "why"),
    [(["cat"] * 3, "has one class only, 'cat'"), ([None, ""], "none of its records has a label")],
)
def test_one_class_is_none_to_tell_apart(labels, why):
    with pytest.raises(DataError, match=f"^list.csv: {why}"):
        names_of("classify", "list.csv", records(labels))


@pytest.mark.parametrize(
    ("task", "label", "why"),
    [
        ("classify", "", "has no label"),
        ("classify", None, "has no label"),
        ("classify", "cats", r"is of the class 'cats', which no training record has; did you mean 'cat'\?"),
        ("classify", ["cat"], "names no class"),
        ("classify", 1.5, "names no class"),
        ("regress", "x", "is no finite number"),
        ("regress", "nan", "is no finite number"),
        ("regress", 1e300, "is no finite number"),
        ("regress", True, "is no finite number"),
        ("regress", None, "has no label"),
        ("multilabel", None, "has no labels"),
        ("multilabel", ["cat", "cow"], "is of the class 'cow'"),
    ],
)
def test_labels_that_cannot_be_used_are_named(task, label, why):
    with pytest.raises(DataError, match=rf"^list\.csv:2: .*{why}"):
        encode(task, records([label]), ["cat", "dog"], BadRecords(0, unit="image"))


def test_bad_labels_are_left_out_up_to_a_fraction():
    bad = BadRecords(0.5, unit="image")
    found = encode("classify", records(["cat", "", "dog", "cow"]), ["cat", "dog"], bad)
    assert (found.rows.tolist(), found.values.tolist(), found.values.dtype) == ([0, 2], [0, 1], np.int32)
    assert bad.count == 2
    assert encode(
        "classify", records(["cat", "", "dog"]), ["cat", "dog"], BadRecords(0), left_out=[1]
    ).rows.tolist() == [
        0,
        2,
    ]


def test_several_labels_an_image():
    held = records([["dog", "cat"], "dog|owl", "", [], "cat;dog"])
    assert names_of("multilabel", "x", held) == ["cat", "dog", "owl"]
    found = encode("multilabel", held, ["cat", "dog", "owl"], BadRecords(0))
    assert found.values.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 0]]


def test_numbers_to_regress():
    found = encode("regress", records(["1.5", 2, 3.5]), [], BadRecords(0))
    assert found.values.tolist() == [[1.5], [2], [3.5]]
    assert found.values.dtype == np.float32


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@given(st.lists(ANYTHING, max_size=6), st.sampled_from(["classify", "multilabel", "regress"]))
def test_any_label_becomes_its_own_number_or_is_left_out(labels, task):
    held = records(labels)
    bad = BadRecords(0.999)
    try:
        names = names_of(task, "x", held)
    except DataError:
        return
    found = encode(task, held, names, bad)
    assert len(found.rows) + bad.count == len(labels)
    for row, value in zip(found.rows.tolist(), found.values, strict=True):
        if task == "classify":
            assert names[value] == name_of(labels[row])
        elif task == "regress":
            assert np.float32(labels[row]) == value[0]
