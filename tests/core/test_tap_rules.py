"""Taps inside functions with derivatives of their own, which no collector can reach."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprop
from jaxprop.core import taps


def by_own_rule(rule):
    """A tapped function with a derivative of its own."""
    function = rule(lambda w, x: jaxprop.tap(jnp.tanh(w * x), "hidden", "tanh"))
    if rule is jax.custom_vjp:
        function.defvjp(lambda w, x: (function(w, x), x), lambda x, grad: (jnp.sum(grad * x), grad))
    else:
        function.defjvp(lambda primals, tangents: (function(*primals), tangents[0] * primals[1]))
    return lambda params, batch, key: jnp.sum(function(params["w"], batch["x"]))


def by_jvp(params, batch, key):
    value, tangent = jax.jvp(
        lambda x: jnp.sum(jaxprop.tap(jnp.tanh(params["w"] * x), "hidden")), (batch["x"],), (batch["x"],)
    )
    return value + tangent


@pytest.mark.parametrize(
    "loss_fn", [by_own_rule(jax.custom_vjp), by_own_rule(jax.custom_jvp), by_jvp], ids=["vjp", "jvp", "inside jvp"]
)
def test_a_tap_that_a_sink_cannot_reach_is_left_out_with_a_warning(loss_fn):
    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1))
    state = jaxprop.init_state({"w": jnp.float32(1)}, optax.sgd(0.1), key=jax.random.key(0))
    batch = {"x": jnp.arange(3.0)}
    lean, _ = step(jax.tree.map(jnp.copy, state), batch, "rows")
    with pytest.warns(UserWarning, match="no tap is measured, since one lies inside"):
        full, m = step(state, batch, "full")
    assert m.layout.taps == ()
    assert full.params["w"].item() == lean.params["w"].item() != 1


def test_what_a_loss_raises_is_not_taken_for_a_tap_out_of_reach():
    def loss_fn(params, batch, key):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        taps.find(lambda params: loss_fn(params, {}, None), {"w": jnp.ones(2)})
