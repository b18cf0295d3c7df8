"""Panels of the tasks: counts and lists against loops, and arrays that fit no picture."""

import json

import numpy as np
import pytest

from jaxprop.tasks import panels

RNG = np.random.default_rng(0)


def test_a_confusion_matrix_counts_every_example_once():
    labels, told = RNG.integers(0, 4, 50), RNG.integers(0, 4, 50)
    cells = np.array(panels.confusion({"class": told}, {"labels": labels}).data["cells"])
    expected = [[np.sum((labels == i) & (told == j)) for j in range(4)] for i in range(4)]
    np.testing.assert_array_equal(cells, expected)


def test_of_many_classes_those_that_are_confused_most_are_kept():
    labels = np.arange(100)
    told = np.where(labels < 10, labels + 1, labels)
    found = panels.confusion({"class": told}, {"labels": labels}).data
    assert len(found["names"]) == panels.CLASSES
    assert {str(c) for c in range(11)} <= set(found["names"])


def test_the_surest_mistakes_come_first_and_right_answers_not_at_all():
    told = {"class": np.array([0, 1, 1, 0]), "probability": np.array([0.99, 0.6, 0.9, 0.8])}
    rows = panels.surest_mistakes(told, {"labels": np.array([0, 0, 0, 0])}).data["rows"]
    assert rows == [[2, 0, 1, 0.9], [1, 0, 1, 0.6]]


def test_precision_and_recall_of_every_label():
    share, labels = RNG.random((60, 3)), (RNG.random((60, 3)) > 0.5).astype(float)
    share[:, 2] = 0
    rows = panels.labels_told({"probability": share}, {"labels": labels}).data["rows"]
    for k, had, said, precision, recall in rows:
        right = np.sum((share[:, k] > 0.5) & (labels[:, k] == 1))
        assert (had, said) == (labels[:, k].sum(), np.sum(share[:, k] > 0.5))
        assert recall == pytest.approx(right / had, abs=1e-4)
        assert precision == (pytest.approx(right / said, abs=1e-4) if said else None)


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 2)])
def test_errors_of_regression(shape):
    labels = RNG.normal(size=shape)
    value = labels.reshape(30, -1) + RNG.normal(size=(30, int(np.prod(shape[1:]))))
    rows = panels.largest_errors({"value": value}, {"labels": labels}).data["rows"]
    errors = [abs(true - told) for _, _, true, told in rows]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(np.abs(value - labels.reshape(30, -1)).max())
    points = panels.predicted_and_true({"value": value}, {"labels": labels}).data["points"]
    assert points == list(map(list, zip(labels.reshape(30, -1)[:, 0], value[:, 0], strict=True)))


def test_large_splits_and_values_that_are_not_finite_leave_a_small_picture():
    value = np.full((5000, 1), np.nan)
    value[1:] = 1.0
    points = panels.predicted_and_true({"value": value}, {"labels": np.zeros(5000)}).data["points"]
    assert panels.POINTS - 1 <= len(points) <= panels.POINTS
    assert panels.largest_errors({"value": value}, {"labels": np.zeros(5000)}).data["rows"][0][0] == 0


def test_texts_end_where_their_mask_does():
    batch = {"labels": np.array([[72, 105, 10, 0]]), "mask": np.array([[1, 1, 1, 0]])}
    rows = panels.sample_text({"token": np.array([[72, 111, 255, 0]])}, batch).data["rows"]
    assert rows == [["next byte", "Hi·"], ["predicted", "Ho·"]]


@pytest.mark.parametrize(
    "panel",
    [panels.confusion, panels.surest_mistakes, panels.labels_told, panels.predicted_and_true, panels.largest_errors],
)
def test_no_example_at_all(panel):
    told = {"class": np.zeros(0, int), "probability": np.zeros((0, 2)), "value": np.zeros((0, 1))}
    labels = np.zeros((0, 2)) if panel is panels.labels_told else np.zeros(0)
    json.dumps(panel(told, {"labels": labels}).data, allow_nan=False)


def test_classes_are_told_by_their_names():
    predictions = {"class": np.array([0, 1, 1]), "probability": np.array([0.9, 0.8, 0.7])}
    batch = {"labels": np.array([0, 1, 0])}
    assert panels.confusion(predictions, batch, ["cat", "dog"]).data["names"] == ["cat", "dog"]
    assert panels.surest_mistakes(predictions, batch, ["cat", "dog"]).data["rows"] == [[2, "cat", "dog", 0.7]]
