"""Batch statistics of Flax models: those of the examples that count, as if the others were not there."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprop
from jaxprop.losses.squared import squared_error

X = np.random.default_rng(0).normal(3, 2, size=(6, 2)).astype(np.float32)
KEPT = np.array([1, 1, 0, 1, 0, 1], bool)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        return nn.Dense(1)(nn.remat(nn.BatchNorm)(use_running_average=not train, momentum=0.5)(nn.Dense(3)(x)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.BatchNorm(2, momentum=0.5, rngs=rngs), nnx.BatchNorm(3, momentum=0.5, rngs=rngs)
        self.dense, self.head = nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(self.dense(self.first(x))))


MODELS = {"linen": lambda: jaxprop.from_linen(Linen()), "nnx": lambda: jaxprop.from_nnx(Nnx)}


def trained(make, batch, detail="rows"):
    model = make()
    step = jaxprop.make_train_step(jaxprop.loss_from(model, squared_error), optax.sgd(0.1))
    params, extras = model.init(jax.random.key(0), batch)
    state = step.init(params, key=jax.random.key(1), extras=extras)
    for _ in range(2):
        state, m = step(state, batch, detail)
    return state.params, state.extras, m.loss


@pytest.mark.parametrize("detail", ["rows", "full"])
@pytest.mark.parametrize("key", ["weight", "mask"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_padding_is_no_part_of_batch_statistics(make, key, detail):
    labels = np.ones((6, 1), np.float32)
    padded = {"inputs": np.where(KEPT[:, None], X, np.nan), "labels": labels, key: KEPT.astype(np.float32)}
    plain = {"inputs": X[KEPT], "labels": labels[KEPT]}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
        trained(make, padded, detail), trained(make, plain),
    )  # fmt: skip


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_batch_of_padding_alone_leaves_statistics_finite(make):
    batch = {"inputs": X, "labels": np.ones((6, 1), np.float32), "weight": np.zeros(6, np.float32)}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained(make, batch)))


def test_a_mask_of_the_users_own_is_kept():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(1)(
                nn.BatchNorm(use_running_average=not train, momentum=0.0)(x, mask=jnp.arange(6)[:, None] < 2)
            )

    batch = {"inputs": X, "labels": np.ones((6, 1), np.float32), "weight": np.ones(6, np.float32)}
    _, extras, _ = trained(lambda: jaxprop.from_linen(Own()), batch)
    np.testing.assert_allclose(extras["batch_stats"]["BatchNorm_0"]["mean"], X[:2].mean(0), rtol=1e-5)
