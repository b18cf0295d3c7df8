"""`bench/train/parts.py`: the products of a step by themselves."""

import jax
import jax.numpy as jnp
import pytest

from jaxprop.bench.document import Row
from jaxprop.bench.train import parts
from jaxprop.core.jaxprs.products import products

DEVICE = jax.devices()[0]


def test_each_product_has_a_row_with_its_intensity(monkeypatch):
    monkeypatch.setattr(parts, "PLAN", parts.PLAN._replace(seconds=0, burst=0.005))
    traced = jax.make_jaxpr(lambda a, b: (a @ b @ b, a[:2] @ b))(jnp.ones((8, 4)), jnp.ones((4, 4)))
    rows = {row.name: row for row in parts.measure_parts("mine", products(traced), DEVICE)}
    large = rows["mine: dot 8x4 4x4 -> 8x4 float32"]
    assert (large.facts["count"], large.facts["flops"]) == (2, 256.0)
    assert large.facts["flops_per_byte"] == round(256 / (4 * (32 + 16 + 32)), 2)
    assert large.facts["tflops"] == large.value > 0
    assert len(rows) == 2


def test_their_seconds_add_up():
    rows = [
        Row(section="roofline", name="a", value=2.0, per_call=4.0, facts={"count": 3}),
        Row(section="roofline", name="b", value=1.0, per_call=1.0, facts={"count": 1}),
        Row(section="roofline", name="c"),
    ]
    assert parts.seconds_of(rows) == 7.0


def test_a_product_that_is_zero_is_wrong():
    assert parts._check(jnp.zeros((3, 3))) != ""
    assert parts._check(jnp.full((3, 3), jnp.nan)) != ""
    assert parts._check(jnp.ones(3)) == ""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_convolutions_too(dtype):
    def run(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    (one,) = products(jax.make_jaxpr(run)(jnp.ones((1, 4, 4, 2), dtype), jnp.ones((3, 3, 2, 5), dtype)))
    job = parts._job("mine", one, DEVICE)
    ready = job.prepare()
    assert ready.check(ready.call(0)) == ""
