"""Levers: set in the state without moving it, and told in words."""

import jax
import jax.numpy as jnp
import pytest

from jaxprop.core.precision import LossScale
from jaxprop.health.respond.levers import Levers, change, scaled, tighten
from jaxprop.health.signals.guard import init_health
from jaxprop.types import TrainState


def test_levers_are_set_where_the_state_lies():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    for old in (jnp.float32(1), jax.device_put(jnp.float32(1), whole)):
        names = (*Levers._fields, "rate_peak")
        health = init_health()._replace(**dict.fromkeys(names, old), skips=jnp.int32(3))
        state = TrainState(0, {}, {}, (), None, (), health, ())
        new = tighten(state, Levers(0.25, rate_limit=2.0)).health
        most = float(jnp.finfo(jnp.float32).max)
        assert [getattr(new, name).item() for name in (*names, "skips")] == [0.25, most, 2.0, 0.0, 3]
        assert tighten(state, Levers(0.25, rate_limit=1.0)).health.rate_peak == 1.0  # goes on where the limit stays
        assert (new.lr_scale.sharding, new.lr_scale.committed) == (old.sharding, old.committed)
        assert (new.lr_scale.dtype, new.lr_scale.weak_type) == (jnp.float32, False)


@pytest.mark.parametrize(
    ("name", "old", "new", "value", "what"),
    [
        ("clip", Levers(), Levers(grad_limit=1.5), 1.5, "gradient clipped to norm 1.5"),
        ("cut_lr", Levers(0.5), Levers(0.25), 0.25, "learning rate x 0.5"),
        ("cut_lr", Levers(0.5), Levers(0.5, rate_limit=0.01), 0.01, "learning rate held at 0.01"),
        ("release", Levers(0.25, rate_limit=0.01), Levers(1.0, rate_limit=0.01), 1.0, "learning rate x 4"),
    ],
)
def test_a_change_is_told(name, old, new, value, what):
    assert change(name, old, new) == (value, what)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("raise_scale", 8.0, 8192.0),
        ("raise_scale", 2.0**20, 2.0**24),
        ("lower_scale", 1024.0, 64.0),
        ("lower_scale", 4.0, 1.0),
    ],
)
def test_the_loss_scale_moves_at_once_within_its_bounds(name, before, after):
    held = LossScale(jnp.float32(before), jnp.int32(7))
    state = scaled(TrainState(0, {}, {}, (), None, held, None, ()), name)
    assert (state.loss_scale.scale.item(), state.loss_scale.good_steps.item()) == (after, 0)
    assert (state.loss_scale.scale.dtype, state.loss_scale.good_steps.dtype) == (jnp.float32, jnp.int32)


def test_a_state_without_a_loss_scale_stays_as_it_is():
    state = TrainState(0, {}, {}, (), None, (), None, ())
    assert scaled(state, "raise_scale") is state
