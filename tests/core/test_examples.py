"""What has the weight 0 may hold anything: no loss, gradient or metric sees it. What counts is checked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.errors import ShapeError
from jaxprop.losses import LOSSES, huber, sigmoid_cross_entropy, softmax_cross_entropy, squared_error
from jaxprop.metrics import METRICS
from jaxprop.train.objective import loss_from

RNG = np.random.default_rng(3)
BAD = ["nan", "inf", "ignored"]


def _answers(shape, classes=None, marks=False):
    if classes is not None:
        return RNG.normal(size=(*shape, classes)).astype(np.float32), RNG.integers(0, classes, shape).astype(np.int32)
    labels = RNG.integers(0, 2, shape) if marks else RNG.normal(size=shape)
    return RNG.normal(size=shape).astype(np.float32), labels.astype(np.float32)


def _case(*args, **options):
    def make():
        outputs, labels = _answers(*args, **options)
        return outputs, {"labels": labels}

    return make


ANSWERS = {
    "classes": _case((4,), classes=5),
    "tokens": _case((4, 3), classes=5),
    "marks": _case((4, 3), marks=True),
    "targets": _case((4, 3)),
}
LOSS_OF = [
    (softmax_cross_entropy, "classes"),
    (softmax_cross_entropy, "tokens"),
    (sigmoid_cross_entropy, "marks"),
    (squared_error, "targets"),
    (huber, "targets"),
]


def spoil(outputs, batch, by, bad):
    """Outputs and a batch with some entries of weight 0; and the same with nonsense where the weight is 0."""
    labels = batch["labels"]
    held = np.ones(labels.shape, bool)
    held[1] = False
    if by == "part of a mask":
        held[2, 1:] = False
    weight = {"weight": np.where(held.reshape(4, -1)[:, 0], [1, 2, 3, 0.5], 0).astype(np.float32)}
    batch |= weight if by == "weight" else {"mask": held[:, 0] if by == "mask" and held.ndim > 1 else held}
    real = labels.dtype.kind == "f"
    value = {"nan": np.nan, "inf": np.inf, "ignored": -100}[bad]
    spoiled_labels = np.where(held, labels, value if real else -100).astype(labels.dtype)
    lost = np.broadcast_to(held[..., None] if outputs.ndim > held.ndim else held, outputs.shape)
    spoiled = np.where(lost, outputs, value if bad != "ignored" else 3e38).astype(np.float32)
    return jnp.asarray(outputs), batch, jnp.asarray(spoiled), {**batch, "labels": spoiled_labels}


def total(loss, outputs, batch):
    each, weight = loss(outputs, batch)
    return jnp.sum(weight * each) / jnp.sum(weight)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("by", ["weight", "mask", "part of a mask"])
@pytest.mark.parametrize(("loss", "kind"), LOSS_OF)
def test_nothing_of_weight_0_reaches_loss_or_gradient(loss, kind, by, bad):
    if kind == "classes" and by == "part of a mask":
        pytest.skip("an example has one entry")
    outputs, batch, spoiled, spoiled_batch = spoil(*ANSWERS[kind](), by, bad)
    value, grads = jax.value_and_grad(total, 1)(loss, spoiled, spoiled_batch)
    expected, wanted = jax.value_and_grad(total, 1)(loss, outputs, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(grads, wanted, rtol=1e-6)
    assert np.isfinite(expected)
    assert np.any(wanted)


def test_every_loss_is_tried():
    elsewhere = {LOSSES["focal_iou"], LOSSES["ctc"]}  # in tests/losses/test_detection.py and test_ctc.py
    assert {loss for loss, _ in LOSS_OF} | elsewhere == set(LOSSES.values())


@pytest.mark.parametrize(("loss", "kind"), LOSS_OF)
def test_a_mask_of_ones_is_no_mask(loss, kind):
    outputs, batch = ANSWERS[kind]()
    ones = {**batch, "mask": np.ones(batch["labels"].shape, np.int32), "weight": np.ones(4)}
    for found, expected in zip(loss(outputs, ones), loss(outputs, batch), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("loss", "kind"), LOSS_OF)
def test_a_mask_may_weigh(loss, kind):
    """Half of everything is the same mean, whatever a mask sums up to; 0.2 and 0.1 weigh an entry twice as much."""
    outputs, batch = ANSWERS[kind]()
    shape = batch["labels"].shape
    half = total(loss, outputs, {**batch, "mask": np.full(shape, 0.5, np.float32)})
    np.testing.assert_allclose(half, total(loss, outputs, batch), rtol=1e-6)
    mask = np.where(np.arange(np.prod(shape)).reshape(shape) % 2, 0.2, 0.1).astype(np.float32)
    each = [total(loss, outputs, {**batch, "mask": mask == m}) for m in (np.float32(0.1), np.float32(0.2))]
    shares = np.array([np.sum(mask[mask == m]) for m in (np.float32(0.1), np.float32(0.2))])
    found = total(loss, outputs, {**batch, "mask": mask})
    np.testing.assert_allclose(found, (shares @ np.array(each)) / shares.sum(), rtol=1e-5)


@pytest.mark.parametrize("label", [-100, -1, 5, 2**31 - 1])
def test_a_label_that_is_no_class_gives_nan_and_not_another_classs_gradient(label):
    outputs, labels = jnp.zeros((2, 5)).at[1, 4].set(9.0), jnp.array([1, label])
    loss, _ = softmax_cross_entropy(outputs, {"labels": labels})
    assert np.isnan(loss).tolist() == [False, True]
    grads = jax.grad(lambda o: softmax_cross_entropy(o, {"labels": labels})[0].sum())(outputs)
    assert np.isnan(grads).all(1).tolist() == [False, True]


@pytest.mark.parametrize("label", [-1.0, 1.5, np.nan])
def test_a_mark_outside_0_to_1_gives_nan(label):
    loss, _ = sigmoid_cross_entropy(jnp.zeros((2, 1)), {"labels": jnp.array([[1.0], [label]])})
    assert np.isnan(loss).tolist() == [False, True]


SHAPES = {
    "weight of two axes": ({"weight": np.ones((4, 1))}, r"expected weight \[4\], one number an example, got \[4, 1\]"),
    "weight of targets": ({"weight": np.ones((4, 3))}, "call what weighs tokens or targets mask"),
    "one weight": ({"weight": np.float32(1)}, r"expected weight \[4\]"),
    "mask of another length": ({"mask": np.ones((4, 2))}, r"expected mask \[4, 3\].* got \[4, 2\]"),
    "mask that would broadcast": (
        {"mask": np.ones((4, 1))},
        "give a mask of the inputs another key, such as input_mask",
    ),
    "mask of the targets": ({"mask": np.ones(3)}, r"or its leading axes, got \[3\]"),
}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("loss", [squared_error, sigmoid_cross_entropy, huber])
def test_weights_and_masks_do_not_broadcast(loss, case):
    part, message = SHAPES[case]
    with pytest.raises(ShapeError, match=message):
        loss(jnp.zeros((4, 3)), {"labels": jnp.zeros((4, 3)), **part})


def test_a_batch_without_labels():
    with pytest.raises(ShapeError, match="expected the batch to hold labels, got the keys inputs, target"):
        squared_error(jnp.zeros(2), {"inputs": 0, "target": 0})


# -- metrics -------------------------------------------------------------------------------------

OF = {"accuracy": "classes", "multilabel_accuracy": "marks", "mean_absolute_error": "targets"}
ELSEWHERE = {"average_precision", "infeasible"}  # tried in the tests of their own
CASES = [(name, OF[name]) for name in METRICS if name not in ELSEWHERE] + [("accuracy", "tokens")]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("by", ["weight", "mask", "part of a mask"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_nothing_of_weight_0_reaches_a_metric(name, kind, by, bad):
    if kind == "classes" and by == "part of a mask":
        pytest.skip("an example has one entry")
    outputs, batch = ANSWERS[kind]()
    outputs, batch, spoiled, spoiled_batch = spoil(outputs, batch, by, bad)
    expected, found = METRICS[name](outputs, batch), METRICS[name](spoiled, spoiled_batch)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).all()
    assert found[1] > 0


@pytest.mark.parametrize("label", [-100, -1, 3])
def test_a_label_that_is_no_class_is_not_counted_as_wrong_in_silence(label):
    total, count = METRICS["accuracy"](jnp.zeros((2, 3)), {"labels": jnp.array([0, label])})
    assert np.isnan(total)
    assert count == 2


@pytest.mark.parametrize("label", [-1.0, 2.0, np.nan])
def test_a_mark_that_is_neither_0_nor_1(label):
    assert np.isnan(METRICS["multilabel_accuracy"](jnp.zeros((1, 2)), {"labels": jnp.array([[0, label]])})[0])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_labels_of_another_shape(name, kind):
    outputs, batch = ANSWERS[kind]()
    with pytest.raises(ShapeError, match="expected labels"):
        METRICS[name](outputs, {"labels": np.moveaxis(batch["labels"][..., None], 0, -1)})


# -- through a model ------------------------------------------------------------------------------

LINEAR = jaxprop.from_functions(
    lambda key, batch: ({"w": jnp.zeros((2, 1))}, {}),
    lambda params, extras, batch, *, key, train: (batch["inputs"] @ params["w"], extras),
)


def step_on(loss, batch, **options):
    step = jaxprop.make_train_step(loss_from(LINEAR, loss), optax.sgd(0.1), **options)
    state = jaxprop.init_state({"w": jnp.zeros((2, 1))}, optax.sgd(0.1), key=jax.random.key(0))
    state, m = step(state, batch)
    return float(m.loss), bool(m.skipped), state.params["w"].ravel()


@pytest.mark.parametrize(
    ("loss", "value", "w"),
    [(squared_error, 0.5, [0.1, 0.2]), (huber, 0.5, [0.1, 0.2]), (sigmoid_cross_entropy, np.log(2), [0.05, 0.1])],
)
@pytest.mark.parametrize("missing", ["target", "input", "both"])
def test_a_missing_value_in_a_row_of_weight_0(loss, value, w, missing):
    inputs, labels = np.array([[1, 2], [3, 4]], np.float32), np.array([[1], [0]], np.float32)
    if missing != "input":
        labels[1] = np.nan
    if missing != "target":
        inputs[1] = [np.inf, np.nan]
    found, skipped, params = step_on(loss, {"inputs": inputs, "labels": labels, "weight": np.array([1, 0], np.float32)})
    assert not skipped
    assert found == pytest.approx(value)
    np.testing.assert_allclose(params, w, rtol=1e-6)


def test_negative_weights_are_part_of_the_mean():
    batch = {"inputs": np.eye(2, dtype=np.float32), "labels": np.array([[2], [4]], np.float32)}
    loss, skipped, params = step_on(squared_error, {**batch, "weight": np.array([3, -1], np.float32)})
    assert (loss, skipped) == (-1, False)
    np.testing.assert_allclose(params, [0.3, -0.2], rtol=1e-6)


def test_weights_that_cancel_have_no_mean():
    batch = {"inputs": np.eye(2, dtype=np.float32), "labels": np.array([[2], [4]], np.float32)}
    loss, skipped, params = step_on(squared_error, {**batch, "weight": np.array([1, -1], np.float32)})
    assert np.isnan(loss)
    assert skipped
    np.testing.assert_array_equal(params, [0, 0])
