"""The same network through every adapter: dropout, batch statistics, gradients, dtypes, errors."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprop
from jaxprop.errors import JaxpropError, MissingExtraError, ShapeError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.models.adapters.equinox import from_equinox
from jaxprop.models.adapters.functions import from_functions
from jaxprop.models.adapters.linen import from_linen
from jaxprop.models.adapters.nnx import from_nnx

eqx = pytest.importorskip("equinox")

BATCH = {
    "inputs": np.random.default_rng(0).normal(1.0, 2.0, (8, 4)).astype(np.float32),
    "labels": np.arange(8, dtype=np.int32) % 3,
}


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 6, use_bias=False, rngs=rngs)])
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(self.dropout(self.norm(x)))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(6, use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3)(x)


class EquinoxNet(eqx.Module):
    layer: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear
    count: jax.Array

    def __init__(self, key, mode="ema"):
        first, second = jax.random.split(key)
        self.layer = eqx.nn.Linear(4, 6, use_bias=False, key=first)
        self.norm = eqx.nn.BatchNorm(6, axis_name="batch", mode=mode)
        self.dropout = eqx.nn.Dropout(0.5)
        self.head = eqx.nn.Linear(6, 3, key=second)
        self.count = jnp.arange(3)

    def __call__(self, x, state, *, key):
        x, state = self.norm(self.layer(x), state)
        return self.head(self.dropout(x, key=key)), state


def functions_init(key, batch):
    params = {"w": jax.random.normal(key, (4, 3))}
    return params, {"mean": jnp.zeros(4)}


def functions_apply(params, extras, batch, *, key, train):
    mean = 0.9 * extras["mean"] + 0.1 * batch["inputs"].mean(0) if train else extras["mean"]
    x = batch["inputs"] - mean.astype(batch["inputs"].dtype)
    if train:
        x = jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, jnp.zeros_like(x))
    return x @ params["w"], {"mean": mean}


MODELS = {
    "functions": lambda: from_functions(functions_init, functions_apply),
    "nnx": lambda: from_nnx(NnxNet),
    "nnx_call": lambda: from_nnx(NnxNet, lambda module, batch: module(batch["inputs"])),
    "linen": lambda: from_linen(LinenNet()),
    "linen_call": lambda: from_linen(LinenNet(), lambda module, batch, train: module(batch["inputs"], train=train)),
    "equinox": lambda: from_equinox(EquinoxNet),
    "equinox_with_state": lambda: from_equinox(eqx.nn.make_with_state(EquinoxNet)),
    "equinox_instance": lambda: from_equinox(EquinoxNet(jax.random.key(0))),
}
FRAMEWORKS = ["functions", "nnx", "linen", "equinox"]


def started(name):
    model = MODELS[name]()
    return model, *jax.jit(model.init)(jax.random.key(0), BATCH)


@pytest.mark.parametrize("name", list(MODELS))
def test_key_mode_statistics_and_one_compile(name):
    model, params, extras = started(name)
    traced = {True: 0, False: 0}

    def applied(train):
        def apply(extras, key):
            traced[train] += 1
            return model.apply(params, extras, BATCH, key=key, train=train)

        return jax.jit(apply)

    train, evaluate = applied(True), applied(False)

    outputs, moved = train(extras, jax.random.key(1))
    assert_same(outputs, train(extras, jax.random.key(1))[0])
    assert jnp.any(outputs != train(extras, jax.random.key(2))[0])
    assert jax.tree.structure(moved) == jax.tree.structure(extras)
    assert any(jnp.any(a != b) for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(extras), strict=True))
    train(moved, jax.random.key(3))

    before, kept = evaluate(extras, jax.random.key(1))
    assert_same(before, evaluate(extras, jax.random.key(2))[0])
    jax.tree.map(assert_same, kept, extras)
    assert jnp.any(before != evaluate(moved, jax.random.key(1))[0]), "evaluation must use the statistics"
    assert traced == {True: 1, False: 1}


@pytest.mark.parametrize("name", list(MODELS))
def test_evaluation_needs_no_key(name):
    model, params, extras = started(name)
    outputs, _ = model.apply(params, extras, BATCH, key=None, train=False)
    assert outputs.shape == (8, 3)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_train_step_reaches_every_parameter_and_compiles_once(name, compilations):
    model, params, extras = started(name)
    assert isinstance(params, dict)
    step = jaxprop.make_train_step(jaxprop.loss_from(model, softmax_cross_entropy), optax.sgd(0.1))
    state = jaxprop.init_state(params, optax.sgd(0.1), key=jax.random.key(0), extras=extras)
    state, measurements = step(state, BATCH)
    compiled = compilations()
    for _ in range(2):
        state, measurements = step(state, BATCH)
    assert compilations() == compiled
    assert np.all(np.asarray(measurements.layers.grad_norm) > 0)
    assert all(jnp.any(a != b) for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True))


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_extras_keep_their_dtype_under_mixed_precision(monkeypatch, name):
    # Equinox's BatchNorm computes in bfloat16 in this mode only
    monkeypatch.setitem(MODELS, "equinox", lambda: from_equinox(lambda key: EquinoxNet(key, mode="batch")))
    model, params, extras = started(name)
    half = jaxprop.loss_from(model, softmax_cross_entropy)
    # the frameworks' own layers mix bfloat16 and float32
    with jax.numpy_dtype_promotion("standard"):
        step = jaxprop.make_train_step(half, optax.sgd(0.1), precision="bfloat16")
        state = jaxprop.init_state(params, optax.sgd(0.1), key=jax.random.key(0), extras=extras, precision="bfloat16")
        after, measurements = step(state, BATCH)
    assert jnp.isfinite(measurements.loss)
    assert [x.dtype for x in jax.tree.leaves(after.extras)] == [x.dtype for x in jax.tree.leaves(extras)]


def test_nnx_matches_the_module_itself():
    model, params, extras = started("nnx")
    module = NnxNet(nnx.Rngs(jax.random.key(0)))
    module.eval()
    outputs, _ = model.apply(params, extras, BATCH, key=None, train=False)
    np.testing.assert_allclose(outputs, module(BATCH["inputs"]), rtol=1e-6)


@pytest.mark.parametrize("argument", ["train", "training", "is_training", "deterministic", "use_running_average"])
def test_linen_mode_argument(argument):
    def call(self, x, **mode):
        return x * (2.0 if mode[argument] else 1.0)

    source = f"def __call__(self, x, {argument}): return call(self, x, {argument}={argument})"
    space = {"call": call}
    exec(source, space)
    model = from_linen(type("Net", (nn.Module,), {"__call__": space["__call__"]})())
    train, evaluate = (model.apply({}, {}, BATCH, key=None, train=train)[0] for train in (True, False))
    factors = (2, 1) if "train" in argument else (1, 2)
    assert_same(train, factors[0] * BATCH["inputs"])
    assert_same(evaluate, factors[1] * BATCH["inputs"])


def test_equinox_instance_survives_donation_of_its_arrays():
    module = eqx.nn.MLP(4, 3, 5, 1, key=jax.random.key(0))
    model = from_equinox(module)
    params, extras = model.init(jax.random.key(0), BATCH)
    assert extras == {}
    jax.jit(lambda params: jax.tree.map(jnp.negative, params), donate_argnums=0)(params)
    again, _ = model.init(jax.random.key(0), BATCH)
    assert_same(again["layers"][0]["weight"], module.layers[0].weight)


def test_equinox_keeps_integer_arrays_out_of_the_params():
    _, params, extras = started("equinox")
    assert_same(extras["buffers"]["count"], np.arange(3))
    assert "count" not in params


def test_equinox_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(MissingExtraError, match=r"pip install equinox"):
        from_equinox(lambda key: None)


def apply_with(outputs_and_extras):
    model = from_functions(lambda key, batch: ({}, {"n": jnp.zeros(2)}), lambda *_, key, train: outputs_and_extras)
    return model.apply({}, {"n": jnp.zeros(2)}, BATCH, key=None, train=False)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: from_functions(1, functions_apply), JaxpropError, "expected init to be .* got int"),
        (lambda: from_functions(functions_init, None), JaxpropError, "expected apply to be .* got NoneType"),
        (
            lambda: from_functions(lambda key, batch: {}, functions_apply).init(None, BATCH),
            JaxpropError,
            r"expected init to return \(params, extras\), got dict; write: return params, {}",
        ),
        (lambda: apply_with(jnp.zeros(2)), JaxpropError, r"expected apply to return \(outputs, extras\)"),
        (lambda: apply_with((0, {})), ShapeError, r"extras with the leaves \['n'\], got \[\]"),
        (lambda: apply_with((0, {"n": jnp.zeros(3)})), ShapeError, r"extras 'n' at \(2,\), got \(3,\)"),
        (lambda: from_nnx(3), JaxpropError, "expected factory to be rngs -> nnx.Module, got int"),
        (lambda: from_nnx(NnxNet(nnx.Rngs(0))), JaxpropError, r"write from_nnx\(lambda rngs: NnxNet"),
        (lambda: from_nnx(lambda rngs: 3), JaxpropError, "return an nnx.Module, got int"),
        (lambda: from_linen(LinenNet), JaxpropError, "got the class LinenNet"),
        (lambda: from_linen(3), JaxpropError, "expected a flax.linen.Module instance, got int"),
        (lambda: from_equinox(3), JaxpropError, "got int"),
        (lambda: from_equinox(lambda key: key), JaxpropError, "return an equinox.Module, got"),
    ],
)
def test_misuse_gets_one_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_training_without_a_key():
    model, params, extras = started("nnx")
    with pytest.raises(JaxpropError, match="draws random numbers in training"):
        model.apply(params, extras, BATCH, key=None, train=True)


def test_a_batch_without_inputs():
    model, params, extras = started("nnx")
    with pytest.raises(JaxpropError, match=r"expected batch\['inputs'\], got the keys \['x'\]"):
        model.apply(params, extras, {"x": BATCH["inputs"]}, key=None, train=False)


def assert_same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


class Shifted(nnx.Module):
    def __init__(self, rngs, wrap):
        self.dense = nnx.Linear(3, 2, rngs=rngs)
        self.table = wrap(jnp.arange(2, dtype=jnp.float32))

    def __call__(self, x):
        return self.dense(x) + self.table[...]


def test_nnx_module_with_a_plain_array():
    with pytest.raises(JaxpropError, match=r"plain arrays, table.*nnx.Variable"):
        jaxprop.from_nnx(lambda rngs: Shifted(rngs, lambda x: x))
    model = jaxprop.from_nnx(lambda rngs: Shifted(rngs, nnx.Variable))
    batch = {"inputs": jnp.zeros((4, 3))}
    params, extras = jax.jit(model.init)(jax.random.key(0), batch)
    outputs, _ = model.apply(params, extras, batch, key=jax.random.key(1), train=True)
    np.testing.assert_array_equal(outputs, np.tile([0, 1], (4, 1)))


def test_linen_streams_besides_dropout():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x) + jax.random.normal(self.make_rng("noise"), (2,))

    model = jaxprop.from_linen(Noisy(), rngs=("dropout", "noise"))
    batch = {"inputs": jnp.zeros((4, 3))}
    params, extras = model.init(jax.random.key(0), batch)
    first, again, other = (
        model.apply(params, extras, batch, key=jax.random.key(seed), train=True)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
