"""The eval step: sums that add up exactly, in any precision and on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprop
from jaxprop.errors import JaxpropError
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
def test_a_plain_function_counts_once_a_batch_in_any_precision(precision, rtol):
    seen = set()

    def loss_fn(params, batch, key):
        seen.update({str(params["dense_0"]["kernel"].dtype), str(batch["inputs"].dtype), str(key)})
        return mean_loss(params, batch, key)

    total, count = jaxprop.make_eval_step(loss_fn, precision, cast=("inputs",))(make_params(), {}, make_batch())["loss"]
    assert seen == {precision, "None"}
    np.testing.assert_allclose(total, mean_loss(make_params(), make_batch(), None), rtol=rtol)
    assert count == 1


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
