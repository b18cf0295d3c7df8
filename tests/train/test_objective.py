"""A model bound to a loss: dtypes, extras, and aggregation by weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.schema.model import Mlp
from jaxprop.core.precision import policy
from jaxprop.errors import ShapeError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.metrics.accuracy import accuracy
from jaxprop.models import build as build_model
from jaxprop.models import from_functions
from jaxprop.train.objective import loss_from
from jaxprop.types import Spec
from tests.losses.cases import CLASSES, LOGITS, RNG, log_softmax, softmax_reference


def linear(outputs_dtypes):
    def apply(params, extras, batch, *, key, train):
        outputs = batch["inputs"] @ params["w"]
        outputs_dtypes.append((batch["inputs"].dtype, outputs.dtype, train))
        return outputs, {"seen": extras["seen"] + (1 if train else 0)}

    return from_functions(lambda key, batch: ({"w": jnp.ones((3, 3))}, {"seen": jnp.float32(0)}), apply)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_an_objective_casts_by_policy_and_keeps_extras(precision):
    seen = []
    objective = loss_from(linear(seen), softmax_cross_entropy, {"accuracy": accuracy})
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES}
    dtypes = policy(precision)
    params, extras = {"w": jnp.eye(3)}, {"seen": jnp.float32(0)}
    loss, (weight, new, sums) = objective.mean_loss(params, extras, batch, jax.random.key(0), dtypes)
    assert seen == [(dtypes.compute, dtypes.compute, True)]
    assert loss.dtype == weight.dtype == new["seen"].dtype == jnp.float32
    assert (weight, new["seen"], sums["accuracy"][1]) == (4, 1, 4)
    expected = softmax_reference(LOGITS, CLASSES) @ CLASSES["weight"] / 4
    np.testing.assert_allclose(loss, expected, rtol=1e-6 if precision == "float32" else 2e-2)
    evaluated = objective.sums(params, extras, batch, dtypes)
    np.testing.assert_allclose(evaluated["loss"][0] / evaluated["loss"][1], loss, rtol=1e-6)
    assert seen[-1][2] is False
    assert evaluated["accuracy"] == sums["accuracy"]


def test_a_batch_of_padding_has_loss_and_gradient_zero():
    objective = loss_from(linear([]), softmax_cross_entropy)
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES, "weight": np.zeros(4, np.float32)}

    def loss(params):
        return objective.mean_loss(params, {"seen": jnp.float32(0)}, batch, jax.random.key(0), policy("float32"))[0]

    value, grads = jax.value_and_grad(loss)({"w": jnp.eye(3)})
    assert value == 0
    np.testing.assert_array_equal(grads["w"], np.zeros((3, 3)))


def test_unequal_masks_aggregate_by_their_weights():
    objective = loss_from(linear([]), softmax_cross_entropy)
    batch = {"inputs": RNG.normal(size=(4, 2, 3)).astype(np.float32), "labels": RNG.integers(0, 3, (4, 2))}
    batch |= {
        "labels": batch["labels"].astype(np.int32),
        "mask": np.array([[1, 1], [1, 1], [1, 0], [0, 0]], np.float32),
    }

    def mean_loss(rows):
        part = {name: x[rows] for name, x in batch.items()}
        out = objective.mean_loss(
            {"w": jnp.eye(3)}, {"seen": jnp.float32(0)}, part, jax.random.key(0), policy("float32")
        )
        return float(out[0]), float(out[1][0])

    (first, w1), (second, w2), (whole, w) = (mean_loss(slice(*rows)) for rows in ((0, 2), (2, 4), (0, 4)))
    assert (w1, w2, w) == (4, 1, 5)
    assert whole == pytest.approx((4 * first + second) / 5, rel=1e-6)
    assert whole != pytest.approx((first + second) / 2, rel=1e-3)


@pytest.mark.parametrize("returned", [lambda o: jnp.sum(o), lambda o: (o[:, 0], jnp.float32(1)), lambda o: (o, o)])
def test_a_loss_that_returns_something_else(returned):
    objective = loss_from(linear([]), lambda outputs, batch: returned(outputs))
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES}
    with pytest.raises(
        ShapeError, match=r"expected the loss to return \(per_example \[B\], weight \[B\]\), got shapes"
    ):
        objective.sums({"w": jnp.eye(3)}, {"seen": jnp.float32(0)}, batch, policy("float32"))


def test_two_layers_against_the_backward_pass_by_hand(x64):
    spec = Spec(jax.ShapeDtypeStruct((3,), jnp.float32), 4)
    model = build_model(Mlp(name="mlp", hidden=(5,), activation="tanh"), spec)
    rng = np.random.default_rng(2)
    w1, b1, w2, b2 = (rng.normal(size=s) for s in ((3, 5), (5,), (5, 4), (4,)))
    params = {"layers": {0: {"dense": {"kernel": w1, "bias": b1}}}, "head": {"kernel": w2, "bias": b2}}
    batch = {
        "inputs": rng.normal(size=(6, 3)),
        "labels": rng.integers(0, 4, 6),
        "weight": np.array([1, 1, 0, 2, 1, 1.0]),
    }

    h = np.tanh(batch["inputs"] @ w1 + b1)  # [B, 5]
    logits = h @ w2 + b2  # [B, 4]
    share = batch["weight"][:, None] / batch["weight"].sum()
    d_logits = share * (np.exp(log_softmax(logits)) - np.eye(4)[batch["labels"]])
    d_hidden = (d_logits @ w2.T) * (1 - h**2)
    by_hand = {
        "layers": {0: {"dense": {"kernel": batch["inputs"].T @ d_hidden, "bias": d_hidden.sum(0)}}},
        "head": {"kernel": h.T @ d_logits, "bias": d_logits.sum(0)},
    }

    mean_loss = loss_from(model, softmax_cross_entropy).mean_loss
    loss, grads = jax.jit(
        jax.value_and_grad(lambda p: mean_loss(p, {}, batch, jax.random.key(0), policy("float64"))[0])
    )(jax.tree.map(jnp.asarray, params))
    np.testing.assert_allclose(loss, (share[:, 0] * softmax_reference(logits, batch)).sum(), rtol=1e-12)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-14), grads, by_hand)
