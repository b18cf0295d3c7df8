"""Labels of files: what each task takes, and why it does not take the rest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprop.data.labels import labels_for
from jaxprop.errors import ConfigError, DataError

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)
)


def test_classes_are_sorted_names():
    labels = labels_for("classify", ("mood",)).learned(["good", "bad", "good"], "a.csv")
    assert labels.info == {"classes": 2, "class_names": ["bad", "good"]}
    assert labels.stored == {"class_names": ["bad", "good"]}
    assert labels.encoded(["good", "bad", "good"]).tolist() == [1, 0, 1]
    assert labels.encoded(["good"]).dtype == np.int32


def test_integer_classes_are_sorted_by_value():
    assert labels_for("classify", ("n",)).learned(["10", "9", "-1"], "a").info["class_names"] == ["-1", "9", "10"]


@pytest.mark.parametrize(
    ("value", "name"), [("good", "good"), (" good ", "good"), (3, "3"), (3.0, "3"), (True, "true"), ("3", "3")]
)
def test_names_of_classes(value, name):
    assert labels_for("classify", ("mood",)).read([value]) == (name, None)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "has no label"),
        ("", "has no label"),
        ("  ", "has no label"),
        (0.5, "its label 0.5 is no class; for numbers set task.name: regress"),
        (float("nan"), "its label nan is no class; for numbers set task.name: regress"),
        ([1], "its label is no class"),
        ("ok", "its label 'ok' is no class of the training data (bad, good)"),
    ],
)
def test_what_is_no_class(value, why):
    labels = labels_for("classify", ("mood",)).learned(["good", "bad"], "a.csv")
    assert labels.read([value])[1] == why


def test_one_class_only_is_an_error():
    with pytest.raises(DataError, match=r"a\.csv: has one class only, 'good'"):
        labels_for("classify", ("mood",)).learned(["good", "good"], "a.csv")


def test_several_columns_are_no_classes():
    with pytest.raises(ConfigError, match="classify takes one column, got a, b; use multilabel"):
        labels_for("classify", ("a", "b"))


@pytest.mark.parametrize("values", [["a;c"], [["a", "c"]], ["a; c;"]])
def test_a_column_that_lists_classes(values):
    labels = labels_for("multilabel", ("tags",)).learned([("a", "c"), ("b",), ()], "a.jsonl")
    held, why = labels.read(values)
    assert why is None
    assert labels.encoded([held, ()]).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert labels.info == {"classes": 3, "class_names": ["a", "b", "c"]}


def test_columns_of_zeros_and_ones():
    labels = labels_for("multilabel", ("a", "b"))
    for values in ([1, 0], ["1", "0"], [True, False], ["true", "no"], [1.0, 0.0]):
        held, why = labels.read(values)
        assert (labels.encoded([held]).tolist(), why) == ([[1, 0]], None)
    for values in ([1, None], ["2", "0"], [1, ""], [0.5, 0]):
        assert "expected 0 or 1" in labels.read(values)[1]


@pytest.mark.parametrize("value", [3, 3.0, "3", " 3e0 "])
def test_numbers(value):
    labels = labels_for("regress", ("y",))
    read, why = labels.read([value])
    assert (labels.encoded([read]).tolist(), why) == ([[3.0]], None)
    assert labels.info == {"targets": 1, "target_names": ["y"]}


@pytest.mark.parametrize(
    ("value", "why"), [(None, "has no 'y'"), ("", "has no 'y'"), ("x", "no number"), ([], "no number"),
                       (float("nan"), "no finite"), ("inf", "no finite"), (1e39, "no finite"), (10**400, "no number")]
)  # fmt: skip
def test_what_is_no_number(value, why):
    assert why in labels_for("regress", ("y",)).read([value])[1]


@pytest.mark.parametrize(("task", "columns"), [("classify", ("a",)), ("multilabel", ("a",))])
def test_what_is_stored_makes_the_same_labels(task, columns):
    raw = ["x", "y"] if task == "classify" else [("x",), ("y",)]
    labels = labels_for(task, columns).learned(raw, "a")
    again = labels_for(task, columns, labels.stored)
    assert again.info == labels.info
    assert again.encoded(raw).tolist() == labels.encoded(raw).tolist()
    assert again.read(["z"])[1] is not None


@given(st.sampled_from(["classify", "multilabel", "regress"]), st.lists(ANYTHING, min_size=1, max_size=3))
def test_anything_is_a_label_or_is_told_why_not(task, values):
    columns = tuple(f"c{i}" for i in range(1 if task == "classify" else len(values)))
    label, why = labels_for(task, columns).read(values)
    if why is None:
        labels = labels_for(task, columns)
        labels = labels if task != "classify" else labels.learned([label, "other"], "a")
        if task != "multilabel" or len(columns) > 1:
            assert np.isfinite(labels.encoded([label])).all()
    else:
        assert len(why.splitlines()) <= 1 or task == "multilabel"
