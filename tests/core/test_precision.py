"""Dtype policies and the dynamic loss scale, against a plain simulation of its rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core import precision
from jaxprop.core.precision import LossScale, Policy, Scaling
from jaxprop.errors import UsageError


@pytest.mark.parametrize(
    ("name", "param", "compute", "output", "scaled"),
    [
        ("float32", jnp.float32, jnp.float32, jnp.float32, False),
        ("bfloat16", jnp.float32, jnp.bfloat16, jnp.float32, False),
        ("float16", jnp.float32, jnp.float16, jnp.float32, True),
    ],
)
def test_policies(name, param, compute, output, scaled):
    policy = precision.policy(name)
    assert policy == Policy(param, compute, output)
    assert precision.needs_scaling(policy) is scaled
    assert precision.policy(policy) is policy


def test_float64_needs_x64():
    with pytest.raises(UsageError, match="jax_enable_x64"):
        precision.policy("float64")


def test_float64_under_x64(x64):
    assert precision.policy("float64").compute == jnp.float64


def test_an_unknown_policy_names_the_nearest():
    with pytest.raises(UsageError, match="unknown precision 'bfloat61'; did you mean 'bfloat16'"):
        precision.policy("bfloat61")


def simulate(finite, scaling):
    """The rule in plain Python: halve on overflow, double after N good steps in a row, within the bounds."""
    scale, good = scaling.initial, 0
    for ok in finite:
        good = good + 1 if ok else 0
        scale = scale if ok else scale / 2
        if good == scaling.growth_interval:
            scale, good = scale * 2, 0
        scale = min(max(scale, scaling.smallest), scaling.largest)
        yield scale, good


SCALES = {
    "grows": ([True] * 7, Scaling(initial=8.0, growth_interval=3)),
    "halves": ([False] * 3, Scaling(initial=8.0, growth_interval=3)),
    "a bad step starts the count again": ([True, True, False, True, True, True], Scaling(8.0, 3)),
    "floor": ([False] * 5, Scaling(initial=2.0, growth_interval=3, smallest=1.0)),
    "ceiling": ([True] * 5, Scaling(initial=8.0, growth_interval=1, largest=16.0)),
    "mixed": (np.random.default_rng(0).random(60) > 0.3, Scaling(initial=64.0, growth_interval=2)),
}


@pytest.mark.parametrize("case", SCALES)
def test_the_loss_scale_follows_its_rule(case):
    finite, scaling = SCALES[case]
    state = precision.init_loss_scale(scaling)
    assert state == LossScale(scaling.initial, 0)
    advance = jax.jit(lambda state, ok: precision.next_loss_scale(state, ok, scaling))
    for ok, (scale, good) in zip(finite, simulate(finite, scaling), strict=True):
        state = advance(state, jnp.array(bool(ok)))
        assert (state.scale.item(), state.good_steps.item()) == (scale, good)
    assert (state.scale.dtype, state.good_steps.dtype) == (jnp.float32, jnp.int32)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_cast_leaves_all_but_floats_as_they_are(dtype):
    tree = {
        "x": np.ones(2, np.float32),
        "half": jnp.ones(2, jnp.float16),
        "n": np.ones(2, np.int32),
        "b": np.ones(2, bool),
    }
    out = precision.cast_floating(tree, dtype)
    assert {name: leaf.dtype for name, leaf in out.items()} == {"x": dtype, "half": dtype, "n": np.int32, "b": bool}


def neighbours(x):
    """The numbers of bfloat16 on both sides of float32 values that it does not hold."""
    down = jax.lax.reduce_precision(x, 8, 7)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFF0000)
    return [jax.lax.bitcast_convert_type(b, jnp.float32) for b in (bits, bits + jnp.uint32(0x10000))], down


STORED = precision.policy("float32", params="bfloat16")


def test_stochastic_rounding_is_unbiased_and_goes_to_a_neighbour():
    x = jnp.asarray(np.random.default_rng(0).normal(size=64) * np.logspace(-30, 30, 64), jnp.float32)
    many = jax.vmap(lambda key: precision.rounded({"w": x}, STORED, key)["w"])(
        jax.random.split(jax.random.key(0), 4096)
    )
    assert many.dtype == jnp.bfloat16
    (one, other), _ = neighbours(x)
    many = many.astype(jnp.float32)
    assert bool(((many == one) | (many == other)).all())
    # Of n roundings at a share p of the way, the mean is off by sqrt(p (1 - p) / n) of it.
    off = np.asarray((many.mean(0) - x) / (other - one), np.float64)
    assert np.abs(off).max() < 4.5 * 0.5 / 4096**0.5
    assert abs(off.mean()) < 4.5 * 0.5 / (64 * 4096) ** 0.5


def test_what_is_stored_already_stays_and_so_does_what_is_not_finite():
    x = jnp.array([1.0, -0.5, 0.0, -0.0, 2.0**-133, jnp.inf, -jnp.inf, jnp.nan])
    for i in range(20):
        found = precision.rounded([x], STORED, jax.random.key(i))[0]
        np.testing.assert_array_equal(found.astype(jnp.float32), x.astype(jnp.bfloat16).astype(jnp.float32))
    assert not np.isnan(precision.rounded([jnp.float32(np.finfo(np.float32).max)], STORED, jax.random.key(0))[0])


def test_leaves_are_rounded_by_keys_of_their_own():
    x = jnp.full(256, 1 + 2.0**-8)
    a, b = precision.rounded([x, x], STORED, jax.random.key(0))
    assert bool((a != b).any())
    assert precision.rounded([x], precision.policy("bfloat16"), jax.random.key(0))[0] is x


def test_masters_are_float32_only_where_updates_are_rounded():
    tree = {"w": jnp.ones(2, jnp.bfloat16), "n": jnp.ones(2, jnp.int32)}
    assert precision.masters(tree, STORED)["w"].dtype == jnp.float32
    assert precision.masters(tree, STORED)["n"].dtype == jnp.int32
    assert precision.masters(tree, Policy(jnp.bfloat16, jnp.bfloat16, jnp.float32)) is tree


class Device:
    def __init__(self, platform, capability=None, kind="a device"):
        self.platform, self.device_kind = platform, kind
        if capability is not None:
            self.compute_capability = capability


@pytest.mark.parametrize(
    "device",
    [Device("cpu"), Device("tpu", kind="TPU v5e"), Device("gpu", "7.5", "Tesla T4"), Device("gpu", "gfx942", "MI300X")],
)
def test_tf32_is_refused_where_there_is_none(device):
    with pytest.raises(
        UsageError, match=f"tf32 needs an NVIDIA GPU .* this device is {device.device_kind}; use float32"
    ):
        precision.check_device(precision.policy("tf32"), device)
    precision.check_device(precision.policy("float32"), device)


@pytest.mark.parametrize("device", [Device("gpu", "8.0"), Device("cuda", "12.0"), Device("gpu")])
def test_tf32_is_taken_where_it_is(device):
    precision.check_device(precision.policy("tf32"), device)


def test_tf32_stores_and_computes_in_float32():
    made = precision.policy("tf32")
    assert made._replace(tf32=False) == precision.policy("float32")
    assert not precision.needs_scaling(made)


def test_an_unknown_dtype_of_parameters_is_told():
    with pytest.raises(UsageError, match="unknown dtype of params 'float16'"):
        precision.policy("bfloat16", params="float16")
