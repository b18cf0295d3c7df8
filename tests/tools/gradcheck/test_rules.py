"""Rules that autodiff cannot be compared with are left alone; those it can be are, where their values really are."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.tools.gradcheck import rules


def compared(function, x):
    traced = jax.make_jaxpr(lambda x: jnp.sum(function(x)))(x)
    calls = rules.rule_calls(traced)
    return rules.summarize(calls, rules.collect_sums(traced, calls, [x]))


def test_a_function_that_autodiff_cannot_pass_is_not_compared():
    def doubled(x):
        return jax.lax.while_loop(lambda y: jnp.max(y) < 100, lambda y: 2 * y, x)

    planted = jax.custom_vjp(doubled)
    planted.defvjp(lambda x: (doubled(x), doubled(x) / x), lambda factor, g: (g * factor,))
    with jax.enable_x64(True):
        (rule,) = compared(planted, jnp.ones(3, jnp.float64))
    assert (rule.compared, rule.agrees) == (False, True)


def test_a_rule_wrong_in_one_turn_of_a_scan_only():
    planted = jax.custom_vjp(lambda x: x**2)
    planted.defvjp(lambda x: (x**2, x), lambda x, g: (jnp.where(x > 10, 0.0, 2 * x * g),))

    def function(x):
        return jax.lax.scan(lambda carry, _: (planted(carry), None), x, None, length=3)[0]

    with jax.enable_x64(True):
        assert compared(function, jnp.asarray([1.1, 1.2], jnp.float64))[0].agrees
        assert not compared(function, jnp.asarray([1.1, 2.0], jnp.float64))[0].agrees


def test_kinks_at_the_point_itself_are_no_difference():
    with jax.enable_x64(True):
        (rule,) = compared(jax.nn.relu, jnp.zeros(4, jnp.float64))
    assert rule.compared
    assert rule.agrees


def test_two_calls_of_a_rule_are_one_row():
    with jax.enable_x64(True):
        (rule,) = compared(lambda x: jax.nn.relu6(jax.nn.relu6(x) + 1), jnp.asarray(np.linspace(-1, 1, 5)))
    assert rule.calls == 2
