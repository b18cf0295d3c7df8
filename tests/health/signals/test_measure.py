"""What each kind of record holds, and the scalars that take more than a norm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.health.signals.settings import DETAILS
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.losses.squared import squared_error
from jaxprop.train.objective import loss_from
from tests.steps import forward, make_batch, make_params, mean_loss, one_step

ALWAYS = ("loss", "weight", "grad_norm", "skipped", "skips", "guard", "loss_scale")
RARELY = ("param_norm", "update_norm", "output_max", "output_logsumexp")


def model_loss(loss=softmax_cross_entropy):
    def apply(params, extras, batch, *, key, train):
        return forward(params, batch["inputs"]), extras

    return loss_from(jaxprop.from_functions(lambda key, batch: (make_params(), {}), apply), loss)


@pytest.mark.parametrize("detail", ["lean", "rows", "full"])
def test_what_each_kind_of_record_holds(detail):
    m = one_step(model_loss(), optax.adam(0.1), detail)
    full = detail == "full"
    assert np.isfinite([getattr(m, name) for name in ALWAYS]).all()
    assert np.isfinite([getattr(m, name) for name in RARELY]).tolist() == [full] * 4
    assert np.isnan(m.clipped_norm)  # no clipping was named
    assert m.layout.layers == (() if detail == "lean" else ("dense_0", "dense_1"))
    assert m.layout.metrics == ()
    assert (m.rare is None) == (m.taps is None) == (not full)
    if detail != "lean":
        assert np.isfinite(m.layers.grad_norm).all()
        for name in ("param_norm", "update_norm", "zero_fraction", "adam_lag"):
            assert np.isfinite(getattr(m.layers, name)).tolist() == [full] * 2
    if full:
        assert np.isfinite([m.rare.swallowed, m.rare.tiny_second_moment]).all()


@pytest.mark.parametrize(("tx", "accumulate"), [(optax.adam(0.1), 1), (optax.adamax(0.1), 4)], ids=["adam", "adamax"])
@pytest.mark.parametrize("detail", DETAILS)
def test_no_nan_and_no_infinity_is_in_the_array_of_a_healthy_step(detail, tx, accumulate):
    m = one_step(model_loss(), tx, detail, accumulate=accumulate, precision="float16")
    assert np.isfinite(m.packed).all()


def test_without_health_there_are_only_the_scalars():
    m = one_step(model_loss(), detail="full", health=False)
    assert (m.layout.layers, m.rare, m.taps) == ((), None, None)
    assert np.isfinite([getattr(m, name) for name in ALWAYS]).all()
    assert np.isnan([getattr(m, name) for name in RARELY]).all()


@pytest.mark.parametrize("accumulate", [1, 4])
def test_output_signals_are_those_of_the_logits(accumulate):
    m, batch = one_step(model_loss(), accumulate=accumulate), make_batch()
    logits = np.asarray(forward(make_params(), batch["inputs"]), np.float64)
    np.testing.assert_allclose(m.output_max, np.abs(logits).max(), rtol=1e-5)
    np.testing.assert_allclose(m.output_logsumexp, np.mean(np.log(np.exp(logits).sum(-1)) ** 2), rtol=1e-5)


def test_outputs_that_are_no_logits_have_no_logsumexp():
    batch = {**make_batch(), "labels": np.zeros((16, 3), np.float32)}
    m = one_step(model_loss(squared_error), batch=batch)
    assert np.isfinite(m.output_max)
    assert np.isnan(m.output_logsumexp)


CLIPS = {  # what the step is told, transformation, norm that is expected
    "none": (None, optax.identity(), lambda norm: np.nan),
    "by norm": (optax.clip_by_global_norm(0.05), optax.clip_by_global_norm(0.05), lambda norm: 0.05),
    "by its bound": (0.05, optax.clip_by_global_norm(0.05), lambda norm: 0.05),
    "by a bound above it": (1000, optax.clip_by_global_norm(1000), lambda norm: norm),
}


@pytest.mark.parametrize("name", CLIPS)
def test_the_clipped_norm_is_what_reaches_the_optimizer(name):
    clip, clipping, expected = CLIPS[name]
    m = one_step(tx=optax.chain(clipping, optax.sgd(0.1)), clip=clip)
    np.testing.assert_allclose(m.clipped_norm, expected(m.grad_norm), rtol=1e-5)
    left = m.grad_norm if clip is None else m.clipped_norm
    np.testing.assert_allclose(m.update_norm, 0.1 * left, rtol=1e-5)


def test_clipping_by_value_is_followed_too():
    clip = optax.clip(0.02)
    m = one_step(tx=optax.chain(clip, optax.sgd(0.1)), clip=clip)
    grads = jax.grad(lambda p: mean_loss(p, make_batch(), None))(make_params())
    expected = np.sqrt(sum(np.sum(np.clip(g, -0.02, 0.02) ** 2) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(m.clipped_norm, expected, rtol=1e-5)
    assert m.clipped_norm < 0.9 * m.grad_norm


def test_rms_and_ratio_divide_by_size_and_weights():
    m = one_step()
    sizes = [sum(np.size(x) for x in layer.values()) for layer in make_params().values()]
    assert m.layout.sizes == tuple(sizes)
    np.testing.assert_allclose(m.layers.grad_rms, m.layers.grad_norm / np.sqrt(sizes), rtol=1e-6)
    np.testing.assert_allclose(m.layers.update_ratio, m.layers.update_norm / m.layers.param_norm, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_says_where_and_updates_nothing(bad):
    batch = make_batch()

    def loss_fn(params, batch, key):
        return mean_loss(params, batch, key) + jnp.float32(bad) * params["dense_1"]["bias"][1]

    m = one_step(loss_fn, optax.adam(0.1), batch=batch)
    assert (m.skipped, m.skips, m.update_norm) == (1, 1, 0)
    assert m.layers.nonfinite.tolist() == [0, 1]
    assert m.layers.update_norm.tolist() == [0, 0]
    # Of an update that is not made nothing is known.
    assert m.layers.param_norm.tolist() == m.layers.zero_fraction.tolist() == [0, 0]


def test_frozen_entries_are_zeros_of_the_gradient():
    def loss_fn(params, batch, key):
        frozen = {**params, "dense_0": jax.lax.stop_gradient(params["dense_0"])}
        return mean_loss(frozen, batch, key)

    assert one_step(loss_fn).layers.zero_fraction.tolist() == [1, 0]
