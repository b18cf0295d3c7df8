"""Taps that adapters put on every sub-module: their names, their gradients, and that they leave no trace."""

import contextlib
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprop
from jaxprop.core import taps
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.models.adapters.tapping import tapped_linen, tapped_nnx
from jaxprop.train.objective import loss_from

BATCH = {
    "inputs": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32),
    "labels": np.arange(8, dtype=np.int32) % 2,
}


class LinenInner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x)  # handed on as it is: no tap of its own


class LinenTwo(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="left")(x), nn.Dense(3, name="right")(x)


class LinenNet(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(4, name="shared")
        x = nn.tanh(dense(dense(x)))
        x = (nn.remat(LinenInner) if self.remat else LinenInner)(name="inner")(x)
        left, right = LinenTwo(name="two")(x)
        return nn.Dense(2, name="head")(left * right) * 2


class NnxInner(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.dense(x)


class NnxTwo(nnx.Module):
    def __init__(self, rngs):
        self.left, self.right = nnx.Linear(4, 3, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.left(x), self.right(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.shared, self.inner, self.two = nnx.Linear(4, 4, rngs=rngs), NnxInner(rngs), NnxTwo(rngs)
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        x = self.inner(jnp.tanh(self.shared(self.shared(x))))
        left, right = self.two(x)
        return self.head(left * right) * 2


MODELS = {
    "linen": lambda **options: jaxprop.from_linen(LinenNet(), **options),
    "linen remat": lambda **options: jaxprop.from_linen(LinenNet(remat=True), **options),
    "nnx": lambda **options: jaxprop.from_nnx(NnxNet, **options),
}
INNER = {"linen": "inner/Dense_0", "linen remat": "inner/Dense_0", "nnx": "inner/dense"}


@functools.cache
def full_step(name, taps=True, **options):
    model = MODELS[name](taps=taps)
    params, extras = model.init(jax.random.key(0), BATCH)
    tx = optax.sgd(0.0)
    state = jaxprop.init_state(params, tx, key=jax.random.key(0), extras=extras)
    step = jaxprop.make_train_step(loss_from(model, softmax_cross_entropy), tx, **options)
    return params, step(state, BATCH, "full")[1].host()


def by_hand(params, inner, zeros):
    """The network, from its parameters, with an added zero after each sub-module; and its values there."""
    values = {}

    def at(x, name):
        x = x + zeros.get(name, 0)
        values.setdefault(name, []).append(x)
        return x

    def dense(x, name, path=None):
        node = params
        for part in (path or name).split("/"):
            node = node[part]
        return at(x @ node["kernel"] + node["bias"], name)

    x = jnp.tanh(dense(dense(jnp.asarray(BATCH["inputs"]), "shared"), "shared"))
    x = dense(x, inner)
    left, right = dense(x, "two/left"), dense(x, "two/right")
    outputs = at(dense(left * right, "head") * 2, "output")
    loss = jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(outputs, BATCH["labels"]))
    return loss, values


@pytest.mark.parametrize(("name", "accumulate"), [*((name, 1) for name in MODELS), ("nnx", 2)])
def test_every_sub_module_is_tapped_by_its_path(name, accumulate):
    params, m = full_step(name, accumulate=accumulate)
    inner = INNER[name]
    found = dict(zip((label for label, _ in m.layout.taps), range(len(m.layout.taps)), strict=True))
    # What `two` returns comes out of its last sub-module but one: a pair that no single module returned before.
    names = ["shared", inner, "two/left", "two/right", "two/0", "two/1", "head", "output"]
    assert list(found) == names
    assert dict(m.layout.taps) == {label: "output" if label == "output" else "" for label in names}
    zeros = {label: jnp.zeros((8, width)) for label, width in ((inner, 4), ("two/left", 3), ("head", 2))}
    zeros["output"] = jnp.zeros((8, 2))
    grads, values = jax.grad(lambda z: by_hand(params, inner, z), has_aux=True)(zeros)
    for label, used in values.items():
        rms = np.sqrt(np.mean(np.concatenate(used) ** 2))
        np.testing.assert_allclose(m.taps.rms[found[label]], rms, rtol=1e-5, err_msg=label)
    for label, grad in grads.items():
        rms = np.sqrt(np.mean(np.square(grad)))
        np.testing.assert_allclose(m.taps.grad_rms[found[label]], rms, rtol=1e-4, err_msg=label)


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_taps_change_nothing_and_can_be_left_out(name):
    _, tapped = full_step(name, accumulate=1)
    _, plain = full_step(name, taps=False)
    assert plain.layout.taps == ()
    np.testing.assert_allclose(tapped.loss, plain.loss, rtol=1e-6)
    np.testing.assert_allclose(tapped.layers.grad_norm, plain.layers.grad_norm, rtol=1e-5)


@pytest.mark.parametrize("name", ["linen"])
def test_half_precision_is_tapped_in_half(name):
    _, m = full_step(name, precision="bfloat16")
    _, exact = full_step(name, accumulate=1)
    assert m.layout.taps == exact.layout.taps
    np.testing.assert_allclose(m.taps.rms, exact.taps.rms, rtol=2e-2)


class Failing(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        raise ZeroDivisionError


@pytest.mark.parametrize("fails", [False, True])
def test_an_nnx_module_is_of_its_own_class_again_afterwards(fails):
    seen = []

    def parts(module):
        return {path: (type(part), set(vars(part))) for path, part in nnx.iter_modules(module)}

    def apply(x):
        module = (Failing if fails else NnxNet)(nnx.Rngs(0))
        before = parts(module)
        try:
            with tapped_nnx(module):
                seen.append((type(module), Failing if fails else NnxNet))
                return module(x)
        finally:
            seen.append((before, parts(module)))

    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        assert taps.find(apply, jnp.ones((1, 4)))[0]
    (inside, original), (before, after) = seen
    assert issubclass(inside, original)
    assert inside is not original
    assert before == after


def test_outside_a_measuring_step_nothing_is_touched():
    module = NnxNet(nnx.Rngs(0))
    with tapped_nnx(module), tapped_linen():
        assert type(module) is NnxNet
        assert type(module.head) is nnx.Linear


def test_other_methods_of_a_linen_module_are_not_tapped():
    class Net(nn.Module):
        def setup(self):
            self.dense = nn.Dense(3)

        def encode(self, x):
            return self.dense(x) + 1

        def __call__(self, x):
            return self.encode(x) * 2

    model = jaxprop.from_linen(Net(), lambda module, batch, train: module.encode(batch["inputs"]))
    params, extras = model.init(jax.random.key(0), BATCH)
    found, _ = taps.find(lambda p: model.apply(p, extras, BATCH, key=None, train=True)[0], params)
    assert [tap.name for tap in found] == ["dense"]
