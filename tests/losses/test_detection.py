"""The loss of a detector: against its formula, its gradient, and what must not change it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.schema import task
from jaxprop.core.detections import boxes_at, flat, points
from jaxprop.errors import ShapeError
from jaxprop.losses import make_loss
from jaxprop.losses.assignment import assign
from jaxprop.losses.detection import focal_iou
from tests.core.test_detections import outputs_of
from tests.gradients import check
from tests.losses.test_overlap import formula

BOXES = np.array([[[2, 2, 10, 12], [12, 1, 15, 4], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 3], np.float32)


def batch_of(**changes):
    """Two images, the second without an object."""
    return {
        "inputs": jnp.zeros((2, 16, 16, 1)),
        "boxes": jnp.asarray(BOXES),
        "labels": jnp.array([[2, 0, 0], [0, 0, 0]]),
        "mask": jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    } | changes


@pytest.fixture(scope="module")
def outputs():
    return outputs_of(np.random.default_rng(0), 16, 16)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_equation(outputs, kind):
    batch = batch_of()
    section = task.FocalIou(name="focal_iou", overlap=kind, box_weight=1.5, alpha=0.3, gamma=1.5)
    found, weight = jax.jit(make_loss(section))(outputs, batch)
    at = points(outputs, 16, 16)
    logits, offsets = (np.asarray(x, np.float64) for x in flat(outputs))
    for image in range(2):
        which = assign(at, batch["boxes"][image], batch["mask"][image])
        total, count = 0.0, 0
        for a in range(len(at)):
            kinds = np.zeros(3)
            if which.positive[a]:
                count += 1
                kinds[int(batch["labels"][image, which.box[a]])] = 1
                box = np.asarray(boxes_at(jnp.asarray(offsets[image, a], jnp.float32), at[a]), np.float64)
                total += 1.5 * formula(kind, box, BOXES[image, which.box[a]].astype(np.float64))
            p = 1 / (1 + np.exp(-logits[image, a]))
            right, share = np.where(kinds == 1, p, 1 - p), np.where(kinds == 1, 0.3, 0.7)
            total += float(np.sum(-share * (1 - right) ** 1.5 * np.log(right)))
        assert count == (0 if image else int(which.positive.sum()))
        np.testing.assert_allclose(found[image], total / max(count, 1), rtol=1e-4)
    assert weight.tolist() == [1.0, 1.0]


def test_gradient(x64):
    """Of both levels: the third box is too large for the first."""
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), outputs_of(np.random.default_rng(0), 24, 24))
    boxes = jnp.asarray(BOXES, jnp.float64).at[0, 2].set(jnp.array([1.0, 2.0, 21.0, 22.0]))
    batch = batch_of(inputs=jnp.zeros((2, 24, 24, 1)), boxes=boxes, mask=jnp.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    check(lambda outputs, _: jnp.vdot(jnp.array([1.0, 0.5]), focal_iou(outputs, batch)[0]), wide)


def test_neither_slots_nor_examples_that_are_padding_change_anything(outputs):
    def loss(outputs, batch):
        return focal_iou(outputs, batch)[0]

    batch = batch_of()
    expected = loss(outputs, batch)
    filled = batch_of(boxes=batch["boxes"].at[0, 2].set(jnp.nan).at[1].set(-7.0), labels=batch["labels"].at[1].set(-1))
    np.testing.assert_array_equal(loss(outputs, filled), expected)
    more = {
        name: jnp.pad(batch[name], ((0, 0), (0, 5)) + ((0, 0),) * (batch[name].ndim - 2))
        for name in batch
        if name != "inputs"
    }
    np.testing.assert_allclose(loss(outputs, batch | more), expected, rtol=1e-6)
    for image in range(2):
        alone = loss(
            jax.tree.map(lambda x, i=image: x[i : i + 1], (outputs)),
            jax.tree.map(lambda x, i=image: x[i : i + 1], batch),
        )
        np.testing.assert_allclose(alone[0], expected[image], rtol=1e-6)
    hidden = jax.tree.map(lambda x: x.at[1].set(jnp.nan), outputs)
    grads = jax.grad(lambda o: loss(o, batch_of(weight=jnp.array([1.0, 0.0]))).sum())(hidden)
    assert all(np.isfinite(leaf[0]).all() and not leaf[1].any() for leaf in jax.tree.leaves(grads))


def test_points_in_a_crowd_count_for_nothing(outputs):
    crowd = jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    batch = batch_of(boxes=jnp.asarray(BOXES).at[0, 2].set(jnp.array([0.0, 8.0, 16.0, 16.0])), crowd=crowd)
    which = assign(points(outputs, 16, 16), batch["boxes"][0], batch["mask"][0], crowd[0])
    grads = flat(jax.grad(lambda o: focal_iou(o, batch)[0].sum())(outputs))[0]
    np.testing.assert_array_equal(np.any(np.asarray(grads[0]) != 0, -1), ~np.asarray(which.ignored))
    assert which.ignored.sum() > 3


def test_a_label_that_is_no_class_is_no_silent_background(outputs):
    loss, _ = focal_iou(outputs, batch_of(labels=jnp.array([[3, 0, 0], [9, 9, 9]])))
    assert np.isnan(loss[0])
    assert np.isfinite(loss[1])


@pytest.mark.parametrize("changes", [{"boxes": jnp.zeros((2, 4))}, {"mask": jnp.zeros(2)}])
def test_a_batch_of_another_kind_is_named(outputs, changes):
    with pytest.raises(ShapeError, match=r"expected a batch with inputs \[B, H, W, C\], boxes \[B, N, 4\]"):
        focal_iou(outputs, batch_of(**changes))
