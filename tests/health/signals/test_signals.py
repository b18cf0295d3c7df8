"""Per-layer signals against NumPy in float64, and Adam's lag against an Adam run by hand."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core import layers
from jaxprop.core.layers import gradient_counts, group_layers, norm
from jaxprop.core.precision import Scaling
from jaxprop.errors import UsageError
from jaxprop.health.signals import adam, rounding
from jaxprop.health.signals.noise import noise
from jaxprop.health.signals.settings import Signals
from tests.steps import make_batch, make_params, mean_loss

RNG = np.random.default_rng(0)
SHAPES = {
    "alike": [(3, 5)] * 3,
    "of several shapes": [(3, 5), (7,), (2, 3, 4), ()],
    "empty": [(0,), (3, 0), (4,)],
    "longer than a line": [(5000,), (4096,), (4097,), (2, 8192), (3, 2049)],
    "too large to stack": [(300, 300), (300, 300), (2, 2)],
}
DTYPES = [np.float32, np.float16, jnp.bfloat16]


def tree_of(shapes, dtype, two_leaves=True):
    """Layers of one or two leaves, with zeros, and NaN and infinities of both signs here and there."""
    tree = {}
    for i, shape in enumerate(shapes):
        x = RNG.normal(size=shape)
        x = np.where(RNG.random(shape) < 0.3, 0, x)
        tree[f"l{i}"] = {"a": np.asarray(x).astype(dtype)}
        if two_leaves and i % 2:
            tree[f"l{i}"]["b"] = np.zeros(3, dtype)
    return tree


def spoiled(tree):
    def spoil(x):
        bad = np.where(RNG.random(x.shape) < 0.5, np.nan, -np.inf)
        return np.where(RNG.random(x.shape) < 0.01, bad, x).astype(x.dtype)

    return jax.tree.map(spoil, tree)


def entries(tree):
    """All entries of each layer, float64."""
    return [np.concatenate([np.asarray(x, np.float64).ravel() for x in layer.values()]) for layer in tree.values()]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("case", SHAPES)
def test_norms_and_counts_of_layers_of_every_shape(case, dtype):
    tree = tree_of(SHAPES[case], dtype)
    groups = group_layers(tree)
    assert groups.sizes == tuple(len(x) for x in entries(tree))
    (squares,) = jax.jit(lambda t: layers.squares(groups, t))(tree)
    np.testing.assert_allclose(squares, [np.sum(x**2) for x in entries(tree)], rtol=1e-5)
    bad = spoiled(tree)
    nonfinite, zeros = jax.jit(lambda t: gradient_counts(groups, t))(bad)
    expected = entries(bad)
    assert nonfinite.tolist() == [np.sum(~np.isfinite(x)) for x in expected]
    shares = [np.mean(x == 0) if len(x) else np.nan for x in expected]
    np.testing.assert_allclose(zeros, shares, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2047, 2048, 2049, 4095, 4096, 4097, 12_288])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1.0])
def test_a_line_of_one_value_is_counted_to_the_last_entry(n, value):
    tree = {"w": np.full((2, n), value, np.float32)}
    nonfinite, zeros = gradient_counts(group_layers(tree), tree)
    assert nonfinite.tolist() == [0 if np.isfinite(value) else 2 * n]
    assert zeros.tolist() == [float(value == 0)]


def test_layers_of_one_shape_are_reduced_together():
    tree = tree_of([(4, 4)] * 20, np.float32, two_leaves=False)
    reductions = [
        e for e in jax.make_jaxpr(lambda t: layers.squares(group_layers(t), t))(tree).eqns if "reduce_sum" in str(e)
    ]
    assert len(reductions) == 1


LONG = {"one": [2**20 + 3], "two": [2**20, 2**21 + 1], "many of many": [3000] * 200, "more than a chunk": [2**19] * 9}


@pytest.mark.parametrize("case", LONG)
def test_a_nan_in_one_layer_stays_out_of_every_other_row(case):
    tree = {f"l{i}": np.ones(n, np.float32) for i, n in enumerate(LONG[case])}
    tree["l0"][-1] = np.nan
    tree["z"] = np.zeros(2, np.float32)
    groups = group_layers(tree)
    (squares,), (nonfinite, zeros) = jax.jit(lambda t: (layers.squares(groups, t), gradient_counts(groups, t)))(tree)
    np.testing.assert_array_equal(squares, [np.nan, *LONG[case][1:], 0])
    np.testing.assert_array_equal(nonfinite, [1] + [0] * len(LONG[case]))
    np.testing.assert_array_equal(zeros, [0] * len(LONG[case]) + [1])
    assert np.isnan(norm(tree))


def test_a_stack_has_a_row_for_each_of_its_layers():
    tree = {"b": {"w": RNG.normal(size=(3, 4, 5)), "s": RNG.normal(size=3)}, "h": {"w": RNG.normal(size=(2, 2))}}
    tree = jax.tree.map(lambda x: np.where(RNG.random(x.shape) < 0.3, 0, x).astype(np.float32), tree)
    groups = group_layers(tree, [3, 3, None])
    assert groups.names == ("b[0]", "b[1]", "b[2]", "h")
    assert groups.sizes == (21, 21, 21, 4)
    rows = [np.append(tree["b"]["w"][i].ravel(), tree["b"]["s"][i]) for i in range(3)] + [tree["h"]["w"].ravel()]
    np.testing.assert_allclose(layers.squares(groups, tree)[0], [np.sum(x**2) for x in rows], rtol=1e-6)
    np.testing.assert_allclose(gradient_counts(groups, tree)[1], [np.mean(x == 0) for x in rows], rtol=1e-6)


def test_a_stack_may_share_its_owner_with_a_leaf_that_is_none():
    tree = {"b": {"scale": np.ones(2, np.float32), "w": np.ones((2, 3), np.float32)}}
    groups = group_layers(tree, [None, 2])
    assert dict(zip(groups.names, groups.sizes, strict=True)) == {"b": 2, "b[0]": 3, "b[1]": 3}
    assert layers.squares(groups, tree)[0].tolist() == [2, 3, 3]


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


# -- Adam -----------------------------------------------------------------------------------------

B2, EPS = 0.99, 1e-8
ADAM = optax.adam(0.01, b2=B2, eps=EPS)
LABELS = {"dense_0": "adam", "dense_1": "sgd"}
CLIP = 0.05
OPTIMIZERS = {  # transformation, norm it clips to, layers that have a second moment
    "adam": (ADAM, None, (True, True)),
    "clipped": (optax.chain(optax.clip_by_global_norm(CLIP), ADAM), CLIP, (True, True)),
    "partition": (
        optax.partition({"adam": ADAM, "sgd": optax.sgd(0.1)}, lambda p: {n: LABELS[n] for n in p}),
        None,
        (True, False),
    ),
    "masked": (optax.masked(ADAM, {"dense_0": {"kernel": True, "bias": True}, "dense_1": False}), None, (True, False)),
    "injected": (optax.inject_hyperparams(optax.adam)(0.01, b2=B2, eps=EPS), None, (True, True)),
    "sgd": (optax.sgd(0.1, momentum=0.9), None, (False, False)),
    "adafactor": (optax.adafactor(0.01), None, (False, False)),
}


def adam_by_hand(grads, eps=EPS):
    """Lags and tiny shares of every step of a gradient's series, float64."""
    nu, found = np.zeros_like(grads[0]), []
    for t, g in enumerate(grads, 1):
        nu = B2 * nu + (1 - B2) * g**2
        v = nu / (1 - B2**t)
        found.append((np.sqrt(np.mean(g**2 / np.maximum(v, eps**2))), np.mean(np.sqrt(v) < 10 * eps)))
    return np.array(found)


def followed(tx, settings, steps=4):
    """Records of a few steps, and the gradient before each, by layer."""
    state = jaxprop.init_state(make_params(), tx, key=jax.random.key(0))
    step = jaxprop.make_train_step(mean_loss, tx, health=settings)
    grad = jax.jit(jax.grad(lambda p, b: mean_loss(p, b, None)))
    records, grads = [], []
    for i in range(steps):
        batch = make_batch(i)
        grads.append(entries(grad(state.params, batch)))
        state, m = step(state, batch, "full")
        records.append(m.host())
    return records, grads


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_adam_lag_is_that_of_an_adam_run_by_hand(case):
    tx, clip, has = OPTIMIZERS[case]
    records, grads = followed(tx, Signals(b2=B2, eps=EPS))
    if clip is not None:
        norms = [np.sqrt(sum(np.sum(x**2) for x in g)) for g in grads]
        assert min(norms) > clip
        grads = [[x * clip / n for x in g] for g, n in zip(grads, norms, strict=True)]
    for layer in range(2):
        found = np.array([[m.layers.adam_lag[layer], m.rare.tiny_second_moment[layer]] for m in records])
        expected = adam_by_hand([g[layer] for g in grads]) if has[layer] else np.full_like(found, np.nan)
        np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_a_large_epsilon_takes_over_and_is_counted():
    eps = 2e-3
    records, grads = followed(optax.adam(0.01, b2=B2, eps=eps), Signals(b2=B2, eps=eps))
    for layer in range(2):
        found = [[m.layers.adam_lag[layer], m.rare.tiny_second_moment[layer]] for m in records]
        expected = adam_by_hand([g[layer] for g in grads], eps)
        np.testing.assert_allclose(found, expected, rtol=2e-4)
        assert 0 < expected[0, 1] < 1


def test_the_lag_of_a_layer_that_is_half_masked_is_of_the_other_half():
    mask = {name: {"kernel": True, "bias": False} for name in LABELS}
    records, _ = followed(optax.masked(ADAM, mask), Signals(b2=B2), steps=1)
    np.testing.assert_allclose(records[0].layers.adam_lag, 1, rtol=1e-3)  # the first step's, whatever the gradient


def test_the_lag_sees_a_gradient_that_jumps():
    tx = optax.adam(1e-3, b2=B2)
    step = jaxprop.make_train_step(lambda p, b, k: jnp.sum(p["w"] * b["x"][0]), tx, health=Signals(b2=B2))
    state = jaxprop.init_state({"w": np.ones(4, np.float32)}, tx, key=jax.random.key(0))
    for size in [1] * 20 + [100]:
        state, m = step(state, {"x": np.full((1, 4), size, np.float32)}, "rows")
    np.testing.assert_allclose(
        m.layers.adam_lag, [adam_by_hand([np.ones(4)] * 20 + [np.full(4, 100)])[-1, 0]], rtol=1e-3
    )
    assert m.layers.adam_lag[0] > 3


class OtherState(NamedTuple):
    count: Any
    mu: Any
    nu: Any


def test_a_second_moment_of_another_shape_is_none():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    state = OtherState(jnp.int32(1), params, {"w": jnp.ones(()), "b": jnp.ones(3)})
    found = adam.moments(state, state, params)
    lags = adam.adam_lag(group_layers(params), found, B2, EPS)
    assert np.isfinite(lags).tolist() == [True, False]  # b, w
    none = state._replace(nu={"w": jnp.ones(()), "b": jnp.ones(())})
    assert adam.moments(none, none, params) is None


# -- the gradient noise scale ---------------------------------------------------------------------

MEAN = np.array([1.0, -0.5, 0.25, 0.0])
DEVIATION = np.array([2.0, 1.0, 0.5, 3.0])


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_the_noise_estimates_are_unbiased(accumulate):
    draws, examples = 20_000, 16
    gradients = MEAN + DEVIATION * np.random.default_rng(7).normal(size=(draws, examples, 4))
    micro = gradients.reshape(draws, accumulate, -1, 4).mean(2)
    batch_square = np.sum(gradients.mean(1) ** 2, -1)
    trace, signal = noise(batch_square, np.sum(micro**2, -1).mean(1), examples, accumulate)
    for found, expected in ((trace, np.sum(DEVIATION**2)), (signal, np.sum(MEAN**2))):
        assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(draws)
        assert found.std() / np.sqrt(draws) < 0.05 * expected


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_steps_noise_is_that_of_its_microbatches(precision):
    x = (MEAN + DEVIATION * np.random.default_rng(8).normal(size=(16, 4))).astype(np.float32)
    tx, options = optax.sgd(0.1), {"precision": precision, "scaling": Scaling(initial=64.0)}
    state = jaxprop.init_state({"w": np.zeros(4, np.float32)}, tx, key=jax.random.key(0), **options)
    step = jaxprop.make_train_step(lambda p, b, k: jnp.mean(b["x"] @ p["w"]), tx, accumulate=4, cast=("x",), **options)
    _, m = step(state, {"x": x}, "full")
    micro = [np.sum(x[k::4].mean(0) ** 2) for k in range(4)]
    expected = noise(np.sum(x.mean(0) ** 2), np.mean(micro), 16, 4)
    np.testing.assert_allclose(
        [m.rare.noise_trace, m.rare.noise_signal], expected, rtol=1e-4 if precision == "float32" else 2e-2
    )


def test_without_microbatches_there_is_no_estimate():
    assert np.isnan(noise(jnp.float32(1), jnp.float32(1), 8, 1)).all()


# -- settings -------------------------------------------------------------------------------------

DUE = {
    (1, 1): "rows", (9, 9): "rows", (10, 10): "full", (11, 11): "rows", (100, 100): "flush",
    (1, 4): "rows", (9, 12): "full", (97, 100): "flush", (101, 104): "rows",
}  # fmt: skip


@pytest.mark.parametrize("steps", DUE, ids=str)
def test_what_a_call_measures_is_decided_by_the_steps_it_takes(steps):
    assert Signals().detail(*steps) == DUE[steps]


def test_lean_steps_lie_between_rows_and_every_call_that_holds_a_multiple_measures():
    sparse = Signals(every=5, rare_every=20)
    assert [i for i in range(1, 41) if sparse.detail(i, i) == "rows"] == [5, 10, 15, 25, 30, 35]
    assert [i for i in range(1, 41) if sparse.detail(i, i) == "full"] == [20, 40]
    assert [sparse.detail(i, i + 2) for i in range(1, 22, 3)] == [
        "lean", "rows", "lean", "rows", "rows", "lean", "full",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("health", "message"),
    [
        (Signals(every=0), "every of at least 1, got 0"),
        (Signals(rare_every=-1), "rare_every of at least 1, got -1"),
        (Signals(flush_every=0), "flush_every of at least 1"),
        (Signals(spikes="stop"), "'clip' or 'skip', got 'stop'"),
    ],
)
def test_settings_that_make_no_sense(health, message):
    with pytest.raises(UsageError, match=message):
        jaxprop.make_train_step(mean_loss, optax.sgd(0.1), health=health)
