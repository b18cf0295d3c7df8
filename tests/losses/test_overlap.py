"""The IoU family against its formulas in NumPy, and gradients by differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.losses.overlap import OVERLAPS, diou
from tests.gradients import check

RNG = np.random.default_rng(0)


def boxes(count):
    corner = RNG.uniform(0, 10, (count, 2))
    return np.concatenate([corner, corner + RNG.uniform(1, 8, (count, 2))], 1)


A, B = boxes(60), boxes(60)


def formula(kind, a, b):
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a, b
    common = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - common
    iou = common / union
    width, height = max(ax1, bx1) - min(ax0, bx0), max(ay1, by1) - min(ay0, by0)
    if kind == "iou":
        return 1 - iou
    if kind == "giou":
        return 1 - iou + (width * height - union) / (width * height)
    apart = ((ax0 + ax1 - bx0 - bx1) / 2) ** 2 + ((ay0 + ay1 - by0 - by1) / 2) ** 2
    distance = 1 - iou + apart / (width**2 + height**2)
    if kind == "diou":
        return distance
    v = 4 / np.pi**2 * (np.arctan((bx1 - bx0) / (by1 - by0)) - np.arctan((ax1 - ax0) / (ay1 - ay0))) ** 2
    return distance + v * v / (1 - iou + v)


@pytest.mark.parametrize("kind", OVERLAPS)
def test_equation(kind):
    assert any(formula("iou", a, b) == 1 for a, b in zip(A, B, strict=True))  # some lie apart, and some do not
    assert any(formula("iou", a, b) < 0.8 for a, b in zip(A, B, strict=True))
    found = OVERLAPS[kind](jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32))
    np.testing.assert_allclose(found, [formula(kind, a, b) for a, b in zip(A, B, strict=True)], rtol=2e-5)


@pytest.mark.parametrize("kind", OVERLAPS)
def test_equal_boxes_have_no_loss(kind):
    assert np.abs(OVERLAPS[kind](jnp.asarray(A), jnp.asarray(A))).max() < 1e-6


@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
def test_gradient(x64, kind):
    weights = jnp.asarray(RNG.normal(size=60))
    check(lambda a, _: jnp.vdot(weights, OVERLAPS[kind](a, jnp.asarray(B))), jnp.asarray(A))


def test_gradient_of_the_complete_iou_holds_its_weight_fixed(x64):
    def fixed(a):
        def v(box):
            size, other = box[..., 2:] - box[..., :2], B[..., 2:] - B[..., :2]
            angle = jnp.arctan(other[..., 0] / other[..., 1]) - jnp.arctan(size[..., 0] / size[..., 1])
            return 4 / np.pi**2 * angle**2

        weight = v(A) / (OVERLAPS["iou"](jnp.asarray(A), jnp.asarray(B)) + v(A))
        return jnp.sum(diou(a, jnp.asarray(B)) + weight * v(a))

    found = jax.grad(lambda a: OVERLAPS["ciou"](a, jnp.asarray(B)).sum())(jnp.asarray(A))
    np.testing.assert_allclose(found, jax.grad(fixed)(jnp.asarray(A)), rtol=1e-9)


@pytest.mark.parametrize("kind", OVERLAPS)
def test_boxes_without_area_have_finite_losses_and_gradients(kind):
    point, box = jnp.array([3.0, 3.0, 3.0, 3.0]), jnp.array([1.0, 1.0, 4.0, 5.0])
    for a, b in ((point, box), (box, point), (point, point)):
        loss, grad = jax.value_and_grad(OVERLAPS[kind])(a, b)
        assert np.isfinite(loss)
        assert np.isfinite(grad).all()
