"""Functions of weights that are not made: their values and gradients against those of the sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core.jaxprs.lowrank import LowRank, call_with
from jaxprop.core.jaxprs.walk import equations

SCALE = 0.5


def weight(shape, cut=1, rank=2, seed=0, dtype=jnp.float32):
    w, a, b = (jax.random.normal(key, dims, dtype) for key, dims in zip(
        jax.random.split(jax.random.key(seed), 3), (shape, (*shape[:cut], rank), (rank, *shape[cut:])), strict=True
    ))  # fmt: skip
    return LowRank(w, a, b, SCALE, lambda base: base)


def x_of(*shape):
    return jax.random.normal(jax.random.key(9), shape)


def heads(w):
    return jax.lax.dot_general(x_of(5, 6), w, (((1,), (0,)), ((), ())))


def conv(w):
    return jax.lax.conv_general_dilated(x_of(2, 7, 7, 3), w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv_first(w):
    return jax.lax.conv_general_dilated(x_of(2, 3, 7, 7), w, (2, 1), "SAME", dimension_numbers=("NCHW", "HWIO", "NCHW"))


def recurrent(w):
    return jax.lax.scan(lambda h, x: (jnp.tanh(h @ w + x), h), jnp.zeros((3, 4)), x_of(5, 3, 4))


# What is called, the weight, and whether its sum is never made.
CASES = {
    "product": (lambda w: x_of(5, 6) @ w, weight((6, 4)), True),
    "product of a stack": (lambda w: x_of(2, 5, 6) @ w, weight((6, 4)), True),
    "weight at the left": (lambda w: w @ x_of(4, 5), weight((6, 4)), True),
    "weight [out, in] over examples": (lambda w: jax.vmap(lambda x: w @ x)(x_of(5, 4)), weight((6, 4)), True),
    "transposed": (lambda w: x_of(5, 4) @ w.T, weight((6, 4)), True),
    "einsum": (lambda w: jnp.einsum("bti,io->bto", x_of(2, 5, 6), w), weight((6, 4)), True),
    "heads": (heads, weight((6, 2, 3)), True),
    "from heads": (lambda w: jnp.einsum("bhd,hdo->bo", x_of(5, 2, 3), w), weight((2, 3, 6), cut=2), True),
    "a part of the inputs": (lambda w: jnp.einsum("bh,hdo->bdo", x_of(5, 2), w), weight((2, 3, 6), cut=2), False),
    "jit": (lambda w: jax.jit(lambda w: jnp.tanh(x_of(5, 6) @ w))(w), weight((6, 4)), True),
    "remat": (lambda w: jax.checkpoint(lambda w: jnp.tanh(x_of(5, 6) @ w))(w), weight((6, 4)), True),
    "scan": (recurrent, weight((4, 4)), True),
    "scanned over": (lambda w: jax.lax.scan(lambda h, w: (h @ w, None), x_of(3, 4), w)[0], weight((2, 4, 4)), False),
    "convolution": (conv, weight((3, 3, 3, 8), cut=3), True),
    "convolution, features first": (conv_first, weight((3, 3, 3, 8), cut=3), True),
    "lookup": (lambda w: w[jnp.array([1, 1, 3])], weight((6, 4)), False),
    "twice": (lambda w: x_of(5, 6) @ w @ w.T, weight((6, 4)), True),
    "itself": (lambda w: w, weight((6, 4)), False),
    "relu of it": (lambda w: x_of(5, 6) @ jax.nn.relu(w), weight((6, 4)), False),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_sum(name):
    function, held, apart = CASES[name]

    def summed(a, b):
        return jax.tree.map(jnp.sin, function(held.base + SCALE * jnp.tensordot(a, b, 1)))

    def lazy(a, b):
        made = LowRank(held.base, a, b, SCALE, held.read)
        return jax.tree.map(jnp.sin, call_with(lambda weights: function(weights[0]), [made]))

    for one, other in zip(*(jax.tree.leaves(f(held.a, held.b)) for f in (lazy, summed)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)
    grads = [jax.grad(lambda a, b, f=f: sum(map(jnp.sum, jax.tree.leaves(f(a, b)))), (0, 1))(held.a, held.b)
             for f in (lazy, summed)]  # fmt: skip
    for one, other in zip(*grads, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    made = [e for e in equations(jax.make_jaxpr(lazy)(held.a, held.b)) if _makes(e, held)]
    assert bool(made) != apart


def _makes(equation, held):
    """Whether an equation multiplies the two factors with each other."""
    is_product = equation.primitive.name == "dot_general"
    return is_product and sorted(v.aval.size for v in equation.invars) == sorted((held.a.size, held.b.size))


def test_the_gradient_has_no_product_as_large_as_that_by_the_weight():
    held, x = weight((64, 48), rank=2), x_of(32, 64)

    def loss(a, b, lazy):
        made = LowRank(held.base, a, b, SCALE, held.read)
        called = call_with(lambda weights: x @ weights[0], [made]) if lazy else x @ made.dense()
        return jnp.sum(called**2)

    flops = [jax.jit(jax.grad(loss, (0, 1)), static_argnums=2).lower(held.a, held.b, lazy).cost_analysis()["flops"]
             for lazy in (True, False)]  # fmt: skip
    assert flops[0] < 0.75 * flops[1]


def test_what_is_no_array_is_handed_on():
    outputs = call_with(lambda weights: {"y": x_of(5, 6) @ weights[0], "name": "head", "n": 3}, [weight((6, 4))])
    assert (outputs["name"], outputs["n"], outputs["y"].shape) == ("head", 3, (5, 4))


def test_an_operation_keeps_its_name():
    def named(weights):
        with jax.named_scope("layer"):
            return x_of(5, 6) @ weights[0]

    traced = jax.make_jaxpr(lambda a: call_with(named, [LowRank(HELD.base, a, HELD.b, SCALE, HELD.read)]))(HELD.a)
    found = [e for e in equations(traced) if e.primitive.name == "dot_general"]
    assert len(found) == 3
    assert all("layer" in str(e.source_info.name_stack) for e in found)


HELD = weight((6, 4))
