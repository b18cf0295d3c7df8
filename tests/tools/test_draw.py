"""Pictures of boxes: in the right place, at any size, written whole, and never over a file of another kind."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxprop.errors import UsageError
from jaxprop.tools.draw import Drawings, colour_of, draw
from jaxprop.tools.predict import Answer


def drawn(pixels, *boxes):
    found = [{"class": "cat", "score": 0.5, "box": box} for box in boxes]
    return np.asarray(Image.open(BytesIO(draw(pixels, found))))


@pytest.mark.parametrize("channels", [1, 3])
def test_edges_lie_where_the_box_says_and_small_images_are_enlarged(channels):
    picture = drawn(np.full((40, 60, channels), 9, np.uint8), [10, 20, 30, 36])
    zoom = picture.shape[1] // 60
    assert picture.shape == (40 * zoom, 60 * zoom, 3)
    assert zoom == 8
    colour = np.array(colour_of("cat"))
    edge = (picture == colour).all(-1)
    assert edge[28 * zoom, 10 * zoom]
    assert edge[28 * zoom, 30 * zoom]
    assert not edge[28 * zoom, 20 * zoom]
    assert (picture[2 * zoom, 2 * zoom] == 9).all()


def test_a_large_image_keeps_its_size_and_boxes_over_the_edges_or_without_area_are_no_error():
    picture = drawn(np.zeros((600, 700, 3), np.uint8), [0, 0, 700, 600], [5, 5, 5, 9], [-3, 590, 20, 640])
    assert picture.shape == (600, 700, 3)


def test_a_name_that_would_reach_over_the_right_edge_begins_further_left():
    box = {"class": "a class of a long name", "score": 0.5, "box": [50, 20, 60, 30]}
    picture = np.asarray(Image.open(BytesIO(draw(np.zeros((40, 60, 1), np.uint8), [box]))))
    behind = (picture[20 * 8 - 3] == colour_of(box["class"])).all(-1)  # the line of pixels above the box
    assert np.flatnonzero(behind).min() < 50 * 8
    assert behind[-1]


def answer_of(path):
    box = {"class": "cat", "score": 0.5, "box": [1, 1, 4, 4]}
    return Answer(str(path), {"boxes": [box]}, pixels=lambda: np.zeros((8, 8, 1), np.uint8))


def test_a_place_that_cannot_be_written_is_told_with_the_fix(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot be written .* --out DIR"):
        Drawings(tmp_path / "taken")(answer_of("a.png"))


def test_what_has_no_image_or_failed_is_not_drawn(tmp_path):
    drawings = Drawings(tmp_path)
    assert drawings(Answer("a.csv:1", {"label": "x"})) is None
    assert drawings(answer_of("a.png")._replace(error="is no image")) is None
    assert drawings.count == 0
    assert drawings(answer_of("photos.tar:b/c.png")) is not None
    assert len(list(Path(tmp_path).iterdir())) == drawings.count == 1
