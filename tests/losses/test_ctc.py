"""`losses/ctc.py` against optax, and its gradient against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprop.errors import ShapeError
from jaxprop.losses.ctc import ctc
from tests.gradients import check

RNG = np.random.default_rng(0)
COUNTS = np.array([3, 1, 4, 2])
BATCH = {
    "labels": np.where(np.arange(4) < COUNTS[:, None], RNG.integers(1, 6, (4, 4)), 0),
    "label_lengths": COUNTS,
    "weight": np.array([1, 2, 1, 3], np.float32),
}
LENGTHS = np.array([9, 4, 8, 5])


def outputs(dtype=np.float32):
    return {"logits": RNG.normal(size=(4, 9, 6)).astype(dtype), "lengths": LENGTHS}


def test_it_is_that_of_optax_a_label():
    out = outputs()
    loss, weight = ctc(out, BATCH)
    padding = np.arange(9) >= LENGTHS[:, None], np.arange(4) >= COUNTS[:, None]
    padding = [part.astype(np.float32) for part in padding]
    with jax.numpy_dtype_promotion("standard"):
        expected = optax.ctc_loss(out["logits"], padding[0], BATCH["labels"], padding[1])
    np.testing.assert_allclose(loss, np.asarray(expected) / COUNTS, rtol=1e-5)
    np.testing.assert_allclose(weight, BATCH["weight"] * COUNTS)


def test_its_gradient(x64):
    logits = jnp.asarray(outputs(np.float64)["logits"])[:3]
    batch = {name: value[:3] for name, value in BATCH.items()}

    def loss(params, _):
        values, weight = ctc({"logits": params["logits"], "lengths": LENGTHS[:3]}, batch)
        return (values * weight).sum()

    check(loss, {"logits": logits})


def test_what_cannot_be_aligned_has_no_weight():
    out = outputs() | {"lengths": np.array([2, 4, 8, 5])}
    loss, weight = ctc(out, BATCH)
    assert weight.tolist() == [0, 2, 4, 6]
    assert np.isfinite(loss).all()
    slopes = jax.grad(lambda x: jnp.vdot(*ctc(out | {"logits": x}, BATCH)))(out["logits"])
    assert not slopes[0].any()
    assert np.isfinite(slopes).all()


def test_frames_and_labels_after_their_lengths_are_not_read():
    out, batch = outputs(), {name: value.copy() for name, value in BATCH.items()}
    other = {**out, "logits": np.where(np.arange(9)[None, :, None] < LENGTHS[:, None, None], out["logits"], 50)}
    batch["labels"] = np.where(np.arange(4) < COUNTS[:, None], batch["labels"], 5)
    np.testing.assert_allclose(ctc(out, BATCH)[0], ctc(other, batch)[0], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_what_counts_for_nothing_may_hold_anything(bad):
    out, batch = outputs(), BATCH | {"weight": np.array([1, 0, 1, 3], np.float32)}
    counts = (np.arange(9) < LENGTHS[:, None]) & (batch["weight"] > 0)[:, None]
    other = out | {"logits": np.where(counts[..., None], out["logits"], bad).astype(np.float32)}
    changed = batch | {"labels": np.where(batch["weight"][:, None] > 0, batch["labels"], -100)}

    def slopes(x, batch):
        return jax.value_and_grad(lambda x: jnp.vdot(*ctc(out | {"logits": x}, batch)))(x)

    for found, expected in zip(slopes(other["logits"], changed), slopes(out["logits"], batch), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("label", [-100, 0, 6])
def test_a_label_that_is_no_token_gives_nan(label):
    out, labels = outputs(), BATCH["labels"].copy()
    labels[2, 1] = label
    loss, weight = ctc(out, BATCH | {"labels": labels})
    assert np.isnan(loss).tolist() == [False, False, True, False]
    assert weight[2] > 0
    slopes = jax.grad(lambda x: jnp.vdot(*ctc(out | {"logits": x}, BATCH | {"labels": labels})))(out["logits"])
    assert np.isnan(slopes[2, : LENGTHS[2]]).all()
    assert np.isfinite(slopes[0]).all()


def test_outputs_of_another_form_are_told():
    with pytest.raises(ShapeError, match="lengths"):
        ctc(jnp.zeros((1, 2, 3)), BATCH)
    with pytest.raises(ShapeError, match="labels"):
        ctc(outputs(), BATCH | {"labels": np.zeros(4, np.int32)})
