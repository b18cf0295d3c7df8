"""The line an equation or a rule was written in: the user's, whatever library lies between it and jax."""

import inspect
import sysconfig

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprop
from jaxprop.core.jaxprs import sites, walk


def line_of(function):
    return inspect.getsourcelines(function)[1]


def own(x):
    return jnp.sin(x)


def through_optax(x):
    return optax.losses.squared_error(x)


@pytest.mark.parametrize("function", [own, through_optax])
def test_the_line_is_the_users_own(function):
    for equation in walk.equations(jax.make_jaxpr(function)(jnp.ones(3))):
        site = sites.site_of(equation)
        assert site == sites.Site(__file__, line_of(function) + 1, function.__name__)
        assert site.place == f"{__file__}:{line_of(function) + 1}"


def test_without_a_line_there_is_no_place():
    assert sites.NOWHERE.place == ""


PACKAGE = jaxprop.__file__.rpartition("/")[0]


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("/home/me/model.py", True),
        ("/venv/lib/python3.11/site-packages/mine/model.py", True),
        ("/venv/lib/python3.11/site-packages/flax/linen/linear.py", False),
        (f"{sysconfig.get_path('stdlib')}/contextlib.py", False),
        ("<frozen runpy>", False),
        (f"{PACKAGE}/models/mlp.py", True),
        (f"{PACKAGE}/data/augment/crop.py", True),
        (f"{PACKAGE}/models/adapters/nnx.py", False),
        (f"{PACKAGE}/train/step.py", False),
        ("C:\\venv\\site-packages\\optax\\losses.py", False),
    ],
)
def test_which_files_a_person_wrote(file, written):
    assert sites.is_written(file) == written


def test_a_function_of_a_library_is_known_as_such():
    (equation,) = jax.make_jaxpr(lambda x: jnp.where(x > 0, x, 0.0))(1.0).eqns[-1:]
    assert sites.is_library_function(walk.body_of(equation).jaxpr)
    (equation,) = jax.make_jaxpr(jax.jit(own))(1.0).eqns
    assert not sites.is_library_function(walk.body_of(equation).jaxpr)


def test_the_backward_pass_is_told_and_what_remat_repeats_is_not():
    def loss(x):
        with jax.named_scope("net"):
            return jnp.sum(jax.checkpoint(lambda x: jnp.sin(jnp.cos(x)))(x))

    traced = jax.make_jaxpr(jax.grad(loss))(jnp.ones(3))
    stacks = []
    for equation, callers in walk.equations_and_callers(traced):
        stack = "/".join(str(e.source_info.name_stack) for e in (*callers, equation))
        stacks.append((equation.primitive.name, sites.is_backward(stack), sites.scope_of(stack)))
    assert any(backward for _, backward, _ in stacks)
    assert ("cos", False, "net") in stacks  # once forward, and once more in the backward pass
    assert {scope for name, _, scope in stacks if name == "neg"} == {"net"}


# -- rules ----------------------------------------------------------------------------------------


@jax.custom_vjp
def square(x):
    return x * x


def forward(x):
    return x * x, x


def backward(x, g):
    return (2 * x * g,)


square.defvjp(forward, backward)


@jax.custom_jvp
def cube(x):
    return x**3


@cube.defjvp
def cube_jvp(primals, tangents):
    return primals[0] ** 3, 3 * primals[0] ** 2 * tangents[0]


@pytest.mark.parametrize(("function", "rule"), [(square, backward), (cube, cube_jvp)])
def test_a_rule_is_found_where_it_is_written(function, rule):
    (equation,) = jax.make_jaxpr(function)(2.0).eqns
    site = sites.rule_site(equation)
    assert (site.file, site.line, site.function) == (__file__, line_of(rule), rule.__name__)
    assert sites.rule_name(equation) == function.__name__


def test_a_rule_of_a_library_is_found_in_the_library():
    inside = walk.equations(jax.make_jaxpr(jax.nn.relu)(2.0))
    (equation,) = [equation for equation in inside if equation.primitive.name in walk.RULES]
    assert "/jax/" in sites.rule_site(equation).file
    assert sites.rule_name(equation) == "relu"
