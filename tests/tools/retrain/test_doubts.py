"""Labels that answers contradict: by confident learning, by losses beyond the usual, and by boxes of another class."""

import numpy as np
import pytest

from jaxprop.tools.retrain.doubts import beyond, confident, contradicted


def test_a_class_that_no_label_has_is_never_the_right_one():
    shares = np.array([[0.4, 0.6], [0.3, 0.7]])
    assert confident(shares, np.array([0, 0])).tolist() == [False, False]


def test_usual_losses_are_no_wrong_labels():
    losses = np.linspace(0, 1, 1000)
    assert beyond(losses, losses)[0] < 0.001
    assert beyond(np.array([np.inf, 0.0]), losses)[1].tolist() == [True, False]


def answers(boxes, scores, classes):
    return {"boxes": np.array([boxes], float), "scores": np.array([scores]), "classes": np.array([classes])}


HERE, NEAR, FAR = [0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]
CASES = {
    "another class": (answers([HERE], [0.9], [1]), True),
    "its own class": (answers([HERE], [0.9], [0]), False),
    "nothing there": (answers([FAR], [0.9], [1]), False),
    "nothing at all": (answers([HERE], [0.0], [1]), False),
    "not sure enough": (answers([HERE], [0.2], [1]), False),
    "surer of another": (answers([HERE, NEAR], [0.4, 0.9], [0, 1]), True),
    "surer of its own": (answers([HERE, NEAR], [0.9, 0.4], [0, 1]), False),
    "one beside it": (answers([HERE, FAR], [0.9, 0.9], [0, 1]), False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_box_is_contradicted_where_an_object_of_another_class_is_found(case):
    found, wrong = CASES[case]
    padding = [0, 0, 0, 0]
    batch = {"boxes": np.array([[NEAR, padding]]), "labels": np.array([[0, 0]]), "mask": np.array([[1, 0]])}
    told = contradicted(found, batch, 0)
    assert bool(told) == wrong
    if wrong:
        assert told == [{"box": [0.0, 0.0, 10.0, 9.0], "given": 0, "champion": 1, "score": 0.9}]


def test_an_image_without_boxes_has_nothing_to_contradict():
    batch = {"boxes": np.zeros((1, 1, 4)), "labels": np.zeros((1, 1), int), "mask": np.zeros((1, 1))}
    assert contradicted(answers([HERE], [0.9], [1]), batch, 0) == []
