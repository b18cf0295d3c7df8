"""Recurrences with the gradient of their kernel as one product, against plain differentiation of the same loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core.taps import collectors_of, columns, filling, find, zero_collectors
from jaxprop.models import recurrence
from jaxprop.models.recurrence import CELLS, Tapped, recur

TIME, BATCH, WIDTH = 7, 3, 4
TAPPED = Tapped("layer", "tanh")


def arguments(cell):
    keys = jax.random.split(jax.random.key(0), 6)
    blocks = CELLS[cell].gates * WIDTH
    return {
        "kernel": jax.random.normal(keys[0], (WIDTH, blocks)),
        "bias": jax.random.normal(keys[1], (blocks,)),
        "projected": jax.random.normal(keys[2], (TIME, BATCH, blocks)),
        "carry": tuple(jax.random.normal(key, (BATCH, WIDTH)) for key in keys[3 : 3 + CELLS[cell].carries]),
    }


def plain(cell, kernel, bias, projected, carry, mask, reverse=False):
    """The same loop, with nothing of its own for the gradient."""
    moving = {"projected": projected, "carry": carry, "mask": mask}
    return recurrence._scan(CELLS[cell], jnp.tanh, TAPPED, reverse, "none", kernel, bias, None, moving)


def one_product(cell, kernel, bias, projected, carry, mask, reverse=False, remat="none"):
    return recur(
        CELLS[cell], jnp.tanh, kernel, bias, projected, carry, mask, tapped=TAPPED, reverse=reverse, remat=remat
    )  # fmt: skip


def scalar(run, mask, given):
    """A number that depends on the last states and on all hidden ones, each in a way of its own."""
    carry, hidden = run(**given, mask=mask)
    weights = jnp.sin(jnp.arange(hidden.size, dtype=jnp.float32)).reshape(hidden.shape)
    return jnp.sum(hidden * weights) + sum(jnp.sum(jnp.cos(x)) for x in carry)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "options", [{}, {"reverse": True}, {"masked": True}, {"masked": True, "reverse": True}, {"bias": False}], ids=str
)
def test_the_gradient_is_that_of_the_plain_loop(cell, options):
    given = arguments(cell)
    if not options.get("bias", True):
        given["bias"] = None
    lengths = jnp.array([7, 4, 1])
    mask = jnp.arange(TIME)[:, None] < lengths if options.get("masked") else None
    reverse = options.get("reverse", False)
    sides = [partial(run, cell, reverse=reverse) for run in (plain, one_product)]
    expected, found = (jax.jit(jax.value_and_grad(partial(scalar, run, mask)))(given) for run in sides)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), found, expected)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_with_rematerialization_it_is_the_same(remat):
    given = arguments("gru")
    sides = [partial(one_product, "gru", remat=how) for how in ("none", remat)]
    expected, found = (jax.jit(jax.grad(partial(scalar, run, None)))(given) for run in sides)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, expected)


def test_the_kernels_gradient_is_added_up_once():
    given = arguments("lstm")
    jaxpr = jax.make_jaxpr(jax.grad(partial(scalar, partial(one_product, "lstm"), None)))(given)
    loops = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    carried = [v.aval.shape for loop in loops for v in loop.outvars[: loop.params.get("num_carry", 0)]]
    assert given["kernel"].shape not in carried
    products = [equation for equation in jaxpr.eqns if equation.primitive.name == "dot_general"]
    assert [equation.outvars[0].aval.shape for equation in products] == [given["kernel"].shape]


@pytest.mark.parametrize("cell", CELLS)
def test_taps_are_measured_and_change_nothing(cell):
    given = arguments(cell)
    loss = partial(scalar, partial(one_product, cell), None)
    taps, _ = find(loss, given)
    assert [tap.name for tap in taps] == ["layer"]

    def filled(given, collectors):
        with filling(collectors):
            return loss(given)

    found, collectors = jax.jit(jax.grad(filled, (0, 1)))(given, zero_collectors(taps))
    expected = jax.jit(jax.grad(loss))(given)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)
    _, hidden = one_product(cell, **given, mask=None)
    measured = columns(taps, collectors)
    np.testing.assert_allclose(measured["rms"][-1], np.sqrt(np.mean(np.square(hidden[-1]))), rtol=1e-5)
    assert np.all(np.asarray(measured["grad_rms"]) > 0)


def test_a_collector_is_known_only_where_it_is_filled():
    collector = zero_collectors(find(partial(scalar, partial(plain, "elman"), None), arguments("elman"))[0])
    with filling(collector):
        assert collectors_of("layer").keys() == {"layer"}
        assert collectors_of("another") == {}
    assert collectors_of("layer") == {}


def test_curvature_may_be_taken_of_its_gradient():
    given = arguments("lstm")
    direction = jax.tree.map(jnp.ones_like, given)
    sides = [partial(scalar, partial(run, "lstm"), None) for run in (plain, one_product)]
    expected, found = (jax.jvp(jax.grad(loss), (given,), (direction,))[1] for loss in sides)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), found, expected)
