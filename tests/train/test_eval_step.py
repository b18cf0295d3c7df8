"""The eval step: sums that add up exactly, in any precision and on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.errors import JaxpropError, UsageError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.metrics.accuracy import accuracy
from jaxprop.train.objective import loss_from
from tests.steps import MASKS, make_batch, make_params, masked_loss, mean_loss


def test_it_adds_up_exactly_over_a_masked_batch():
    evaluate = jaxprop.make_eval_step(masked_loss)
    batch = make_batch(weight=MASKS["unequal"])
    total, count = evaluate(make_params(), {}, batch)["loss"]
    kept = {n: x[batch["weight"] > 0] for n, x in batch.items()}
    np.testing.assert_allclose((total / count, count), (masked_loss(make_params(), kept, None)[0], 7), rtol=1e-6)


@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-6), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_a_plain_function_counts_its_examples_in_any_precision(precision, rtol):
    seen = set()

    def loss_fn(params, batch, key):
        seen.update({str(params["dense_0"]["kernel"].dtype), str(batch["inputs"].dtype), str(key)})
        return mean_loss(params, batch, key)

    total, count = jaxprop.make_eval_step(loss_fn, precision, cast=("inputs",))(make_params(), {}, make_batch())["loss"]
    assert seen == {precision, "None"}
    np.testing.assert_allclose(total / 16, mean_loss(make_params(), make_batch(), None), rtol=rtol)
    assert count == 16


def test_eight_devices_are_one():
    batch = make_batch(size=32, weight=np.arange(32) % 5 != 0)
    one = jaxprop.make_eval_step(masked_loss)(make_params(), {}, batch)
    eight = jaxprop.make_eval_step(masked_loss, mesh=jaxprop.make_mesh(8))(make_params(), {}, batch)
    np.testing.assert_allclose(eight["loss"], one["loss"], rtol=1e-6)
    assert len(eight["loss"][0].sharding.device_set) == 8


UNEVEN = r"a batch of 30 cannot be divided over the 8 devices .*; use 32, .* or mesh=jaxprop.make_mesh\(2\)"


def test_a_batch_that_the_devices_do_not_divide_is_told_with_the_size_to_use():
    evaluate = jaxprop.make_eval_step(mean_loss, mesh=jaxprop.make_mesh(8))
    with pytest.raises(JaxpropError, match=UNEVEN):
        evaluate(make_params(), {}, make_batch(size=30))


def test_a_model_is_applied_for_evaluation_without_a_key_and_reports_no_signal_of_the_step():
    seen = []

    def apply(params, extras, batch, *, key, train):
        seen.append((key, train))
        return jaxprop.tap(batch["inputs"] @ params["w"], "logits", "output") + extras["shift"], extras

    model = jaxprop.from_functions(lambda key, batch: ({}, {}), apply)
    evaluate = jaxprop.make_eval_step(loss_from(model, softmax_cross_entropy, {"accuracy": accuracy}))
    params = {"w": np.eye(5, 3, dtype=np.float32)}
    extras = {"shift": np.array([0, 0, 1e6], np.float32)}
    sums = evaluate(params, extras, make_batch())
    assert set(sums) == {"loss", "accuracy"}
    assert seen == [(None, False)]
    assert int(sums["accuracy"][0]) == np.sum(make_batch()["labels"] == 2)


def test_it_compiles_once(compilations):
    evaluate = jaxprop.make_eval_step(mean_loss)
    counts = []
    for i in range(3):
        evaluate(jax.tree.map(jnp.asarray, make_params(i)), {}, make_batch(i))
        counts.append(compilations())
    assert counts == [counts[0]] * 3


def mean(params, batch, key):
    return params["w"] * jnp.mean(batch["x"]), {"half": 0.5 * jnp.mean(batch["x"])}


def test_a_smaller_last_batch_counts_for_less():
    batches = [{"x": jnp.zeros(6)}, {"x": jnp.full(2, 8.0)}]
    evaluate = jaxprop.make_eval_step(mean)
    assert evaluate.finish(evaluate(W, {}, batch) for batch in batches) == {"loss": 2.0, "half": 1.0}


@pytest.mark.parametrize("batch", [{"x": jnp.ones(()), "y": jnp.ones(3)}, {"x": jnp.ones(2), "y": jnp.ones(3)}])
def test_a_batch_whose_arrays_share_no_axis_counts_once(batch):
    total, count = jaxprop.make_eval_step(mean)(W, {}, batch)["loss"]
    assert (float(total), float(count)) == (1, 1)


W = {"w": jnp.ones(())}


def test_a_loss_that_needs_a_key_is_told_and_another_mistake_is_its_own():
    def noisy(params, batch, key):
        return jnp.mean(batch["x"] + jax.random.normal(key, (3,)))

    with pytest.raises(UsageError, match=r"calls loss_fn with key=None.*if key is not None"):
        jaxprop.make_eval_step(noisy)(W, {}, {"x": jnp.ones(3)})
    with pytest.raises(KeyError, match="'x'"):
        jaxprop.make_eval_step(noisy)(W, {}, {"y": jnp.ones(3)})


def test_parameters_that_a_later_step_has_taken_are_told():
    step = jaxprop.make_train_step(mean, optax.sgd(0.1))
    state = step.init(W, key=jax.random.key(0))
    held, batch = step.eval_params(state), {"x": jnp.ones(3)}
    step(state, batch)
    with pytest.raises(UsageError, match="evaluate with those of the state that the call returned"):
        jaxprop.make_eval_step(mean)(held, {}, batch)


def test_a_batch_that_the_devices_cannot_share_is_told():
    evaluate = jaxprop.make_eval_step(mean, mesh=jaxprop.make_mesh(4))
    with pytest.raises(UsageError, match="a batch of 6 cannot be divided over the 4 devices of the mesh"):
        evaluate(W, {}, {"x": jnp.ones(6)})
