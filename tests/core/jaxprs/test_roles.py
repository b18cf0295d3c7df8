"""Which axes of parameters a model sums over, whoever has written it and whichever way its kernels lie."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

from jaxprop.core.jaxprs.roles import roles
from jaxprop.core.trees import leaf_paths

X = jnp.ones((2, 5, 8))
TOKENS = jnp.zeros((2, 5), jnp.int32)


def found(function, params, *data):
    jaxpr = jax.make_jaxpr(function)(params, *data)
    paths, axes = leaf_paths(params), roles(jaxpr, len(jax.tree.leaves(params)))
    return {path: (sorted(one.summed), sorted(one.spread)) for path, one in zip(paths, axes, strict=True)}


def of_nnx(module, *data):
    graph, params = nnx.split(module)
    return found(lambda params, *data: nnx.merge(graph, params)(*data), nnx.to_pure_dict(params), *data)


def test_attention_of_nnx_has_heads_among_its_outputs():
    attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
    axes = of_nnx(attention, X)
    assert axes["query/kernel"] == ([0], [1, 2])
    assert axes["out/kernel"] == ([0, 1], [2])
    assert axes["query/bias"] == ([], [0, 1])


def test_kernels_of_equinox_lie_the_other_way():
    model = eqx.nn.Sequential([eqx.nn.Linear(8, 3, key=jax.random.key(0)), eqx.nn.Linear(3, 4, key=jax.random.key(1))])
    params, static = eqx.partition(model, eqx.is_array)
    axes = found(lambda params, x: jax.vmap(eqx.combine(params, static))(x), params, X[0])
    assert list(axes.values()) == [([1], [0]), ([], [0])] * 2


def test_a_convolution_of_equinox_sums_over_channels_and_window():
    conv = eqx.nn.Conv2d(3, 7, 2, key=jax.random.key(0))
    params, static = eqx.partition(conv, eqx.is_array)
    axes = found(lambda params, x: eqx.combine(params, static)(x), params, jnp.ones((3, 4, 4)))
    assert list(axes.values()) == [([1, 2, 3], [0]), ([], [0, 1, 2])]


def test_a_dense_layer_of_linen_over_two_axes():
    module = linen.DenseGeneral((2, 3), axis=(-2, -1))
    variables = module.init(jax.random.key(0), X)
    axes = found(lambda params, x: module.apply({"params": params}, x), variables["params"], X)
    assert axes["kernel"] == ([0, 1], [2, 3])


def test_a_table_is_looked_up_by_its_rows_and_as_a_head_summed_over_its_features():
    def lookup(params, tokens):
        return jnp.take(params["table"], tokens, axis=0)

    def tied(params, tokens):
        return lookup(params, tokens) @ params["table"].T

    params = {"table": jnp.ones((11, 8))}
    assert found(lookup, params, TOKENS) == {"table": ([0], [1])}
    assert found(tied, params, TOKENS) == {"table": ([0, 1], [0, 1])}


def layer(w, x):
    return jnp.tanh(x @ w)


FORMS = {
    "a scan over layers": lambda w, x: jax.lax.scan(lambda x, w: (layer(w, x), None), x, w)[0],
    "remat": lambda w, x: jax.checkpoint(layer)(w[0], x),
    "jit": lambda w, x: jax.jit(layer)(w[0], x),
    "a branch": lambda w, x: jax.lax.cond(x.sum() > 0, lambda: layer(w[0], x), lambda: layer(w[1], x)),
    "a cast and a factor": lambda w, x: layer((0.5 * w[0].astype(jnp.bfloat16)).astype(jnp.float32), x),
    "its own norm": lambda w, x: layer(w[0] / jnp.linalg.norm(w[0], axis=0, keepdims=True), x),
    "a part of it": lambda w, x: x @ jnp.split(w[0], 2, axis=1)[1],
    "an axis that is divided and joined again": lambda w, x: x @ w[0].reshape(8, 2, 4).transpose(0, 2, 1).reshape(8, 8),
    "another kernel beside it": lambda w, x: x @ jnp.concatenate([w[0], w[1]], axis=1),
}


@pytest.mark.parametrize("form", FORMS)
def test_kernels_are_followed(form):
    axes = found(lambda params, x: FORMS[form](params["w"], x), {"w": jnp.ones((2, 8, 8))}, X)["w"]
    assert (1 in axes[0], 2 in axes[1]) == (True, True)
    assert (1 in axes[1], 2 in axes[0]) == (False, False)


def test_a_rule_of_its_own_is_followed():
    @jax.custom_vjp
    def product(w, x):
        return x @ w

    product.defvjp(lambda w, x: (product(w, x), (w, x)), lambda held, g: (held[1].T @ g, g @ held[0].T))
    assert found(lambda params, x: product(params["w"], x), {"w": jnp.ones((8, 3))}, X[0]) == {"w": ([0], [1])}


def test_what_meets_data_entry_by_entry_spreads():
    axes = found(lambda p, x: (x * p["scale"] + p["bias"]).sum() * p["unused"][0], {
        "scale": jnp.ones(8), "bias": jnp.ones(8), "unused": jnp.ones(2),
    }, X)  # fmt: skip
    assert (axes["scale"], axes["bias"]) == (([], [0]), ([], [0]))
