"""Norms of an update, what rounding swallows of it, and gradients that float16 flushes, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core.layers import group_layers
from jaxprop.core.precision import Policy, Scaling
from jaxprop.health.signals import rounding
from tests.steps import make_batch, make_params, mean_loss, one_step

RNG = np.random.default_rng(0)
DTYPES = [np.float32, np.float16, jnp.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_norms_zeros_and_swallowed_updates(dtype):
    params = {"a": {"w": RNG.normal(size=(40, 40)).astype(dtype)}, "b": {"w": np.ones(7, dtype)}}
    params["c"] = {"w": np.ones(2, dtype)}
    updates = jax.tree.map(lambda w: (1e-3 * RNG.normal(size=w.shape)).astype(dtype), params)
    grads = jax.tree.map(lambda w: RNG.normal(size=w.shape).astype(dtype), params)
    updates["a"]["w"][:5] = 0  # no update is not a swallowed one
    grads["a"]["w"][3:9] = 0  # nor is what is left of a momentum
    updates["b"]["w"][:] = np.array([0, 1e-3, 1e-3, 1e-3, 1, 1, 1])
    grads["c"]["w"][:] = 0
    found = jax.jit(lambda *trees: rounding.update_rows(group_layers(trees[0]), *trees))(params, updates, grads)
    expected = {"param_norm": [], "update_norm": [], "zero_fraction": [], "swallowed": []}
    for name in params:
        w, dw, g = params[name]["w"], updates[name]["w"], grads[name]["w"]
        after = (w.astype(np.float32) + dw.astype(np.float32)).astype(dtype)
        moved = (dw != 0) & (g != 0)
        expected["param_norm"].append(np.linalg.norm(after.astype(np.float64).ravel()))
        expected["update_norm"].append(np.linalg.norm(dw.astype(np.float64).ravel()))
        expected["zero_fraction"].append(np.mean(g == 0))
        expected["swallowed"].append(np.sum((after == w) & moved) / max(np.sum(moved), 1))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)
    assert expected["swallowed"][1] == (0.5 if dtype == jnp.bfloat16 else 0)
    assert expected["zero_fraction"][2] == 1


def test_rows_of_complex_parameters():
    params = {"w": np.array([1 + 1j, 2 - 1j, 3], np.complex64)}
    updates = {"w": np.array([1e-9j, 1j, 0], np.complex64)}
    grads = {"w": np.array([1, 1j, 0], np.complex64)}
    rows = rounding.update_rows(group_layers(params), params, updates, grads)
    np.testing.assert_allclose(rows["param_norm"], np.sqrt(2 + 4 + 9), rtol=1e-6)
    np.testing.assert_allclose(rows["update_norm"], 1, rtol=1e-6)
    np.testing.assert_allclose([rows["zero_fraction"], rows["swallowed"]], [[1 / 3], [1 / 2]], rtol=1e-6)


@pytest.mark.parametrize("tx", [optax.adam(3e-3), optax.sgd(0.1, momentum=0.9)], ids=["adam", "momentum"])
def test_the_momentum_of_rows_that_are_not_in_the_batch_is_not_swallowed(tx):
    """Fault: a healthy embedding was told that its updates are too small; 0.9^t of a momentum is meant to fade."""
    ids = [np.random.default_rng(i).integers(0, 4000, (8, 2)).astype(np.int32) for i in range(300)]

    def loss_fn(params, batch, key):
        return jnp.mean((params["embed"]["w"][batch["ids"]].sum((1, 2)) - 1) ** 2)

    step = jaxprop.make_train_step(loss_fn, tx)
    state = step.init({"embed": {"w": RNG.normal(size=(4000, 4)).astype(np.float32)}}, key=jax.random.key(0))
    for i in range(300):
        before = np.asarray(state.params["embed"]["w"])
        state, m = step(state, {"ids": ids[i]}, "full" if i == 299 else "lean")
    touched = np.unique(ids[-1])
    stuck = np.asarray(state.params["embed"]["w"]) == before
    assert np.mean(stuck[np.setdiff1d(np.unique(np.concatenate(ids)), touched)]) > 0.1  # what was counted before
    np.testing.assert_allclose(m.rare.swallowed, [np.mean(stuck[touched])], atol=1e-6)
    np.testing.assert_allclose(m.layers.zero_fraction, [1 - len(touched) / 4000], rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_flushed_share_is_of_the_nonzero_entries(scale):
    grads = {"a": (10.0 ** RNG.uniform(-12, 0, 500)).astype(np.float32), "b": np.zeros(3, np.float32)}
    grads["a"][:100] *= -1
    grads["a"][100:200] = 0
    found = rounding.flushed_rows(group_layers(grads), grads, jnp.float32(scale))
    nonzero = grads["a"][grads["a"] != 0].astype(np.float64)
    np.testing.assert_allclose(found, [np.mean(np.abs(scale * nonzero) < 2.0**-24), 0], rtol=1e-6)
    assert 0.1 < found[0] < 0.9


HALF_PARAMS = Policy(jnp.float16, jnp.float16, jnp.float32)


FLUSHES = {  # precision, initial loss scale, what "flush" measures then
    "float16": ("float16", 2.0**10, True),
    "float16, larger scale": ("float16", 2.0**15, True),
    "float16 parameters": (HALF_PARAMS, 2.0**10, True),
    "float32": ("float32", None, False),
}


@pytest.mark.parametrize("case", FLUSHES)
def test_the_flushed_share_is_taken_in_float32(case):
    precision, scale, measured = FLUSHES[case]
    sizes = (10.0 ** np.linspace(-14, -2, 64)).astype(np.float32)

    def loss_fn(params, batch, key):
        return jnp.sum(params["w"].astype(jnp.float32) * batch["weight"] * 0.125)

    batch = {"weight": sizes}
    options = {"precision": precision} | ({} if scale is None else {"scaling": Scaling(initial=scale)})
    m = one_step(loss_fn, detail="flush", params={"w": np.ones(64, np.float32)}, batch=batch, **options)
    expected = np.mean(sizes * 0.125 * (scale or 1) < 2.0**-24) if measured else np.nan
    np.testing.assert_allclose(m.rare.flushed, [expected], rtol=1e-6)
    assert np.isnan(one_step(loss_fn, params={"w": np.ones(64, np.float32)}, batch=batch, **options).rare.flushed).all()


def test_swallowed_updates_of_the_step_are_those_its_parameters_show():
    policy = Policy(jnp.bfloat16, jnp.bfloat16, jnp.float32)
    step = jaxprop.make_train_step(mean_loss, optax.sgd(3e-3), policy, cast=("inputs",))
    state = step.init(make_params(), key=jax.random.key(0))
    before = jax.tree.map(np.asarray, state.params)
    after, m = step(state, make_batch(), "full")
    for name, share in zip(m.layout.layers, m.rare.swallowed, strict=True):
        unmoved = [np.asarray(after.params[name][n]) == before[name][n] for n in before[name]]
        np.testing.assert_allclose(share, np.mean(np.concatenate([x.ravel() for x in unmoved])), rtol=1e-6)
    assert 0 < m.rare.swallowed[0] < 1
