"""Every equation of a traced function is found, whatever it lies in, and told apart by what it lies in."""

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr

from jaxprop.core.jaxprs import walk


@jax.custom_vjp
def ruled(x):
    return jnp.sin(x)


ruled.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))


@jax.custom_jvp
def jvp_ruled(x):
    return jnp.sin(x)


jvp_ruled.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), jnp.cos(primals[0]) * tangents[0]))


def solved(x):
    return jax.lax.custom_linear_solve(lambda v: 2 * v, jnp.sin(x), lambda matvec, b: jnp.sin(b), symmetric=True)


CALLS = {
    "jit": jax.jit(jnp.sin),
    "remat": jax.checkpoint(jnp.sin),
    "custom_vjp": ruled,
    "custom_jvp": jvp_ruled,
}
PLACES = CALLS | {
    "plain": jnp.sin,
    "scan": lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=2)[0],
    "while": lambda x: jax.lax.while_loop(lambda c: c[0] < 1, jnp.sin, x),
    "cond": lambda x: jax.lax.cond(x[0] > 0, jnp.sin, lambda x: x, x),
    "vmap": jax.vmap(jax.jit(jnp.sin)),
    "linear solve": solved,
    "jit in scan in remat": jax.checkpoint(
        lambda x: jax.lax.scan(lambda c, _: (jax.jit(jnp.sin)(c), None), x, None, length=2)[0]
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_equation_is_found_wherever_it_lies(place):
    traced = jax.make_jaxpr(PLACES[place])(jnp.ones(3))
    names = [equation.primitive.name for equation in walk.equations(traced)]
    assert "sin" in names
    assert names == [equation.primitive.name for equation in walk.equations(traced.jaxpr)]


@pytest.mark.parametrize("name", CALLS)
def test_the_body_of_a_call_is_on_its_own_inputs(name):
    (equation,) = jax.make_jaxpr(CALLS[name])(jnp.ones(3)).eqns
    assert walk.is_call(equation)
    body = walk.body_of(equation)
    assert isinstance(body, ClosedJaxpr)
    assert len(body.jaxpr.invars) == len(equation.invars)
    assert [inner.primitive.name for inner in body.eqns] == ["sin"]


@pytest.mark.parametrize("name", [name for name in PLACES if name not in CALLS])
def test_what_does_more_than_run_a_function_is_no_call(name):
    outer = jax.make_jaxpr(PLACES[name])(jnp.ones(3)).eqns[-1]
    assert walk.is_call(outer) == (name in ("vmap", "jit in scan in remat"))


def test_what_is_skipped_is_seen_but_not_looked_into():
    traced = jax.make_jaxpr(lambda x: jnp.cos(ruled(x)) + PLACES["while"](x))(jnp.ones(3))

    def names(skip):
        return [equation.primitive.name for equation in walk.equations(traced, skip)]

    assert names(()).count("sin") == 2
    assert names(walk.RULES).count("sin") == 1
    assert "sin" not in names((*walk.RULES, "while"))
    assert {walk.VJP_RULE, "while", "cos"} <= set(names((*walk.RULES, "while")))


def test_callers_are_told_from_the_outermost():
    traced = jax.make_jaxpr(PLACES["jit in scan in remat"])(jnp.ones(3))
    found = {e.primitive.name: callers for e, callers in walk.equations_and_callers(traced)}
    remat, scan, jit = found["sin"]
    assert remat is traced.eqns[0]
    assert [scan.primitive.name, jit.primitive.name] == ["scan", "jit"]


def test_an_open_jaxpr_has_no_constants():
    traced = jax.make_jaxpr(lambda x: x + jnp.arange(3.0))(jnp.ones(3))
    assert walk.closed(traced) is traced
    (body,) = walk.bodies(jax.make_jaxpr(jax.checkpoint(jnp.sin))(1.0).eqns[0])
    assert isinstance(body, ClosedJaxpr)


def test_what_is_not_on_the_way_to_the_result_does_not_make_it_imprecise():
    def eps(i):
        traced = jax.make_jaxpr(lambda x: (x * 2, jnp.sum(x.astype(jnp.bfloat16)))[i])(jnp.ones(2, jnp.float64))
        return walk.narrowest(traced)

    with jax.enable_x64(True):
        assert (eps(0), eps(1)) == (jnp.finfo(jnp.float64).eps, jnp.finfo(jnp.bfloat16).eps)


def test_what_does_not_depend_on_the_inputs_asked_for_does_not_make_it_imprecise():
    """A float32 mask is the same whatever the parameters are, and so is its rounding."""

    def masked(x, y):
        return jnp.sum(jnp.where(jnp.sqrt(y) > 0.5, jax.jit(jnp.sin)(x), 0.0) * (y * 2))

    def loop(x, y):
        return jax.lax.scan(lambda c, _: (c * jnp.sin(y)[0], None), x[0], None, 2)[0]

    def eps(function, inputs):
        return walk.narrowest(jax.make_jaxpr(function)(jnp.ones(2, jnp.float64), jnp.ones(2, jnp.float32)), inputs)

    wide, narrow = jnp.finfo(jnp.float64).eps, jnp.finfo(jnp.float32).eps
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        assert (eps(masked, None), eps(masked, [1]), eps(masked, [0])) == (narrow, narrow, wide)
        assert eps(lambda x, y: jax.jit(masked)(x, y), [0]) == wide
        assert eps(lambda x, y: jnp.sum(x.astype(jnp.float32)) + y, [0]) == narrow
        assert eps(loop, [0]) == narrow  # what a loop does is not told apart
