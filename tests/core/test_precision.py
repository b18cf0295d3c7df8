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
