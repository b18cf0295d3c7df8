"""Equinox: keys of the examples, modes, states, and taps on every sub-module."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core import taps
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import JaxpropError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.models.adapters.equinox import from_equinox
from jaxprop.models.adapters.tapping import tapped_equinox

eqx = pytest.importorskip("equinox")

BATCH = {
    "inputs": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32),
    "labels": np.arange(8, dtype=np.int32) % 2,
}
KEY = jax.random.key(3)


def applied(model, train=True, key=KEY):
    params, extras = model.init(jax.random.key(0), BATCH)
    return model.apply(params, extras, BATCH, key=key, train=train)


class Drawing(eqx.Module):
    needs_key: bool = eqx.field(static=True)

    def __call__(self, x, *, key):
        return jax.random.uniform(key)


class Drawn(eqx.Module):
    def __call__(self, x, key=None):
        return jnp.float32(-1) if key is None else jax.random.uniform(key)


def test_every_example_has_a_key_of_its_own():
    outputs, _ = applied(from_equinox(Drawing(True)))
    keys = jax.random.split(KEY, 8)
    np.testing.assert_array_equal(outputs, jax.vmap(jax.random.uniform)(keys))
    assert len(set(outputs.tolist())) == 8


def test_evaluation_without_a_key():
    model = from_equinox(Drawing(True))
    np.testing.assert_array_equal(applied(model, False, None)[0], applied(model, False, None)[0])
    np.testing.assert_array_equal(applied(from_equinox(Drawn()), False, None)[0], np.full(8, -1))


class Modes(eqx.Module):
    dropout: eqx.nn.Dropout

    def __call__(self, x, state, key, training, inference):
        assert training is not inference
        return self.dropout(x, key=key) * (2.0 if training else 1.0), state


def test_every_mode_argument_is_set_and_a_state_passed_by_name():
    model = from_equinox(Modes(eqx.nn.Dropout(0.5)))
    trained, _ = applied(model)
    dropped = trained == 0
    assert 0 < np.count_nonzero(dropped) < dropped.size
    np.testing.assert_allclose(trained, np.where(dropped, 0, 4 * BATCH["inputs"]), rtol=1e-6)
    np.testing.assert_array_equal(applied(model, train=False)[0], BATCH["inputs"])


def test_a_layer_of_equinox_itself_as_the_model():
    assert np.count_nonzero(applied(from_equinox(eqx.nn.Dropout(0.5)))[0] == 0) > 0
    np.testing.assert_array_equal(applied(from_equinox(eqx.nn.Dropout(0.5)), train=False)[0], BATCH["inputs"])


class Remembering(eqx.Module):
    seen: eqx.nn.StateIndex

    def __init__(self, key):
        self.seen = eqx.nn.StateIndex(jnp.zeros(4))

    def __call__(self, x, state):
        return x, state.set(self.seen, x)


def test_a_state_that_differs_between_examples_is_refused():
    with pytest.raises(JaxpropError, match=r"state differs .* jax.lax.pmean\(x, 'batch'\)"):
        applied(from_equinox(Remembering))


class ByKeyword(eqx.Module):
    linear: eqx.nn.Linear

    def __init__(self, *, key):
        self.linear = eqx.nn.Linear(4, 2, key=key)

    def __call__(self, x):
        return self.linear(x)


def test_a_class_that_takes_its_key_by_keyword_is_a_factory():
    params, _ = from_equinox(ByKeyword).init(KEY, BATCH)
    np.testing.assert_array_equal(params["linear"]["weight"], ByKeyword(key=KEY).linear.weight)


class Kinds(eqx.Module):
    linear: eqx.nn.Linear
    index: jax.Array
    phase: jax.Array
    key: jax.Array

    def __init__(self, key):
        self.linear = eqx.nn.Linear(4, 2, use_bias=False, key=key)
        self.index, self.phase, self.key = jnp.arange(2), jnp.ones(2, jnp.complex64), key

    def __call__(self, x):
        return self.linear(x)


def test_leaves_of_all_kinds():
    params, extras = from_equinox(Kinds).init(jax.random.key(0), BATCH)
    assert leaf_paths(params) == ["linear/weight", "phase"]
    assert leaf_paths(extras) == ["buffers/index", "buffers/key"]
    outputs, kept = applied(from_equinox(Kinds))
    np.testing.assert_allclose(outputs, BATCH["inputs"] @ params["linear"]["weight"].T, rtol=1e-5)
    assert jax.tree.structure(kept) == jax.tree.structure(extras)


# -- taps -----------------------------------------------------------------------------------------


class Inner(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, x):
        return self.linear(x)  # handed on as it is: no tap of its own


class Net(eqx.Module):
    """A list of modules, a scan over stacked ones, a state, and a shared embedding of weights."""

    blocks: list
    stacked: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    head: eqx.nn.Linear
    activation: object = eqx.field(static=True)

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.blocks = [Inner(eqx.nn.Linear(4, 3, key=keys[0])), {"last": eqx.nn.Linear(3, 3, key=keys[1])}]
        self.stacked = eqx.filter_vmap(lambda key: eqx.nn.Linear(3, 3, key=key))(jax.random.split(keys[2], 2))
        self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")
        self.head = eqx.nn.Linear(3, 2, key=keys[3])
        self.activation = eqx.nn.Lambda(jnp.tanh)

    def __call__(self, x, state):
        x = self.activation(self.blocks[1]["last"](self.blocks[0](x)))
        arrays, static = eqx.partition(self.stacked, eqx.is_array)
        x, _ = jax.lax.scan(lambda x, layer: (eqx.combine(layer, static)(x), None), x, arrays)
        x, state = self.norm(x, state)
        return 2 * self.head(x), state


NAMES = ["blocks/0/linear", "blocks/1/last", "stacked", "norm", "head", "output"]


def full_step(taps=True, **options):
    model = from_equinox(Net, taps=taps)
    params, extras = model.init(jax.random.key(0), BATCH)
    state = jaxprop.init_state(params, optax.sgd(0.0), key=KEY, extras=extras)
    step = jaxprop.make_train_step(jaxprop.loss_from(model, softmax_cross_entropy), optax.sgd(0.0), **options)
    return params, step(state, BATCH, "full")[1].host()


def by_hand(params, zeros):
    values = {}

    def at(x, name):
        values.setdefault(name, []).append(x + zeros.get(name, 0))
        return values[name][-1]

    def dense(layer, x, name):
        return at(x @ layer["weight"].T + layer["bias"], name)

    x = dense(params["blocks"][0]["linear"], BATCH["inputs"], "blocks/0/linear")
    x = jnp.tanh(dense(params["blocks"][1]["last"], x, "blocks/1/last"))
    weights, biases = params["stacked"]["weight"], params["stacked"]["bias"]
    for weight, bias in zip(weights, biases, strict=True):
        x = dense({"weight": weight, "bias": bias}, x, "stacked")
    x = at((x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * params["norm"]["weight"] + params["norm"]["bias"], "norm")
    outputs = at(2 * dense(params["head"], x, "head"), "output")
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(outputs, BATCH["labels"])
    return jnp.mean(losses), values


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_sub_module_is_tapped_by_its_path(accumulate):
    params, m = full_step(accumulate=accumulate)
    assert [name for name, _ in m.layout.taps] == NAMES
    assert dict(m.layout.taps)["output"] == "output"
    if accumulate == 2:  # statistics of the norm are then those of a half
        return
    zeros = {name: jnp.zeros((8, 2 if name in ("head", "output") else 3)) for name in NAMES if name != "stacked"}
    grads, values = jax.grad(lambda zeros: by_hand(params, zeros), has_aux=True)(zeros)
    for i, name in enumerate(NAMES):
        used = np.stack(values[name])
        np.testing.assert_allclose(m.taps.rms[i], np.sqrt(np.mean(used**2)), rtol=1e-4, err_msg=name)
        largest = np.mean(np.max(np.abs(used), -1))  # each example is a call of its own
        np.testing.assert_allclose(m.taps.abs_max[i], largest, rtol=1e-4, err_msg=name)
    for name, grad in grads.items():
        rms = np.sqrt(np.mean(np.square(grad)))
        np.testing.assert_allclose(m.taps.grad_rms[NAMES.index(name)], rms, rtol=1e-3, atol=1e-7, err_msg=name)


def test_taps_change_nothing_and_can_be_left_out():
    _, tapped = full_step()
    _, plain = full_step(taps=False)
    assert plain.layout.taps == ()
    np.testing.assert_allclose(tapped.loss, plain.loss, rtol=1e-6)
    np.testing.assert_allclose(tapped.layers.grad_norm, plain.layers.grad_norm, rtol=1e-4, atol=1e-7)


def test_tapped_modules_are_copies_of_subclasses():
    module, _ = eqx.nn.make_with_state(Net)(KEY)
    with tapped_equinox(module) as same:
        assert same is module

    def apply(x):
        with tapped_equinox(module) as tapped:
            assert isinstance(tapped, Net)
            assert isinstance(tapped.blocks[1]["last"], eqx.nn.Linear)
            assert type(tapped.head) is not eqx.nn.Linear
            assert tapped.activation is module.activation
            return tapped.head(x)

    assert [tap.name for tap in taps.find(apply, jnp.ones(3))[0]] == ["head"]
    assert type(module) is Net
    assert type(module.head) is eqx.nn.Linear


class Tied(eqx.Module):
    tied: eqx.nn.Shared

    def __init__(self, key):
        pair = eqx.nn.Linear(4, 4, key=key), eqx.nn.Linear(4, 4, key=key)
        self.tied = eqx.nn.Shared(pair, where=lambda p: p[1].weight, get=lambda p: p[0].weight)

    def __call__(self, x):
        first, second = self.tied()
        return second(first(x))


def test_modules_that_a_call_returns_are_not_tapped():
    model = from_equinox(Tied)
    params, extras = model.init(KEY, BATCH)
    found, _ = taps.find(lambda p: model.apply(p, extras, BATCH, key=KEY, train=True)[0], params)
    assert [tap.name for tap in found] == ["tied/pytree/0", "tied/pytree/1"]
