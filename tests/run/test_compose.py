"""Composition: what a configuration is built into, and the state that an experiment makes but does not hold."""

import jax
import pytest

from jaxprop.config.build import build
from jaxprop.core.precision import LossScale
from jaxprop.errors import ConfigError
from jaxprop.run.compose import compose, signals_of
from jaxprop.types import TrainState
from tests.benches import BASE, bits, merged


@pytest.mark.parametrize(("optimizer", "b2"), [("adam", 0.999), ("yogi", None), ("adamaxw", None), ("sgd", 0.999)])
def test_only_a_mean_of_squares_is_taken_for_adams_second_moment(optimizer, b2):
    sections = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"}}
    config = build(sections | {"optimizer": {"name": optimizer, "lr": 0.1}, "run": {"epochs": 1}})
    assert signals_of(config).b2 == b2


def test_an_experiment_makes_states_by_seed_and_holds_none():
    experiment = compose(build(BASE))
    assert not [leaf for leaf in jax.tree.leaves(experiment) if isinstance(leaf, jax.Array)]
    first, again, other = (experiment.init(seed) for seed in (0, 0, 1))
    assert bits(first) == bits(again)
    assert bits(first.params) != bits(other.params)
    assert bits(first.key) != bits(other.key)
    # The step donates its state, and an experiment can make another one.
    experiment.step(first, next(experiment.stream), "lean")
    assert any(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))
    assert bits(experiment.init(0)) == bits(again)


def test_the_state_is_the_one_that_the_step_of_the_same_experiment_takes():
    over = {"precision": {"policy": "float16", "loss_scale": 64.0}, "health": {"curvature": True}}
    experiment = compose(build(merged(BASE, over)))
    state = experiment.init(0)
    assert isinstance(state, TrainState)
    assert isinstance(state.loss_scale, LossScale)
    assert state.loss_scale.scale.item() == 64.0
    assert jax.tree.leaves(state.health.direction)
    assert jax.tree.leaves(state.ema)
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    after, _ = experiment.step(state, next(experiment.stream), "full")
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == before


def test_devices_that_do_not_divide_the_batch():
    base = {name: section for name, section in BASE.items() if name != "parallel"}  # all devices
    config = build(merged(base, {"data": {"batch_size": 8}, "run": {"accumulate": 2}}))
    with pytest.raises(ConfigError, match=r"microbatch of 4 cannot be divided over the 8 devices .* a multiple of 16"):
        compose(config)
