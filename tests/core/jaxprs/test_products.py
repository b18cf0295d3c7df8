"""`core/jaxprs/products.py`: the operations of a traced function."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core.jaxprs.products import flops_of, products


def total(function, *arguments):
    return sum(one.flops * one.times for one in products(jax.make_jaxpr(function)(*arguments)))


def conv(stride, groups=1):
    def run(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    return run


def test_products_with_batches():
    assert total(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), jnp.ones((5, 2, 3)), jnp.ones((5, 3, 4))) == 2 * 5 * 24


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 4)])
def test_a_convolution_and_both_of_its_gradients_take_the_same(stride, groups):
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4 // groups, 8))
    taps = {1: 8 * 3 - 2, 2: 4 * 3 - 1}[stride]  # along one axis, without those on the padding
    once = 2 * 2 * 8 * taps**2 * 4 / groups
    run = conv(stride, groups)
    assert total(run, x, kernel) == once
    assert total(jax.grad(lambda *both: run(*both).sum(), (0, 1)), x, kernel) == pytest.approx(3 * once)


def test_turns_of_a_scan_count_and_branches_once():
    def body(carry, x):
        return jax.lax.cond(x > 0, lambda c: c @ c, lambda c: c, carry), None

    assert total(lambda c, xs: jax.lax.scan(body, c, xs)[0], jnp.ones((3, 3)), jnp.ones(7)) == 7 * 2 * 27


def test_what_is_alike_is_one():
    found = products(jax.make_jaxpr(lambda a: (a @ a @ a, a[:1] @ a))(jnp.ones((2, 2))))
    assert [(one.name, one.times, one.moved) for one in found] == [
        ("dot 2x2 2x2 -> 2x2 float32", 2, 48), ("dot 1x2 2x2 -> 1x2 float32", 1, 32),
    ]  # fmt: skip


def test_attention_of_a_library_counts_as_its_products():
    def equation(name):
        query = SimpleNamespace(aval=SimpleNamespace(shape=(2, 16, 3, 8)))
        return SimpleNamespace(primitive=SimpleNamespace(name=name), invars=[query, query, query], params={})

    once = 2 * 2 * 2 * 3 * 16 * 16 * 8
    assert flops_of(equation("dot_product_attention_fwd_wrapper")) == once
    assert flops_of(equation("dot_product_attention_bwd_wrapper")) == 2 * once


def test_zeros_between_dilated_values_are_no_work():
    def run(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), [(3, 3), (3, 3)], lhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, kernel = jnp.ones((1, 1, 1, 1)), jnp.ones((4, 4, 1, 1))
    assert run(x, kernel).size == 16
    assert total(run, x, kernel) == 2 * 16  # each output meets the one pixel


def test_a_grid_and_a_mesh_run_the_function_as_often_as_they_have_cells():
    from jax.sharding import PartitionSpec as P

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("a",))
    sharded = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(P("a"), P()), out_specs=P("a"))
    assert total(sharded, jnp.ones((8, 3)), jnp.ones((3, 5))) == 2 * 8 * 3 * 5


def test_products_in_groups():
    x, w, sizes = jnp.ones((6, 3)), jnp.ones((2, 3, 5)), jnp.array([2, 4], jnp.int32)
    assert total(lambda x, w: jax.lax.ragged_dot(x, w, sizes), x, w) == 2 * 6 * 3 * 5
