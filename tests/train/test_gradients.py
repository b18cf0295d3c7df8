"""The backward pass: microbatches, their weights and keys, the loss scale, and what the taps hand out with it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core import precision, taps
from jaxprop.core.measurements import NOT_APPLICABLE, TAP_COLUMNS
from jaxprop.errors import ShapeError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.train import gradients
from jaxprop.train.objective import as_objective, loss_from
from tests.steps import (
    EXTRAS,
    MASKS,
    assert_close,
    counting_objective,
    make_batch,
    make_params,
    masked_loss,
    per_example,
    run,
)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("accumulate", [4, 16])
def test_accumulation_is_the_whole_batch_whatever_the_masks(mask, accumulate):
    batch = make_batch(weight=MASKS[mask])
    _, whole, (expected,) = run(masked_loss, optax.sgd(0.1), [batch])
    _, split, (m,) = run(masked_loss, optax.sgd(0.1), [batch], accumulate=accumulate)
    np.testing.assert_allclose(m.packed, expected.packed, rtol=2e-6)
    assert_close(split.params, whole.params, rtol=1e-5)


def test_averaging_the_averages_would_have_been_noticed():
    batch = make_batch(weight=MASKS["unequal"])
    rows = [np.arange(16)[k::4] for k in range(4)]
    parts = [masked_loss(make_params(), {n: x[r] for n, x in batch.items()}, None)[0] for r in rows]
    whole = masked_loss(make_params(), batch, None)[0]
    assert abs(float(jnp.mean(jnp.stack(parts))) - float(whole)) > 1e-2


def test_a_microbatch_of_nothing_but_padding_may_hold_anything():
    def unguarded(params, batch, key):  # 0 / 0 where nothing counts
        total = jnp.sum(batch["weight"])
        return jnp.sum(batch["weight"] * per_example(params, batch)) / total, {"weight": total}

    batch = make_batch(weight=np.tile([1, 0, 1, 1], 4))
    _, whole, (expected,) = run(masked_loss, optax.sgd(0.1), [batch])
    _, split, (m,) = run(unguarded, optax.sgd(0.1), [batch], accumulate=4)
    np.testing.assert_allclose(m.packed, expected.packed, rtol=2e-6)
    assert_close(split.params, whole.params, rtol=1e-5)


class Pair(NamedTuple):
    x: np.ndarray
    y: np.ndarray


class Graph(NamedTuple):
    nodes: np.ndarray  # [N]
    senders: np.ndarray  # [E]
    count: np.float32


ROW = np.arange(8, dtype=np.float32)


def of_nothing(params, batch, key):
    return params["w"] ** 2


BATCHES = {  # batch, loss, whether its first axis can be split
    "named tuple": (Pair(ROW, ROW + 1), lambda p, b, k: jnp.mean((p["w"] * b.x - b.y) ** 2), True),
    "tuple": ((ROW, ROW + 1), lambda p, b, k: jnp.mean((p["w"] * b[0] - b[1]) ** 2), True),
    "array": (ROW, lambda p, b, k: jnp.mean((p["w"] * b - 1) ** 2), True),
    "list in a dict": ({"x": [ROW, ROW + 1]}, lambda p, b, k: jnp.mean((p["w"] * b["x"][0] - b["x"][1]) ** 2), True),
    "graph": (
        Graph(ROW, np.arange(3, dtype=np.int32), np.float32(8)),
        lambda p, b, k: jnp.sum(p["w"] * b.nodes[b.senders]) / b.count,
        False,
    ),
    "scalar": (np.float32(3), lambda p, b, k: (p["w"] - b) ** 2, False),
    "scalar and array": ({"x": ROW, "t": np.float32(2)}, lambda p, b, k: jnp.mean(p["w"] * b["x"]) * b["t"], False),
    "empty dict": ({}, of_nothing, False),
    "none": (None, of_nothing, False),
    "empty array": (np.zeros((0, 3), np.float32), lambda p, b, k: p["w"] ** 2 + jnp.sum(b), True),
}  # fmt: skip


@pytest.mark.parametrize("detail", ["lean", "rows", "full"])
@pytest.mark.parametrize("case", BATCHES)
def test_a_batch_that_is_not_split_may_be_anything(case, detail):
    batch, loss, _ = BATCHES[case]
    _, state, (m,) = run(loss, optax.sgd(0.1), [batch], params={"w": np.float32(2)}, detail=detail)
    expected, grad = jax.value_and_grad(lambda w: loss({"w": w}, batch, None))(jnp.float32(2))
    np.testing.assert_allclose((m.loss, m.grad_norm), (expected, abs(grad)), rtol=1e-6)
    np.testing.assert_allclose(state.params["w"], 2 - 0.1 * grad, rtol=1e-6)


@pytest.mark.parametrize("case", BATCHES)
def test_a_batch_is_split_where_its_arrays_share_a_first_axis_and_refused_elsewhere(case):
    batch, loss, splits = BATCHES[case]
    runs = [{"params": {"w": np.float32(2)}, "accumulate": k} for k in (1, 4)]
    if splits:
        whole, split = (run(loss, optax.sgd(0.1), [batch], **options)[1] for options in runs)
        np.testing.assert_allclose(split.params["w"], whole.params["w"], rtol=1e-6)
    else:
        with pytest.raises(ShapeError, match="accumulate=4 splits the batch along the first axis of its arrays"):
            run(loss, optax.sgd(0.1), [batch], **runs[1])


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_largest_output_of_microbatches_is_the_largest_of_all(accumulate):
    """Fault: the maxima of microbatches were averaged."""

    def apply(params, extras, batch, *, key, train):
        return batch["inputs"] * params["w"], extras

    model = jaxprop.from_functions(lambda key, batch: ({"w": np.ones(3, np.float32)}, {}), apply)
    batch = {"inputs": np.ones((8, 3), np.float32), "labels": np.zeros(8, np.int32)}
    batch["inputs"][5, 1] = -7
    _, _, (m,) = run(
        loss_from(model, softmax_cross_entropy), optax.sgd(0.1), [batch], detail="full",
        params={"w": np.ones(3, np.float32)}, accumulate=accumulate,
    )  # fmt: skip
    assert m.output_max == 7


def test_accumulation_passes_extras_on_and_adds_metrics_up():
    batch = make_batch(weight=MASKS["unequal"])
    _, state, (m,) = run(counting_objective(), optax.sgd(0.1), [batch], extras=EXTRAS, accumulate=4)
    assert int(state.extras["calls"]) == 4
    total, count = m.metrics["loss_again"]
    np.testing.assert_allclose((total / count, count), (m.loss, 7.0), rtol=1e-6)


def test_microbatches_and_steps_have_their_own_keys():
    def noise(params, batch, key):
        return jnp.sum(params["w"] * jax.random.normal(key, ())), {}

    batch = {"x": np.zeros(4, np.float32)}
    seen = [
        [float(m.loss) for m in run(noise, optax.sgd(0.0), [batch] * 3, params={"w": np.float32(1)}, accumulate=k)[2]]
        for k in (1, 2)
    ]
    assert len({*seen[0], *seen[1]}) == 6
    base = jax.random.fold_in(jax.random.key(0), 1)
    np.testing.assert_allclose(seen[0][1], jax.random.normal(base, ()), rtol=1e-6)
    each = [jax.random.normal(jax.random.fold_in(base, k), ()) for k in range(2)]
    np.testing.assert_allclose(seen[1][1], sum(each) / 2, rtol=1e-6)


def backward(loss_fn, batch, params, accumulate=1, scale=None, tapped=(), noise=False):
    objective, policy = as_objective(loss_fn), precision.policy("float32")
    scale = None if scale is None else jnp.float32(scale)
    return gradients.value_and_grad(
        objective, policy, accumulate, scale, params, {}, batch, jax.random.key(0), tapped, noise
    )


def tapped_loss(params, batch, key):
    hidden = jaxprop.tap(batch["x"] @ params["w"], "hidden")
    weight = jnp.sum(batch["weight"])
    return jnp.sum(batch["weight"] * jnp.sum(hidden**2, -1)) / weight, {"weight": weight}


BATCH = {"x": np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)}
PARAMS = {"w": np.random.default_rng(2).normal(size=(3, 2)).astype(np.float32)}
WEIGHTS = {"equal": np.ones(8), "unequal": np.arange(8) + 0.5, "padded": np.tile([1, 0, 1, 2], 2)}


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize(("accumulate", "scale"), [(1, None), (2, None), (4, 1024.0)])
def test_loss_gradient_and_taps_of_microbatches_are_the_whole_batchs(weight, scale, accumulate):
    batch = {**BATCH, "weight": WEIGHTS[weight].astype(np.float32)}
    if weight == "padded" and accumulate == 4:
        batch["x"] = np.where((np.arange(8) % 4 == 1)[:, None], np.nan, BATCH["x"])  # one that counts for nothing
    real = {name: array[np.isfinite(batch["x"]).all(1)] for name, array in batch.items()}
    tapped, _ = taps.find(lambda p: tapped_loss(p, real, None)[0], PARAMS)
    forward, back = backward(tapped_loss, batch, PARAMS, accumulate, scale, tapped, noise=True)
    expected, plain = jax.value_and_grad(lambda p: tapped_loss(p, real, None)[0])(PARAMS)
    np.testing.assert_allclose(forward.loss, expected, rtol=1e-6)
    np.testing.assert_allclose(forward.weight, batch["weight"].sum(), rtol=1e-6)
    assert_close(back.params, plain, rtol=1e-5)
    found = {name: values[0] for name, values in taps.columns(tapped, back.collectors).items()}
    hidden = real["x"] @ PARAMS["w"]
    grad = 2 * real["weight"][:, None] * hidden / real["weight"].sum()
    np.testing.assert_allclose(found["rms"], np.sqrt(np.mean(hidden**2)), rtol=1e-5)
    np.testing.assert_allclose(found["grad_rms"], np.sqrt(np.mean(grad**2)), rtol=1e-5)


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_the_microbatches_mean_squared_norm_is_weighted_like_the_loss(scale):
    batch = {**BATCH, "weight": (np.arange(8) + 0.5).astype(np.float32)}
    _, back = backward(tapped_loss, batch, PARAMS, 4, scale, noise=True)
    squares, weights = [], []
    for k in range(4):
        part = {name: x[k::4] for name, x in batch.items()}
        grad = jax.grad(lambda p, part=part: tapped_loss(p, part, None)[0])(PARAMS)
        squares.append(float(jnp.sum(grad["w"] ** 2)))
        weights.append(part["weight"].sum())
    np.testing.assert_allclose(back.micro_square, np.average(squares, weights=weights), rtol=1e-5)
    assert backward(tapped_loss, batch, PARAMS, 4)[1].micro_square == 0


def test_a_batch_of_nothing_but_padding_leaves_zeros():
    batch = {**BATCH, "weight": np.zeros(8, np.float32)}
    tapped, _ = taps.find(lambda p: tapped_loss(p, batch, None)[0], PARAMS)
    forward, back = backward(tapped_loss, batch, PARAMS, 2, None, tapped, noise=True)
    assert (float(forward.loss), float(forward.weight), float(back.micro_square)) == (0, 0, 0)
    assert not back.params["w"].any()
    found = taps.columns(tapped, back.collectors)
    assert [found[name].tolist() for name in TAP_COLUMNS] == [[NOT_APPLICABLE]] * len(TAP_COLUMNS)


def test_microbatch_k_takes_every_count_th_row():
    batch = {"x": np.arange(12).reshape(6, 2)}
    np.testing.assert_array_equal(gradients.microbatches(batch, 3)["x"][1], batch["x"][1::3])


@pytest.mark.parametrize("function", [gradients.multiply, gradients.divide])
def test_a_factor_keeps_dtypes_and_works_in_float32(function):
    leaves = {"half": jnp.array([3.0, 1.0], jnp.float16), "whole": jnp.array([3.0], jnp.float32)}
    factor = 2.0**20 if function is gradients.divide else 2.0**-20  # either is beyond float16 itself
    scaled = function(leaves, jnp.float32(factor))
    assert {name: leaf.dtype for name, leaf in scaled.items()} == {name: leaf.dtype for name, leaf in leaves.items()}
    np.testing.assert_allclose(scaled["half"], np.array([3, 1]) * 2.0**-20, rtol=0.3)
    np.testing.assert_allclose(scaled["whole"], 3 * 2.0**-20)
    assert function(leaves, None) is leaves


BAD = {
    "empty": ({}, 2, "accumulate=2 splits the batch.*got no array"),
    "scalar": ({"x": np.float32(0)}, 2, r"so they have to share it; got x \(\)"),
    "uneven": ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, 2, r"x \(4, 2\), y \(3,\)"),
    "not a multiple": ({"x": np.zeros(6)}, 4, "multiple of accumulate=4, got 6; use a batch of 8"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_batch_that_cannot_be_split(case):
    batch, accumulate, message = BAD[case]
    with pytest.raises(ShapeError, match=message):
        gradients.check_batch(batch, accumulate)
    gradients.check_batch(batch, 1)


def test_weights_that_cancel_between_microbatches_have_no_mean():
    def loss_fn(params, batch, key):
        return jnp.mean(batch["x"] * params), {"weight": jnp.sum(batch["weight"])}

    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1), accumulate=2)
    batch = {"x": np.arange(4, dtype=np.float32), "weight": np.array([1, -1, 1, -1], np.float32)}
    state, m = step(step.init(jnp.ones(()), key=jax.random.key(0)), batch)
    assert (np.isnan(m.loss), bool(m.skipped), float(state.params)) == (True, True, 1)


def unweighted(params, batch, key):
    mask = batch["mask"]
    return jnp.sum(mask * (params["w"] * batch["x"] - 1) ** 2) / jnp.sum(mask)


def accumulated_loss(loss_fn, accumulate):
    batch = {"x": np.arange(8.0, dtype=np.float32), "mask": np.array([1, 1, 1, 1, 1, 0, 1, 0], np.float32)}
    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1), accumulate=accumulate)
    state = step.init({"w": jnp.ones(())}, key=jax.random.key(0))
    return float(step(state, batch)[1].loss)


def test_a_mask_without_a_weight_is_told_where_it_matters():
    with pytest.warns(UserWarning, match=r"accumulate=2 weighs all microbatches alike.*batch's mask; return"):
        wrong = accumulated_loss(unweighted, 2)
    whole = accumulated_loss(unweighted, 1)
    weighted = accumulated_loss(lambda p, b, k: (unweighted(p, b, k), {"weight": jnp.sum(b["mask"])}), 2)
    assert weighted == pytest.approx(whole, rel=1e-6)
    assert wrong != pytest.approx(whole, rel=1e-2)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda p, b, k: jnp.mean((p["w"] * b["x"] - 1) ** 2),
        lambda p, b, k: (unweighted(p, b, k), {"weight": 1.0}),
    ],
    ids=["not used", "said to be 1"],
)
def test_a_mask_that_is_no_matter_of_the_mean_is_no_reason_to_speak(loss_fn, recwarn):
    accumulated_loss(loss_fn, 2)
    assert not recwarn.list
