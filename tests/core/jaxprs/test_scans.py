"""Layers that a scan stacks: found through what lies between parameters and scan, and measured row by row."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprop
from jaxprop.core.jaxprs.scans import uses
from jaxprop.core.precision import policy
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.losses.squared import squared_error
from jaxprop.train.objective import loss_from

W, B = jnp.ones((3, 4)), jnp.ones(4)


def scanned(w, b, **options):
    return jnp.sum(jax.lax.scan(lambda c, w: (jnp.tanh(c * w + b), None), jnp.ones(4), w, **options)[0])


def nested(w, b):
    """A scan over time inside which another runs over the layers, which are constants of the outer one."""
    return jax.lax.scan(lambda c, x: (c + scanned(w, b) * x, None), 0.0, jnp.ones(5))[0]


def custom(w, b):
    f = jax.custom_vjp(scanned)
    f.defvjp(lambda w, b: (scanned(w, b), (w, b)), lambda r, g: r)
    return f(w, b)


def barrier(w, b):
    w, b = jax.lax.optimization_barrier((w, b))
    return scanned(w, b)


FUNCTIONS = {
    "plain": (scanned, [3, None]),
    "reversed": (lambda w, b: scanned(w, b, reverse=True), [3, None]),
    "unrolled": (lambda w, b: scanned(w, b, unroll=3), [3, None]),
    "jit": (jax.jit(scanned), [3, None]),
    "remat": (jax.checkpoint(scanned), [3, None]),
    "jit in remat in jit": (jax.jit(jax.checkpoint(jax.jit(scanned))), [3, None]),
    "cast": (lambda w, b: scanned(w.astype(jnp.bfloat16).astype(jnp.float32), b), [3, None]),
    "cast in jit": (jax.jit(lambda w, b: scanned(w.astype(jnp.float16).astype(jnp.float32), b)), [3, None]),
    "cast in jit before": (
        lambda w, b: scanned(jax.jit(lambda x: x.astype(jnp.float16))(w).astype(jnp.float32), b),
        [3, None],
    ),
    "barrier": (barrier, [3, None]),
    "custom vjp": (custom, [3, None]),
    "vmap": (lambda w, b: jnp.sum(jax.vmap(lambda s: scanned(w, b * s))(jnp.ones(2))), [3, None]),
    "in a scan over time": (nested, [3, None]),
    "both": (lambda w, b: jax.lax.scan(lambda c, x: (c + jnp.sum(x[0]) * x[1], None), 0.0, (w, b[:3]))[0], [3, None]),
    "used outside as well": (lambda w, b: scanned(w, b) + jnp.sum(w**2), [3, None]),
    "a carry": (lambda w, b: jnp.sum(jax.lax.scan(lambda c, _: (c * 2, None), w, None, 3)[0] * b), [None, None]),
    "a constant": (lambda w, b: jax.lax.scan(lambda c, x: (c + jnp.sum(w * x), None), 0.0, b)[0], [None, 4]),
    "transposed": (lambda w, b: scanned(w.T, jnp.sum(b)) if w.shape == (4, 4) else jnp.sum(w.T), [None, None]),
    "squared": (lambda w, b: scanned(w**2, b), [None, None]),
    "unused": (lambda w, b: jnp.float32(1), [None, None]),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_arguments_are_followed_to_the_scan_that_takes_them_apart(case):
    function, expected = FUNCTIONS[case]
    assert [use.rows for use in uses(jax.make_jaxpr(function)(W, B), 2)] == expected


def test_only_the_first_arguments_are_looked_at():
    assert [use.rows for use in uses(jax.make_jaxpr(lambda b, w: scanned(w, b))(B, W), 1)] == [None]


@jax.custom_vjp
def passed(x):
    """The identity, as a tap is."""
    return jax.jit(lambda x: x)(x)


passed.defvjp(lambda x: (x, None), lambda _, g: (g,))


def places(function, *arguments):
    """Arguments by the order of their first use."""
    found = uses(jax.make_jaxpr(function)(*arguments), len(arguments))
    used = sorted((use.at, i) for i, use in enumerate(found) if use.at is not None)
    return [i for _, i in used]


ORDERS = {
    "straight": (lambda a, b, c: jnp.sum((c * 2.0) @ b.T + a), [2, 1, 0]),
    "through a cast": (lambda a, b, c: jnp.sum(a * (c.astype(jnp.float16).astype(jnp.float32) * b)), [2, 0]),
    "in jit": (jax.jit(lambda a, b, c: jnp.sum(jnp.sin(b)) + jnp.sum(jnp.cos(a))), [1, 0]),
    "in a function called twice": (lambda a, b, c: sum(map(jax.jit(jnp.sum), (b, c, a))), [1, 2, 0]),
    "in remat": (jax.checkpoint(lambda a, b, c: jnp.sum(jnp.sin(c)) + jnp.sum(jnp.cos(b))), [2, 1]),
    "through a function that returns it": (lambda a, b, c: jnp.sum(passed(c) * 2) + jnp.sum(passed(b)), [2, 1]),
    "unused": (lambda a, b, c: jnp.float32(0), []),
}  # fmt: skip


@pytest.mark.parametrize("case", ORDERS)
def test_first_uses_are_in_the_order_of_the_computation(case):
    function, expected = ORDERS[case]
    found = places(function, *[jnp.ones((3, 3))] * 3)
    # What one equation takes together has one place.
    assert [i for i in found if i in expected] == expected


def test_what_a_scan_takes_apart_is_ordered_inside_its_turn():
    def turn(x, layer):
        first, second = layer
        return jnp.tanh(x * second) * first, None

    def function(a, b, c):
        return jnp.sum(jax.lax.scan(turn, c * 2.0, (a, b))[0])

    a, b, c = uses(jax.make_jaxpr(function)(jnp.ones((3, 4)), jnp.ones((3, 4)), jnp.ones(4)), 3)
    assert (a.rows, b.rows, c.rows) == (3, 3, None)
    assert c.at < a.at == b.at
    assert b.inside < a.inside


# -- frameworks -----------------------------------------------------------------------------------

BATCH = {
    "inputs": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32),
    "labels": np.arange(8, dtype=np.int32) % 2,
}


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(4)(x)), None


class LinenStack(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        block = nn.remat(LinenBlock) if self.remat else LinenBlock
        stack = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(2, name="head")(stack(name="blocks")(x, None)[0])


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.dense(x))


class NnxStack(nnx.Module):
    def __init__(self, rngs, remat=False):
        self.remat = remat

        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stack(rngs):
            return NnxBlock(rngs)

        self.blocks = stack(rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        def turn(block, x):
            return block(x)

        over = nnx.scan(nnx.remat(turn) if self.remat else turn, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return self.head(over(self.blocks, x))


def plain_init(key, batch):
    blocks = jax.random.normal(key, (3, 4, 4)) / 2
    return {
        "blocks": {"dense": {"kernel": blocks, "bias": jnp.zeros((3, 4))}},
        "head": {"kernel": jnp.ones((4, 2))},
    }, {}


def plain_apply(params, extras, batch, *, key, train):
    def turn(x, layer):
        return jnp.tanh(x @ layer["kernel"] + layer["bias"]), None

    x, _ = jax.lax.scan(jax.checkpoint(turn), batch["inputs"], params["blocks"]["dense"])
    return x @ params["head"]["kernel"], extras


MODELS = {
    "linen": lambda: jaxprop.from_linen(LinenStack()),
    "linen remat": lambda: jaxprop.from_linen(LinenStack(remat=True)),
    "nnx": lambda: jaxprop.from_nnx(NnxStack),
    "nnx remat": lambda: jaxprop.from_nnx(lambda rngs: NnxStack(rngs, remat=True)),
    "functions": lambda: jaxprop.from_functions(plain_init, plain_apply),
}


STEPS = [(name, "float32", 1) for name in MODELS] + [("linen", "bfloat16", 2), ("functions", "bfloat16", 2)]


@pytest.mark.parametrize(("name", "precision", "accumulate"), STEPS)
def test_a_stack_of_layers_has_a_row_for_each(name, precision, accumulate):
    model = MODELS[name]()
    params, extras = model.init(jax.random.key(0), BATCH)
    objective, tx = loss_from(model, softmax_cross_entropy), optax.sgd(0.0)
    state = jaxprop.init_state(params, tx, key=jax.random.key(0), extras=extras)
    step = jaxprop.make_train_step(objective, tx, precision, accumulate)
    _, m = step(state, BATCH, "rows")

    def loss(params):
        return objective.mean_loss(params, extras, BATCH, jax.random.key(0), policy("float32"))[0]

    grads, owner = jax.jit(jax.grad(loss))(params), next(n for n in m.layout.layers if n.startswith("blocks"))[:-3]
    stack = grads["blocks"][owner.split("/")[1]]
    expected = {"head": np.sqrt(sum(np.sum(x**2) for x in grads["head"].values()))}
    for i in range(3):
        expected[f"{owner}[{i}]"] = np.sqrt(sum(np.sum(x[i] ** 2) for x in stack.values()))
    assert set(m.layout.layers) == set(expected)
    assert m.layout.sizes[m.layout.layers.index(f"{owner}[1]")] == 20
    found = dict(zip(m.layout.layers, m.layers.grad_norm, strict=True))
    for layer, norm in expected.items():
        np.testing.assert_allclose(found[layer], norm, rtol=1e-5 if precision == "float32" else 5e-2)


class Forecaster(nn.Module):
    """Its LSTM has sub-modules that return their parameters, which are then tapped."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.RNN(nn.OptimizedLSTMCell(4))(x)[:, -1])


def test_records_with_and_without_taps_have_the_same_order():
    batch = {"inputs": jnp.ones((2, 5, 1)), "labels": jnp.ones((2, 1))}
    model = jaxprop.from_linen(Forecaster())
    params, extras = model.init(jax.random.key(0), batch)
    step = jaxprop.make_train_step(loss_from(model, squared_error), optax.sgd(0.1))
    state = step.init(params, key=jax.random.key(0), extras=extras)
    orders = []
    for detail in ("rows", "full"):
        state, m = step(state, batch, detail)
        orders.append(m.layout.layers)
    assert orders[0] == orders[1] == step.layer_names
    assert orders[0][-1] == "Dense_0"
