"""Compiler options: those of the platform, where its compiler takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core import compiler


@pytest.fixture(autouse=True)
def fresh():
    compiler._accepted.cache_clear()
    yield
    compiler._accepted.cache_clear()


def test_this_compiler_takes_them():
    assert compiler.fast_options() == compiler.OPTIONS["cpu"]


def test_an_option_that_the_compiler_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setitem(compiler.OPTIONS, "cpu", {"xla_no_such_option": "1"})
    assert compiler.fast_options() == {}


def test_they_are_of_the_meshs_platform(monkeypatch):
    monkeypatch.setitem(compiler.OPTIONS, "cpu", {})
    assert compiler.fast_options(jaxprop.make_mesh(1)) == {}


@pytest.mark.parametrize("given", [None, {}])
def test_the_step_compiles_with_them_unless_it_is_given_others(given, monkeypatch):
    asked = []
    monkeypatch.setattr("jaxprop.train.compiled.fast_options", lambda mesh: asked.append(mesh) or {})
    step = jaxprop.make_train_step(
        lambda params, batch, key: jnp.mean((batch["x"] * params["w"]) ** 2), optax.sgd(0.1), compiler_options=given
    )  # fmt: skip
    state = step.init({"w": jnp.ones(3)}, key=jax.random.key(0))
    step(state, {"x": jnp.ones(3)}, "rows")
    assert asked == ([None] if given is None else [])


def test_a_convolution_has_the_same_gradient():
    x, k = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 8, 8, 3), (3, 3, 3, 4)]))

    def loss(k):
        y = jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(jnp.sin(y))

    found = jax.jit(jax.grad(loss), compiler_options=compiler.fast_options())(k)
    np.testing.assert_allclose(found, jax.grad(loss)(k), rtol=1e-5, atol=1e-5)
