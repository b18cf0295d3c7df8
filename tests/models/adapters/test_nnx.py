"""NNX: random streams of a call, modes, variables that appear, and axes that layers reduce over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.core.trees import leaf_paths
from jaxprop.errors import JaxpropError, ShapeError
from jaxprop.models.adapters.nnx import from_nnx

BATCH = {"inputs": np.random.default_rng(0).normal(5.0, 3.0, (8, 4)).astype(np.float32)}
KEY = jax.random.key(3)


def trained(model, key=KEY, batch=BATCH):
    params, extras = model.init(jax.random.key(0), batch)
    return model.apply(params, extras, batch, key=key, train=True)


class Drawing(nnx.Module):
    """Returns one number of each of two streams, after some draws from the first."""

    def __init__(self, rngs, draws=1):
        self.draws = draws

    def __call__(self, x, rngs):
        first = [rngs.dropout() for _ in range(self.draws)]
        return jnp.stack([jax.random.uniform(first[-1]), jax.random.uniform(rngs.noise())])


def test_a_call_draws_as_nnx_rngs_of_the_steps_key():
    ours = trained(from_nnx(Drawing))[0]
    assert_same(ours, Drawing(None)(None, nnx.Rngs(KEY)))
    assert np.all(ours != trained(from_nnx(Drawing), jax.random.key(4))[0])


def test_a_named_stream_does_not_depend_on_the_draws_of_another():
    names = ("dropout", "noise")
    one, two = (trained(from_nnx(lambda rngs, n=n: Drawing(rngs, n), rngs=names))[0] for n in (1, 2))
    assert one[0] != two[0]
    assert one[1] == two[1]
    one, two = (trained(from_nnx(lambda rngs, n=n: Drawing(rngs, n)))[0] for n in (1, 2))
    assert one[1] != two[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda module, batch, rngs: module(batch["inputs"], rngs),
        lambda module, batch, *, train, rngs: module(batch["inputs"], rngs) if train else 0,
    ],
)
def test_a_call_of_ones_own_receives_streams_and_mode_by_name(call):
    assert_same(trained(from_nnx(Drawing, call))[0], trained(from_nnx(Drawing))[0])


def test_evaluation_needs_no_key_and_training_does():
    model = from_nnx(Drawing)
    first, again = (model.apply({}, {}, BATCH, key=None, train=False)[0] for _ in range(2))
    assert_same(first, again)
    with pytest.raises(JaxpropError, match="draws random numbers in training"):
        model.apply({}, {}, BATCH, key=None, train=True)


class Both(nnx.Module):
    """Streams of its own, and streams of the call."""

    def __init__(self, rngs):
        self.own, self.given = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5)

    def __call__(self, x, rngs):
        return jnp.stack([self.own(x), self.given(x, rngs=rngs)])


def test_streams_of_the_module_and_of_the_call_are_apart():
    outputs, _ = trained(from_nnx(Both), batch={"inputs": jnp.ones((8, 4))})
    given = nnx.Dropout(0.5)(jnp.ones((8, 4)), rngs=nnx.Rngs(KEY))
    assert_same(outputs[1], given)
    assert np.any(outputs[0] != outputs[1])


class Modes(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.dropout = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5)

    def __call__(self, x, deterministic=True, use_running_average=True, rngs=None):
        x = self.norm(x, use_running_average=use_running_average)
        return self.dropout(x, deterministic=deterministic, rngs=rngs)


def test_both_of_two_mode_arguments_are_set():
    model = from_nnx(Modes)
    outputs, extras = trained(model)
    np.testing.assert_allclose(extras["norm"]["mean"], 0.01 * BATCH["inputs"].mean(0), rtol=1e-5)
    assert 0 < np.count_nonzero(outputs == 0) < outputs.size
    evaluated, kept = model.apply(*model.init(KEY, BATCH), BATCH, key=KEY, train=False)
    assert np.all(evaluated != 0)
    assert_same(kept["norm"]["mean"], np.zeros(4))


class Kinds(nnx.Module):
    """Parameters that are shared, empty, integer or complex; keys and counts among the other variables."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
        self.again = self.linear
        self.index = nnx.Param(jnp.arange(2))
        self.phase = nnx.Param(jnp.ones(2, jnp.complex64))
        self.nothing = nnx.Param(None)
        self.key = nnx.Variable(jax.random.key(1))
        self.calls = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] += 1
        return self.again(self.linear(x))


def test_leaves_of_all_kinds():
    model = from_nnx(Kinds)
    params, extras = jax.jit(model.init)(jax.random.key(0), BATCH)
    assert leaf_paths(params) == ["again/kernel", "index", "phase"]
    assert [x.dtype for x in jax.tree.leaves(params)] == [jnp.float32, jnp.int32, jnp.complex64]
    outputs, new = jax.jit(lambda e: model.apply(params, e, BATCH, key=KEY, train=True))(extras)
    kernel = params["again"]["kernel"]
    np.testing.assert_allclose(outputs, BATCH["inputs"] @ kernel @ kernel, rtol=1e-5)
    assert new["calls"] == 1
    assert jax.tree.structure(new) == jax.tree.structure(extras)


class ByKeyword(nnx.Module):
    def __init__(self, width=2, *, rngs):
        self.linear = nnx.Linear(4, width, rngs=rngs)

    def __call__(self, x):
        return self.linear(x)


class Inheriting(ByKeyword):
    pass


@pytest.mark.parametrize("factory", [ByKeyword, Inheriting, functools.partial(ByKeyword, 2)])
def test_a_class_that_takes_its_streams_by_keyword_is_a_factory(factory):
    params, _ = from_nnx(factory).init(jax.random.key(0), BATCH)
    assert_same(params["linear"]["kernel"], ByKeyword(rngs=nnx.Rngs(jax.random.key(0))).linear.kernel[...])


class Growing(nnx.Module):
    def __init__(self, rngs):
        del rngs

    def __call__(self, x):
        self.seen = nnx.Variable(x.mean())
        return x


class Synchronized(nnx.Module):
    def __init__(self, rngs, axis_name="devices"):
        self.norm = nnx.BatchNorm(4, axis_name=axis_name, rngs=rngs)

    def __call__(self, x):
        return self.norm(x)


def test_an_axis_name_makes_statistics_of_the_whole_batch():
    plain, _ = trained(from_nnx(lambda rngs: Synchronized(rngs, None)))
    outputs, _ = trained(from_nnx(Synchronized, axis_name="devices"))
    np.testing.assert_allclose(outputs, plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: trained(from_nnx(Growing)), ShapeError, r"got \['seen'\]; create every variable in __init__"),
        (lambda: trained(from_nnx(Synchronized)), JaxpropError, r"'devices', which .*from_nnx\(\.\.\., axis_name="),
        (lambda: from_nnx(Drawing, lambda m, b, key: 0), JaxpropError, r"got the arguments \['m', 'b', 'key'\]"),
        (lambda: from_nnx(Drawing, rngs="noise"), JaxpropError, r"write rngs=\('noise',\)"),
        (lambda: from_nnx(Drawing, 3), JaxpropError, "expected call to be .* got int"),
    ],
)
def test_misuse_gets_one_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()


def assert_same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
