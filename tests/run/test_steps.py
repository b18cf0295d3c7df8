"""The train step of a configuration: where its gradient comes from, in a run and in what is told of it."""

import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.config.build import build
from jaxprop.run import compose
from jaxprop.run.train import train
from jaxprop.tools.info import describe

DIGITS = {
    "task": {"name": "classify"},
    "data": {"name": "digits", "batch_size": 64},
    "model": {"name": "mlp", "hidden": [8]},
    "optimizer": {"name": "adam", "lr": 0.03},
    "parallel": {"devices": 1},
    "run": {"steps": 6, "log_every": 1, "eval_every": 6},
}
ESTIMATORS = {
    "forward": {"samples": 8},
    "spsa": {"samples": 8},
    "evolution": {"population": 16},
}


def config(name, steps=6, **sections):
    run = {**DIGITS["run"], "steps": steps, "eval_every": steps}
    return build(DIGITS | {"gradient": {"estimator": name, **ESTIMATORS[name]}, "run": run} | sections)


def test_without_a_section_nothing_stands_in_place_of_the_gradient():
    assert compose.compose(build(DIGITS)).step.recipe.gradient is None


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_run_goes_on_exactly_where_it_was_stopped(name, tmp_path):
    """A checkpoint holds all that an estimate depends on: the key, and the step."""
    whole = train(config(name), tmp_path / "whole", quiet=True)
    train(config(name, 3), tmp_path / "parts", quiet=True)
    resumed = train(config(name), tmp_path / "parts", quiet=True)
    assert whole.summary["metrics"] == resumed.summary["metrics"]
    assert whole.summary["step"] == resumed.summary["step"] == 6


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimate_learns_digits(name, tmp_path):
    """Chance is 0.1; the backward pass has an accuracy of 0.93 after as many steps."""
    ran = train(config(name, 300), tmp_path / "run", quiet=True)
    assert ran.summary["metrics"]["accuracy"] > 0.6


def test_forward_mode_goes_through_the_layers_that_have_a_faster_form_without_it():
    words = {
        "task": {"name": "language"},
        "data": {"name": "stdlib_text", "max_bytes": 20000, "sequence_length": 8, "batch_size": 4},
        "model": {"name": "rnn", "cell": "lstm", "width": 8},
    }
    experiment = compose.compose(config("forward", **words))
    state = experiment.init(0)
    _, m = experiment.step(state, next(experiment.stream))
    assert np.isfinite(m.host().loss)
    assert m.host().grad_norm > 0


def test_two_devices_have_one_estimate(tmp_path):
    one, two = (train(config("spsa", parallel={"devices": n}), tmp_path / str(n), quiet=True) for n in (1, 2))
    assert two.summary["metrics"]["loss"] == pytest.approx(one.summary["metrics"]["loss"], rel=1e-3)


def test_what_is_told_of_a_step_names_the_estimator():
    assert describe(config("spsa")).gradient == "spsa, samples 8, sigma 0.001, chunk 1: 17 forward passes"
    assert describe(build(DIGITS)).gradient is None


def test_a_fit_takes_an_estimator(tmp_path):
    def loss(params, batch, key):
        return abs(params["w"] - 3.0)

    batches, params = [{"x": np.zeros(2, np.float32)}], {"w": np.float32(0.0)}
    ran = jaxprop.fit(
        loss, optax.sgd(0.1), batches, run=tmp_path / "run", steps=5, params=params, gradient="spsa", quiet=True
    )
    assert ran.params["w"] == pytest.approx(0.5, abs=1e-3)
