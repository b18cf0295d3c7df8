"""`bench/device/matmul.py`: products, checked."""

import jax
import jax.numpy as jnp
import pytest

from jaxprop.bench.device import matmul
from jaxprop.bench.rounds import Plan, WrongResult, measure

DEVICE = jax.devices()[0]
SMALL = (32, 48, 16)


@pytest.mark.parametrize("kind", [kind for kind in matmul.KINDS if kind.name != "tf32"], ids=lambda kind: kind.name)
def test_each_dtype_is_checked_against_numpy(kind):
    ready = matmul.prepare(kind, SMALL, DEVICE)
    product = ready.call(0)
    assert product.shape == (32, 16)
    assert product.dtype == kind.output
    assert ready.check(product) == ""
    assert ready.check(product.at[0, 0].add(100)) != ""
    assert ready.check(jnp.zeros_like(product)) != ""


def test_not_a_number_is_wrong():
    ready = matmul.prepare(matmul.KINDS[0], SMALL, DEVICE)
    assert "not finite" in ready.check(ready.call(0) * jnp.nan)


def test_buffers_are_rotated():
    ready = matmul.prepare(matmul.KINDS[0], SMALL, DEVICE)
    assert ready.facts["sets"] > 1
    assert not jnp.array_equal(ready.call(0), ready.call(1))
    assert jnp.array_equal(ready.call(0), ready.call(ready.facts["sets"]))


def test_work_that_a_compiler_leaves_out_is_an_error():
    n = 64
    x = jnp.ones((n, n))
    whole = jax.jit(lambda a, b: a @ b).lower(x, x).compile()
    assert matmul.work_of(whole, 2.0 * n**3)["compiled_flops"] == pytest.approx(2.0 * n**3)
    unused = jax.jit(lambda a, b: (a @ b, a + b)[1]).lower(x, x).compile()
    with pytest.raises(WrongResult, match="the compiled program has"):
        matmul.work_of(unused, 2.0 * n**3)


def test_a_dtype_that_the_device_lacks_is_its_row():
    kinds = [kind for kind in matmul.KINDS if kind.name == "tf32"]
    jobs = [job for job in matmul.jobs(DEVICE, kinds=kinds) if job.name.startswith("tf32 256")]
    (row,) = measure(jobs, Plan(seconds=0), [DEVICE])
    assert row.status == "unsupported"
    assert "not supported" in row.message


def test_zeros_are_a_section_of_their_own():
    job = next(iter(matmul.jobs(DEVICE, "zeros")))
    assert job.section == "matmul of zeros"
    assert not job.prepare().call(0).any()
