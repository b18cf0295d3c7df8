"""A traced function evaluated again: the same as it was, and without its rules wherever they lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core.jaxprs import evaluate, walk


@jax.custom_vjp
def half_right(x):
    return jnp.sin(x)


half_right.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (0.5 * g * jnp.cos(x),))


def in_scan(x):
    def turn(carry, y):
        return half_right(carry) + y, jnp.sum(carry)

    carry, sums = jax.lax.scan(turn, x, jnp.stack([x, 2 * x]), reverse=True)
    return carry + sums[0]


PLACES = {
    "plain": half_right,
    "jit": jax.jit(half_right),
    "remat": jax.checkpoint(lambda x: half_right(2 * x)),
    "scan": in_scan,
    "vmap": jax.vmap(half_right),
    "cond": lambda x: jax.lax.cond(x[0] > 0, half_right, jnp.cos, x),
    "while": lambda x: jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, half_right(c[1])), (0, x))[1],
    "scan in jit in cond": lambda x: jax.lax.switch(jnp.int32(1), [jnp.cos, jax.jit(in_scan)], x),
}


@pytest.mark.parametrize("place", PLACES)
def test_values_are_kept_and_forward_mode_passes(place):
    x = jnp.array([0.3, 0.7, -1.1])
    traced = jax.make_jaxpr(PLACES[place])(x)

    def stripped(x):
        return evaluate.evaluate(traced.jaxpr, traced.consts, [x], evaluate.STRIPPED)[0]

    values, slopes = jax.jvp(jax.jit(stripped), (x,), (jnp.ones(3),))
    np.testing.assert_allclose(values, PLACES[place](x), rtol=1e-6)
    step = 1e-3
    np.testing.assert_allclose(slopes, (stripped(x + step) - stripped(x - step)) / (2 * step), rtol=5e-3, atol=1e-3)
    assert not any(e.primitive.name in walk.RULES for e in walk.equations(jax.make_jaxpr(stripped)(x).jaxpr))


def test_an_argument_given_twice_is_differentiated_twice():
    @jax.custom_vjp
    def product(x, y):
        return x * y

    product.defvjp(lambda x, y: (x * y, (x, y)), lambda held, g: (3 * held[1] * g, 5 * held[0] * g))
    (equation,) = jax.make_jaxpr(lambda x: product(x, x))(2.0).eqns
    grads = jax.grad(lambda x, y: evaluate.as_it_is(equation, [x, y])[0], argnums=(0, 1))(2.0, 7.0)
    assert [float(g) for g in grads] == [21.0, 10.0]


def test_what_is_not_on_the_way_to_the_result_does_not_make_it_imprecise():
    def eps(i):
        traced = jax.make_jaxpr(lambda x: (x * 2, jnp.sum(x.astype(jnp.bfloat16)))[i])(jnp.ones(2, jnp.float64))
        return walk.narrowest(traced.jaxpr)

    with jax.enable_x64(True):
        assert (eps(0), eps(1)) == (jnp.finfo(jnp.float64).eps, jnp.finfo(jnp.bfloat16).eps)
