"""What is told of a prediction: classes, labels and numbers by their names, and anything else as it is."""

import numpy as np
import pytest

from jaxprop.tasks.words import usual_words


def test_classes_by_name_and_by_number():
    shares = np.array([[0.1, 0.2, 0.7]], np.float32)
    found = {"class": np.array([2]), "probability": shares[:, 2], "probabilities": shares}
    assert usual_words(found, 0, {}, top=2) == {"label": 2, "probability": 0.7, "top": {"2": 0.7, "1": 0.2}}
    named = usual_words(found, 0, {"class_names": ["a", "b", "c"]})
    assert named == {"label": "c", "probability": 0.7, "top": {"c": 0.7, "b": 0.2, "a": 0.1}}


def test_several_labels():
    found = {"probability": np.array([[0.9, 0.1, 0.6]], np.float32)}
    said = usual_words(found, 0, {"class_names": ["a", "b", "c"]})
    assert said == {"labels": ["a", "c"], "probabilities": {"a": 0.9, "b": 0.1, "c": 0.6}}


@pytest.mark.parametrize(
    ("value", "info", "said"),
    [
        ([[0.1]], {}, {"value": 0.1}),
        ([[0.1]], {"target_names": ["price"]}, {"price": 0.1}),
        ([[1, 2]], {}, {"value_0": 1.0, "value_1": 2.0}),
        ([[1, 2]], {"target_names": ["a", "b"]}, {"a": 1.0, "b": 2.0}),
    ],
)
def test_numbers_by_their_targets(value, info, said):
    assert usual_words({"value": np.array(value, np.float32)}, 0, info) == said


def test_anything_else_as_it_is():
    found = {
        "token": np.array([[1, 2]]),
        "probability": np.array([[0.1, 0.2]], np.float32),
        "boxes": np.zeros((1, 0, 4)),
    }
    assert usual_words(found, 0, {}) == {"token": [1, 2], "probability": [0.1, 0.2], "boxes": []}
