"""What became of boxes: found, missed and false alarms, and the worst images first."""

import base64

import numpy as np

from jaxprop.tasks.pictures import SIDE, found_by_class, judge, worst_images


def told(boxes, scores, classes):
    return {"boxes": np.array([boxes], float), "scores": np.array([scores]), "classes": np.array([classes])}


def true(boxes, labels, **more):
    batch = {"boxes": np.array([boxes], float), "labels": np.array([labels]), "mask": np.ones((1, len(labels)))}
    return batch | {"inputs": np.zeros((1, 16, 16, 1))} | {name: np.array([value]) for name, value in more.items()}


A, B = [0, 0, 4, 4], [8, 8, 14, 14]


def test_the_surest_box_of_the_class_takes_the_object_and_the_others_are_false_alarms():
    found = judge(told([A, A, B], [0.8, 0.9, 0.7], [1, 1, 2]), true([A, B], [1, 1]), 0)
    assert (found.found, sorted(found.alarms), found.missed) == ([1], [0, 2], [1])
    assert found.errors == 3


def test_a_second_class_on_one_object_is_no_alarm_where_a_person_is_told_one_of_them():
    both = told([A, A, B], [0.8, 0.9, 0.7], [2, 1, 2])
    batch = true([A, B], [1, 2])
    assert judge(both, batch, 0).alarms == [0]
    assert judge(both, batch, 0, overlap=0.6) == ([1, 2], [], [])
    assert found_by_class(both, batch, overlap=0.6).data["rows"] == [["1", 1, 1, 0, 0], ["2", 1, 1, 0, 0]]


def test_boxes_below_the_score_and_empty_slots_are_nobodys():
    batch = true([A, B], [1, 1], mask=[1, 0])
    assert judge(told([A, B], [0.9, 0.2], [1, 1]), batch, 0) == ([0], [], [])


def test_a_box_in_a_crowd_is_neither_right_nor_wrong():
    batch = true([A, B], [1, 1], mask=[1, 0], crowd=[0, 1])
    assert judge(told([A, [9, 9, 12, 12]], [0.9, 0.8], [1, 1]), batch, 0) == ([0], [], [])
    assert judge(told([A, [9, 9, 12, 12]], [0.9, 0.8], [1, 2]), batch, 0).alarms == [1]


def test_the_worst_images_come_first_with_their_pixels():
    rng = np.random.default_rng(0)
    batch = {
        "inputs": rng.normal(size=(3, 16, 16, 1)),
        "boxes": np.array([[A, B]] * 3, float),
        "labels": np.array([[0, 1]] * 3),
        "mask": np.array([[1, 0], [1, 1], [0, 0]]),
    }
    nothing = {"boxes": np.zeros((3, 1, 4)), "scores": np.zeros((3, 1)), "classes": np.zeros((3, 1), int)}
    shown = worst_images(nothing, batch, names=["cat", "dog"], mean=[0.5], std=[0.25]).data["pictures"]
    assert [item["title"] for item in shown] == [
        "example 1: 2 missed", "example 0: 1 missed", "example 2: nothing to find",
    ]  # fmt: skip
    assert [box["text"] for box in shown[0]["boxes"]] == ["cat", "dog"]
    pixels = np.frombuffer(base64.b64decode(shown[0]["pixels"]), np.uint8).reshape(16, 16)
    expected = np.clip(np.round((batch["inputs"][1, :, :, 0] * 0.25 + 0.5) * 255), 0, 255)
    np.testing.assert_array_equal(pixels, expected)


def test_large_images_are_made_smaller_with_their_boxes():
    batch = true([[0, 0, 300, 200]], [0]) | {"inputs": np.zeros((1, 400, 300, 3))}
    item = worst_images(told([A], [0.0], [0]), batch).data["pictures"][0]
    assert max(item["height"], item["width"]) <= SIDE
    assert item["boxes"][0]["box"] == [0.0, 0.0, 100.0, round(200 / 3, 2)]


def test_counts_by_class():
    batch = true([A, B], [1, 1])
    rows = found_by_class(told([A, B], [0.8, 0.9], [1, 2]), batch, names=["a", "b", "c"]).data["rows"]
    assert rows == [["b", 2, 1, 1, 0], ["c", 0, 0, 0, 1]]
