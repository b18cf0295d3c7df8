"""Outputs of a detector become boxes: against a loop in NumPy, at any size, and whatever else is in the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core.detections import Decoding, boxes_at, decode, points
from jaxprop.errors import ShapeError
from tests.core.test_boxes import greedy


def outputs_of(rng, height, width, strides=(4, 8), classes=3, count=2):
    levels = []
    for stride in strides:
        grid = (-(-height // stride), -(-width // stride))
        levels.append(
            {
                "logits": jnp.asarray(rng.normal(-1, 2, (count, *grid, classes)), jnp.float32),
                "offsets": jnp.asarray(rng.normal(0.3, 0.6, (count, *grid, 4)), jnp.float32),
            }
        )
    return tuple(levels)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 9), (15, 33), (8, 8), (5, 12)])
def test_points_are_the_centres_of_cells(height, width):
    at = points(outputs_of(np.random.default_rng(0), height, width), height, width)
    expected = [
        (x * s + s / 2, y * s + s / 2, s) for s in (4, 8) for y in range(-(-height // s)) for x in range(-(-width // s))
    ]
    np.testing.assert_array_equal(at, np.array(expected, np.float32))


def one_by_one(outputs, height, width, decoding, image):
    """Decoding as it is told, for one image: every pair of a point and a class is a candidate."""
    at, found = points(outputs, height, width), []
    logits = np.concatenate([np.asarray(x["logits"][image]).reshape(-1, x["logits"].shape[-1]) for x in outputs])
    offsets = np.concatenate([np.asarray(x["offsets"][image]).reshape(-1, 4) for x in outputs])
    for a, (x, y, s) in enumerate(at.tolist()):
        dx, dy, w, h = (float(v) for v in offsets[a])
        w, h = s * np.exp(w), s * np.exp(h)
        edges = [x + s * dx - w / 2, y + s * dy - h / 2, x + s * dx + w / 2, y + s * dy + h / 2]
        box = np.clip(edges, 0, [width, height, width, height])
        found += [(1 / (1 + np.exp(-logits[a, k])), k, box) for k in range(logits.shape[1])]
    found = [one for one in sorted(found, key=lambda one: -one[0])[: decoding.candidates] if one[0] >= decoding.score]
    scores, classes, boxes = (np.array(part) for part in zip(*found, strict=True))
    kept = greedy(boxes.astype(np.float32), scores, classes, decoding.iou)
    return boxes[kept][: decoding.most], scores[kept][: decoding.most], classes[kept][: decoding.most]


@pytest.mark.parametrize("seed", range(3))
def test_decoding_is_that_of_a_loop(seed):
    decoding = Decoding(candidates=40, most=9, iou=0.4, score=0.5)
    outputs = outputs_of(np.random.default_rng(seed), 15, 20)
    found = jax.jit(lambda outputs: decode(outputs, 15, 20, decoding))(outputs)
    for image in range(2):
        boxes, scores, classes = one_by_one(outputs, 15, 20, decoding, image)
        real = np.asarray(found.scores[image]) > 0
        assert real.sum() == len(scores) > 3
        np.testing.assert_allclose(found.boxes[image][real], boxes, atol=1e-4)
        np.testing.assert_allclose(found.scores[image][real], scores, rtol=1e-5)
        np.testing.assert_array_equal(found.classes[image][real], classes)
        assert not np.any(np.asarray(found.boxes[image])[~real])


def test_an_image_is_decoded_alone_as_among_others():
    outputs = outputs_of(np.random.default_rng(5), 16, 16, count=3)
    together = decode(outputs, 16, 16)
    alone = decode(jax.tree.map(lambda x: x[1:2], outputs), 16, 16)
    for whole, part in zip(together, alone, strict=True):
        np.testing.assert_array_equal(whole[1], part[0])


def test_no_box_is_infinite():
    assert np.isfinite(boxes_at(jnp.full(4, 1e6, jnp.float32), np.array([4.0, 4.0, 8.0]))).all()


@pytest.mark.parametrize("outputs", [jnp.zeros((2, 3)), (), ({"logits": jnp.zeros((1, 2, 2, 3))},)])
def test_other_outputs_are_named(outputs):
    with pytest.raises(ShapeError, match="expected the outputs of a detector"):
        decode(outputs, 8, 8)


def test_boxes_of_several_classes_on_one_object_stay_unless_all_are_compared():
    logits = jnp.full((1, 2, 2, 3), -9.0).at[0, 0, 0].set(jnp.array([2.0, 3.0, -9.0]))
    outputs = ({"logits": logits, "offsets": jnp.zeros((1, 2, 2, 4))},)
    by_class, among_all = (decode(outputs, 8, 8, Decoding(nms=nms)) for nms in ("class", "all"))
    assert by_class.classes[0][np.asarray(by_class.scores[0]) > 0].tolist() == [1, 0]
    assert among_all.classes[0][np.asarray(among_all.scores[0]) > 0].tolist() == [1]
