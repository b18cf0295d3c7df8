"""A run that no memory could hold ends with a sentence, before anything is made."""

import jax
import pytest

from jaxprop.config.build import build
from jaxprop.errors import OutOfMemoryError
from jaxprop.run import room
from jaxprop.run.compose import compose
from jaxprop.run.memory import predicted

SECTIONS = {
    "task": {"name": "classify"},
    "data": {"name": "digits"},
    "optimizer": {"name": "adam", "lr": 0.1},
    "parallel": {"devices": 1},
    "run": {"steps": 1},
}


def test_a_model_that_is_much_too_large_is_refused_before_it_is_drawn():
    experiment = compose(build(SECTIONS | {"model": {"name": "mlp", "hidden": [300_000, 300_000]}}))
    with pytest.raises(OutOfMemoryError, match=r"its state and one gradient take 1.3 TiB, and this machine has .* GiB"):
        experiment.init(0)
    assert jax.eval_shape(lambda: experiment.init(0)).params["head"]["bias"].shape == (10,)  # a plan may still be made


def test_extras_are_shapes_too():
    model = {"name": "cnn", "channels": [4], "batch_norm": True}
    state = compose(build(SECTIONS | {"model": model})).init(0)
    assert jax.tree.leaves(state.extras)


def test_the_state_counts_with_one_gradient(monkeypatch):
    experiment = compose(build(SECTIONS | {"model": {"name": "mlp", "hidden": [64]}}))
    state = experiment.init(0)
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves((state._replace(key=()), state.params))) + 8  # of the key
    monkeypatch.setattr(room, "device_bytes", lambda mesh: needed + 64)
    experiment.init(0)
    monkeypatch.setattr(room, "device_bytes", lambda mesh: needed - 64)
    with pytest.raises(OutOfMemoryError, match=r"use a smaller model, an optimizer that keeps less, or more devices"):
        experiment.init(0)
    assert predicted(experiment) is not None
    monkeypatch.setattr(room, "device_bytes", lambda mesh: None)
    experiment.init(0)
