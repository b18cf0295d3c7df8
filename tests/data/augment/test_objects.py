"""Boxes that move with the pixels: every augmentation against the painted objects themselves."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.data.augment import AUGMENTATIONS
from jaxprop.data.augment.objects import VISIBLE, boxes_of, with_boxes
from jaxprop.errors import ShapeError

SIDE = 32
MOVING = {
    "flip": {"horizontal": 0.5, "vertical": 0.5},
    "crop": {"pad": 10},
    "scale": {"smallest": 0.5, "largest": 2.0},
    "mosaic": {"smallest": 0.5, "probability": 0.8},
}


def painted(count=12, seed=0):
    """Images with two objects that do not touch, each of a grey of its own, which is its label, too."""
    rng = np.random.default_rng(seed)
    inputs, boxes = np.zeros((count, SIDE, SIDE, 1), np.float32), np.zeros((count, 3, 4), np.float32)
    labels, mask = np.zeros((count, 3), np.int32), np.zeros((count, 3), np.float32)
    for i in range(count):
        for slot, rows in enumerate(((1, 14), (17, 31))):
            top, left = int(rng.integers(rows[0], rows[1] - 8)), int(rng.integers(1, SIDE - 13))
            height, width = int(rng.integers(5, rows[1] - top + 1)), int(rng.integers(6, 12))
            grey = 2 * i + slot + 1
            inputs[i, top : top + height, left : left + width] = grey
            boxes[i, slot], labels[i, slot], mask[i, slot] = (left, top, left + width, top + height), grey, 1
    boxes[:, 2] = np.nan  # an empty slot may hold anything
    return {"inputs": inputs, "boxes": boxes, "labels": labels, "mask": mask, "weight": np.ones(count, np.float32)}


def seen(image, grey):
    """The box around the pixels of a grey, and how many there are; those between two greys are nobody's."""
    rows, columns = np.nonzero(np.abs(image[:, :, 0] - grey) < 1e-3)
    if not len(rows):
        return None, 0
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]), len(rows)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MOVING)
def test_boxes_lie_around_their_objects(name, seed):
    batch = painted(seed=seed)
    augment = jax.jit(partial(AUGMENTATIONS[name], **MOVING[name]))
    moved = {key: np.asarray(value) for key, value in augment(jax.random.key(seed), batch).items()}
    exact = name in ("flip", "crop")
    told = 0
    assert np.isfinite(moved["boxes"]).all()
    for image, boxes, labels, mask in zip(moved["inputs"], moved["boxes"], moved["labels"], moved["mask"], strict=True):
        assert not boxes[mask == 0].any()
        for box, grey in zip(boxes[mask != 0], labels[mask != 0], strict=True):
            assert (box >= 0).all()
            assert (box <= SIDE).all()
            assert (box[2:] > box[:2]).all()
            if np.sum(labels == grey) > 1:
                continue  # a mosaic may hold an image twice
            around, _ = seen(image, grey)
            # Interpolation mixes the outermost pixels of an object with what lies beside it.
            np.testing.assert_allclose(around, box, atol=1e-4 if exact else 1.6)
            told += 1
    assert told > 12
    assert not exact or not np.array_equal(moved["inputs"], batch["inputs"])


@pytest.mark.parametrize("name", MOVING)
def test_no_object_that_is_well_seen_is_without_a_box(name):
    """Whatever of an object is left in the image is told, if it is more than the part that may be lost."""
    batch = painted()
    for seed in range(3):
        moved = jax.jit(partial(AUGMENTATIONS[name], **MOVING[name]))(jax.random.key(seed), batch)
        largest = MOVING[name].get("largest", 1.0)
        for image, labels, mask in zip(*(np.asarray(moved[key]) for key in ("inputs", "labels", "mask")), strict=True):
            for grey in range(1, 25):
                i, slot = divmod(grey - 1, 2)
                whole = np.prod(batch["boxes"][i, slot, 2:] - batch["boxes"][i, slot, :2])
                if seen(image, grey)[1] > (VISIBLE + 0.1) * whole * largest**2:
                    assert grey in labels[mask != 0]


def test_a_box_of_which_little_is_left_is_dropped_with_its_mask_and_crowd():
    batch = {"inputs": jnp.zeros((1, 10, 10, 1)), "boxes": jnp.zeros((1, 2, 4)), "mask": jnp.array([[1.0, 0.0]])}
    batch["crowd"] = jnp.array([[0.0, 1.0]])
    share = VISIBLE - 0.01
    gone = jnp.array([[[10 * (1 - share), 0.0, 10 * (2 - share), 10.0], [-5.0, 0.0, 5.0, 10.0]]])
    moved = with_boxes(batch, gone)
    assert moved["mask"].tolist() == [[0, 0]]
    assert moved["crowd"].tolist() == [[0, 1]]
    assert moved["boxes"].tolist() == [[[0, 0, 0, 0], [0, 0, 5, 10]]]


def test_a_crowd_of_which_any_part_is_left_stays_one():
    """Fault: an image that was cut out of the middle of a crowd was background."""
    batch = {"inputs": jnp.zeros((1, 10, 10, 1)), "boxes": jnp.zeros((1, 2, 4)), "mask": jnp.zeros((1, 2))}
    batch["crowd"] = jnp.ones((1, 2))
    moved = with_boxes(batch, jnp.array([[[-90.0, -90.0, 90.0, 90.0], [20.0, 0.0, 30.0, 10.0]]]))
    assert moved["crowd"].tolist() == [[1, 0]]
    assert moved["boxes"].tolist() == [[[0, 0, 10, 10], [0, 0, 0, 0]]]


def test_padding_reaches_no_mosaic():
    batch = painted()
    batch["weight"][6:] = 0
    batch["inputs"][6:] = np.nan
    moved = AUGMENTATIONS["mosaic"](jax.random.key(0), batch, probability=1.0)
    assert np.isfinite(np.asarray(moved["inputs"])[:6]).all()
    assert np.asarray(moved["labels"])[:6].max() <= 12


def test_without_a_mosaic_an_image_stays_itself():
    batch = painted()
    moved = AUGMENTATIONS["mosaic"](jax.random.key(0), batch, probability=0.0)
    np.testing.assert_array_equal(moved["inputs"], batch["inputs"])
    np.testing.assert_array_equal(moved["boxes"][:, :2], batch["boxes"][:, :2])
    assert not np.any(moved["mask"][:, 3:])


@pytest.mark.parametrize("name", ["affine", "cutmix", "mixup"])
def test_what_would_leave_boxes_behind_refuses_them(name):
    options = {"affine": {"degrees": 10}, "cutmix": {"classes": 30}, "mixup": {"classes": 30}}[name]
    with pytest.raises(ShapeError, match=r"boxes would stay where they are|needs labels"):
        AUGMENTATIONS[name](jax.random.key(0), painted(), **options)


@pytest.mark.parametrize("name", ["crop", "scale"])
def test_objects_are_not_mirrored_without_a_box(name):
    with pytest.raises(ShapeError, match="mirrors objects, which then have no box"):
        AUGMENTATIONS[name](jax.random.key(0), painted(), **MOVING[name], mode="reflect")


def test_boxes_without_a_mask_are_named():
    with pytest.raises(ShapeError, match=r"expected boxes \[B, N, 4\] with a mask \[B, N\]"):
        boxes_of({"boxes": jnp.zeros((1, 2, 4))})
    with pytest.raises(ShapeError, match="mosaic is for images with boxes"):
        AUGMENTATIONS["mosaic"](jax.random.key(0), {"inputs": jnp.zeros((2, 8, 8, 1))})
