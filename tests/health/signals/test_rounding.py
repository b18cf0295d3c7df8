"""Updates that rounding swallows and gradients that float16 flushes, against NumPy."""

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
def test_swallowed_updates(dtype):
    params = {"a": {"w": RNG.normal(size=(40, 40)).astype(dtype)}, "b": {"w": np.ones(7, dtype)}}
    updates = jax.tree.map(lambda w: (1e-3 * RNG.normal(size=w.shape)).astype(dtype), params)
    updates["a"]["w"][:5] = 0  # no update is not a swallowed one
    updates["b"]["w"][:] = np.array([0, 1e-3, 1e-3, 1e-3, 1, 1, 1])
    found = jax.jit(lambda p, u: rounding.swallowed_rows(group_layers(p), p, u))(params, updates)
    expected = []
    for name in params:
        w, dw = params[name]["w"], updates[name]["w"]
        expected.append(np.mean(((w.astype(np.float32) + dw.astype(np.float32)).astype(dtype) == w) & (dw != 0)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert expected[1] == (3 / 7 if dtype == jnp.bfloat16 else 0)


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
    tx = optax.sgd(3e-3)
    state = jaxprop.init_state(make_params(), tx, key=jax.random.key(0), precision=policy)
    before = jax.tree.map(np.asarray, state.params)
    after, m = jaxprop.make_train_step(mean_loss, tx, policy, cast=("inputs",))(state, make_batch(), "full")
    for name, share in zip(m.layout.layers, m.rare.swallowed, strict=True):
        unmoved = [np.asarray(after.params[name][n]) == before[name][n] for n in before[name]]
        np.testing.assert_allclose(share, np.mean(np.concatenate([x.ravel() for x in unmoved])), rtol=1e-6)
    assert 0 < m.rare.swallowed[0] < 1
