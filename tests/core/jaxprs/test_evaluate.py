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
        return evaluate.evaluate(traced, [x], evaluate.STRIPPED)[0]

    values, slopes = jax.jvp(jax.jit(stripped), (x,), (jnp.ones(3),))
    np.testing.assert_allclose(values, PLACES[place](x), rtol=1e-6)
    step = 1e-3
    np.testing.assert_allclose(slopes, (stripped(x + step) - stripped(x - step)) / (2 * step), rtol=5e-3, atol=1e-3)
    assert not any(e.primitive.name in walk.RULES for e in walk.equations(jax.make_jaxpr(stripped)(x)))


def test_an_argument_given_twice_is_differentiated_twice():
    @jax.custom_vjp
    def product(x, y):
        return x * y

    product.defvjp(lambda x, y: (x * y, (x, y)), lambda held, g: (3 * held[1] * g, 5 * held[0] * g))
    (equation,) = jax.make_jaxpr(lambda x: product(x, x))(2.0).eqns
    grads = jax.grad(lambda x, y: evaluate.bind(equation, [x, y])[0], argnums=(0, 1))(2.0, 7.0)
    assert [float(g) for g in grads] == [21.0, 10.0]


@pytest.mark.parametrize("place", PLACES)
def test_an_operation_is_replaced_wherever_it_lies(place):
    x = jnp.array([0.3, 0.7, -1.1])
    traced = jax.make_jaxpr(PLACES[place])(x)
    met = []

    def noted(equation, args):
        met.append(equation.primitive.name)
        return evaluate.inline(equation, args, {})

    values = evaluate.evaluate(traced, [x], dict.fromkeys(walk.RULES, noted))[0]
    np.testing.assert_allclose(values, PLACES[place](x), rtol=1e-6)
    assert set(met) == {walk.VJP_RULE}


def test_arrays_that_nothing_reads_any_more_are_let_go():
    """A chain of n operations holds two arrays at a time and not n."""

    class Held:
        alive = 0

        def __init__(self):
            Held.alive += 1

        def __del__(self):
            Held.alive -= 1

    def chain(x):
        for _ in range(20):
            x = jnp.sin(x)
        return x

    most = 0

    def apply(equation, inputs):
        nonlocal most
        most = max(most, Held.alive)
        return [Held()]

    evaluate.run(jax.make_jaxpr(chain)(1.0), [Held()], apply, lambda value: Held())
    assert most <= 3


def test_an_equation_is_bound_in_the_context_it_was_traced_in():
    key = jax.random.key(0)

    def draw(key):
        return jax.random.bits(key, (3,))

    with jax.threefry_partitionable(False):
        traced, expected = jax.make_jaxpr(draw)(key), draw(key)
    assert evaluate.evaluate(traced, [key], {})[0].tolist() == expected.tolist() != draw(key).tolist()
