"""Models as other people write them: five steps give the parameters of a loop written in the framework's own way."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprop
from jaxprop.core.trees import leaf_paths
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.models.adapters.shared import as_dict

eqx = pytest.importorskip("equinox")

STEPS = 5
INIT, RUN = jax.random.key(7), jax.random.key(8)
TX = optax.sgd(0.1, momentum=0.9)
RNG = np.random.default_rng(0)
LABELS = np.arange(8, dtype=np.int32) % 3
FEATURES = RNG.normal(1.0, 2.0, (8, 4)).astype(np.float32)
SEQUENCES = RNG.normal(size=(8, 5, 4)).astype(np.float32)
IMAGES = RNG.normal(size=(8, 4, 4, 2)).astype(np.float32)
TOKENS = RNG.integers(0, 3, (8, 5)).astype(np.int32)


def cross_entropy(logits, labels=LABELS):
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))


# -- the models -----------------------------------------------------------------------------------


class NnxResNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 2, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.head = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.mean(nnx.relu(self.norm(self.conv(x))) + x, (1, 2)))


class NnxTransformer(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 4, dropout_rate=0.3, decode=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, *, deterministic, use_running_average, rngs):
        x = x + self.attention(x, deterministic=deterministic, rngs=rngs)
        x = self.norm(x, use_running_average=use_running_average)
        return self.head(self.dropout(x, deterministic=deterministic, rngs=rngs).mean(1))


class NnxRnn(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(4, 4, rngs=rngs))
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, rngs):
        x = x + 0.1 * jax.random.normal(rngs.noise(), x.shape)
        return self.head(self.rnn(x, rngs=rngs)[:, -1])


class NnxTied(nnx.Module):
    def __init__(self, rngs):
        self.encode = nnx.Embed(3, 4, rngs=rngs)
        self.mix = nnx.Linear(4, 4, rngs=rngs)
        self.decode = self.encode

    def __call__(self, tokens):
        return self.decode.attend(self.mix(self.encode(tokens)).mean(1))


class Average(nnx.Variable):
    pass


class NnxCentered(nnx.Module):
    """A moving average in a variable type of its own."""

    def __init__(self, rngs):
        self.mean = Average(jnp.zeros(4))
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, training):
        if training:
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * x.mean(0)
            self.calls[...] += 1
        return self.head(x - self.mean[...])


class NnxLora(nnx.Module):
    def __init__(self, rngs):
        self.base = nnx.Linear(4, 4, rngs=rngs)
        self.lora = nnx.LoRA(4, 2, 3, b_initializer=nnx.initializers.normal(), rngs=rngs)

    def __call__(self, x):
        return self.lora(nnx.relu(self.base(x)))


class LinenResNet(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        y = nn.Conv(2, (3, 3), use_bias=False)(x)
        y = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(y)
        return nn.Dense(3)(jnp.mean(nn.relu(y) + x, (1, 2)))


class LinenTransformer(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True, use_running_average=True):
        x = x + nn.MultiHeadDotProductAttention(2, dropout_rate=0.3)(x, deterministic=deterministic)
        x = nn.BatchNorm(use_running_average=use_running_average)(x)
        return nn.Dense(3)(nn.Dropout(0.5)(x, deterministic=deterministic).mean(1))


class LinenMixture(nn.Module):
    @nn.compact
    def __call__(self, x):
        gates = nn.softmax(nn.Dense(2)(x))
        self.sow("losses", "balance", jnp.sum(gates.mean(0) ** 2))
        self.sow("losses", "scale", 0.01 * jnp.mean(x**2), reduce_fn=jnp.add, init_fn=lambda: jnp.float32(0))
        experts = jnp.stack([nn.Dense(3)(x), nn.Dense(3)(x)], -1)
        return jnp.einsum("bce,be->bc", experts, gates)


class LinenSpectral(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.SpectralNorm(nn.Dense(3))(x, update_stats=train)


class EquinoxTransformer(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.attention = eqx.nn.MultiheadAttention(2, 4, dropout_p=0.3, key=first)
        self.dropout = eqx.nn.Dropout(0.5)
        self.head = eqx.nn.Linear(4, 3, key=second)

    def __call__(self, x, *, key):  # [T, D]
        first, second = jax.random.split(key)
        x = x + self.attention(x, x, x, key=first)
        return self.head(self.dropout(x, key=second).mean(0))


class EquinoxEnsemble(eqx.Module):
    members: eqx.nn.MLP
    scale: None = None

    def __init__(self, key):
        self.members = eqx.filter_vmap(lambda k: eqx.nn.MLP(4, 3, 5, 1, key=k))(jax.random.split(key, 2))

    def __call__(self, x):
        outputs = eqx.filter_vmap(lambda member, x: member(x), in_axes=(eqx.if_array(0), None))(self.members, x)
        return jnp.mean(outputs, 0)


class EquinoxNormed(eqx.Module):
    """Stateful layers, one whose state depends on the batch and one whose does not, and a mode argument."""

    norm: eqx.nn.BatchNorm
    spectral: eqx.nn.SpectralNorm

    def __init__(self, key):
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")
        self.spectral = eqx.nn.SpectralNorm(eqx.nn.Linear(4, 3, key=key), "weight", key=key)

    def __call__(self, x, state, training):
        x, state = self.norm(x, state)
        x, state = self.spectral(x, state)
        return (2.0 if training else 1.0) * x, state


class EquinoxTied(eqx.Module):
    tied: eqx.nn.Shared

    def __init__(self, key):
        embed, unembed = eqx.nn.Embedding(3, 4, key=key), eqx.nn.Linear(4, 3, use_bias=False, key=key)
        self.tied = eqx.nn.Shared((embed, unembed), where=lambda p: p[1].weight, get=lambda p: p[0].weight)

    def __call__(self, tokens):
        embed, unembed = self.tied()
        return unembed(jax.vmap(embed)(tokens).mean(0))


# -- the loops, as each framework's own guides write them -----------------------------------------


def nnx_loop(factory, inputs, call, wrt=nnx.Param):
    module = factory(nnx.Rngs(INIT))
    module.train()
    optimizer = nnx.Optimizer(module, TX, wrt=wrt)

    @nnx.jit
    def step(module, optimizer, key):
        def loss(module):
            return cross_entropy(call(module, inputs, nnx.Rngs(key)))

        optimizer.update(module, nnx.grad(loss, argnums=nnx.DiffState(0, wrt))(module))

    for i in range(STEPS):
        step(module, optimizer, jax.random.fold_in(RUN, i))
    _, params, _, extras = nnx.split(module, wrt, nnx.RngState, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(extras)


def linen_loop(module, inputs, modes, auxiliary=lambda sown: 0.0, **train):
    variables = module.init({"params": jax.random.split(INIT)[0]}, inputs, **modes)
    params = variables.pop("params")
    variables.pop("losses", None)
    opt_state = TX.init(params)

    @jax.jit
    def step(params, extras, opt_state, key):
        def loss(params):
            logits, new = module.apply(
                {"params": params, **extras}, inputs, **train, rngs={"dropout": key}, mutable=[*extras, "losses"]
            )
            return cross_entropy(logits) + auxiliary(new.pop("losses", {})), new

        grads, extras = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = TX.update(grads, opt_state)
        return optax.apply_updates(params, updates), extras, opt_state

    for i in range(STEPS):
        params, variables, opt_state = step(params, variables, opt_state, jax.random.fold_in(RUN, i))
    return params, variables


def equinox_loop(factory, inputs, call):
    module, state = eqx.nn.make_with_state(factory)(INIT)
    opt_state = TX.init(eqx.filter(module, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(module, state, opt_state, key):
        def loss(module, state):
            keys = jax.random.split(key, len(inputs))
            batched = jax.vmap(call, in_axes=(None, 0, None, 0), out_axes=(0, None), axis_name="batch")
            logits, state = batched(module, inputs, state, keys)
            return cross_entropy(logits), state

        grads, state = eqx.filter_grad(loss, has_aux=True)(module, state)
        updates, opt_state = TX.update(grads, opt_state)
        return eqx.apply_updates(module, updates), state, opt_state

    for i in range(STEPS):
        module, state, opt_state = step(module, state, opt_state, jax.random.fold_in(RUN, i))
    weights = eqx.filter(module, eqx.is_inexact_array)
    return as_dict(weights, weights), {"state": jax.tree.leaves(state)} if jax.tree.leaves(state) else {}


# -- the table ------------------------------------------------------------------------------------


class Case(NamedTuple):
    inputs: np.ndarray
    model: Callable[[], jaxprop.types.Model]
    by_hand: Callable[[], tuple[Any, Any]]  # -> (params, extras) after the steps
    loss: Callable[..., Any] = softmax_cross_entropy


def nnx_case(factory, inputs, call=lambda module, x, rngs: module(x), **options):
    wrt = {name: value for name, value in options.items() if name == "wrt"}
    return Case(inputs, lambda: jaxprop.from_nnx(factory, **options), lambda: nnx_loop(factory, inputs, call, **wrt))


def equinox_case(factory, inputs, call=lambda module, x, state, key: (module(x), state)):
    return Case(inputs, lambda: jaxprop.from_equinox(factory), lambda: equinox_loop(factory, inputs, call))


def linen_case(module, inputs, evaluate, **train):
    return Case(inputs, lambda: jaxprop.from_linen(module), lambda: linen_loop(module, inputs, evaluate, **train))


def balanced(outputs, batch):
    per_example, weight = softmax_cross_entropy(outputs.value, batch)
    return per_example + sum(jax.tree.leaves(outputs.collections["losses"])), weight


CASES = {
    "nnx resnet": nnx_case(NnxResNet, IMAGES),
    "nnx transformer": nnx_case(
        NnxTransformer,
        SEQUENCES,
        lambda module, x, rngs: module(x, deterministic=False, use_running_average=False, rngs=rngs),
    ),
    "nnx rnn": nnx_case(NnxRnn, SEQUENCES, lambda module, x, rngs: module(x, rngs)),
    "nnx tied embedding": nnx_case(NnxTied, TOKENS),
    "nnx moving average": nnx_case(NnxCentered, FEATURES, lambda module, x, rngs: module(x, training=True)),
    "nnx lora": nnx_case(NnxLora, FEATURES, wrt=nnx.LoRAParam),
    "linen resnet": linen_case(LinenResNet(), IMAGES, {"train": False}, train=True),
    "linen resnet, axis": Case(
        IMAGES,
        lambda: jaxprop.from_linen(LinenResNet("devices"), axis_name="devices"),
        lambda: linen_loop(LinenResNet(), IMAGES, {"train": False}, train=True),
    ),
    "linen transformer": linen_case(LinenTransformer(), SEQUENCES, {}, deterministic=False, use_running_average=False),
    "linen mixture": Case(
        FEATURES,
        lambda: jaxprop.from_linen(LinenMixture(), collections=("losses",)),
        lambda: linen_loop(LinenMixture(), FEATURES, {}, lambda sown: sum(jax.tree.leaves(sown))),
        balanced,
    ),
    "linen spectral norm": linen_case(LinenSpectral(), FEATURES, {"train": False}, train=True),
    "equinox transformer": equinox_case(
        EquinoxTransformer, SEQUENCES, lambda module, x, state, key: (module(x, key=key), state)
    ),
    "equinox ensemble": equinox_case(EquinoxEnsemble, FEATURES),
    "equinox norms": equinox_case(
        EquinoxNormed, FEATURES, lambda module, x, state, key: module(x, state, training=True)
    ),
    "equinox tied embedding": equinox_case(EquinoxTied, TOKENS),
}


@pytest.mark.parametrize("name", list(CASES))
def test_five_steps_are_those_of_a_loop_by_hand(name):
    case = CASES[name]
    model = case.model()
    batch = {"inputs": case.inputs, "labels": LABELS}
    params, extras = model.init(INIT, batch)
    start = jax.tree.map(np.asarray, params)
    step = jaxprop.make_train_step(jaxprop.loss_from(model, case.loss), TX, health=False)
    state = jaxprop.init_state(params, TX, key=RUN, extras=extras, health=False)
    for _ in range(STEPS):
        state, _ = step(state, batch)
    with jax.numpy_dtype_promotion("standard"):
        expected, expected_extras = case.by_hand()
    assert_close(state.params, expected)
    assert_close(state.extras, expected_extras)
    still = [
        path
        for path, a, b in zip(leaf_paths(start), jax.tree.leaves(start), jax.tree.leaves(expected), strict=True)
        if np.array_equal(a, b)
    ]
    assert still == []


def assert_close(ours, theirs):
    assert leaf_paths(ours) == leaf_paths(theirs)
    for path, a, b in zip(leaf_paths(ours), jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6, err_msg=path)
