"""A batch that grows: by steps and by the measured noise scale, in one run, whatever stops it."""

import jax
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.config.build import build
from jaxprop.config.load import load
from jaxprop.errors import ConfigError
from jaxprop.run import compose
from jaxprop.run.growth import FEWEST, Growth
from jaxprop.sinks import Sink
from tests.benches import BASE, Bench, Poisoned, bits, merged
from tests.steps import make_batch, make_params, mean_loss

STEPS = {"name": "steps", "boundaries": [4, 9], "factors": [2, 3]}
PLAIN = {"model": {"batch_norm": False, "dropout": 0.0}, "data": {"batch_size": 60}}
BY_STEPS = merged(PLAIN, {"run": {"grow_batch": STEPS, "steps": 14}})
BY_NOISE = merged(
    PLAIN,
    {
        "run": {"grow_batch": {"name": "noise_scale", "largest": 4, "ratio": 0.05, "every_steps": 6}, "steps": 20},
        "health": {"every": 1, "rare_every": 1},
        "optimizer": {"lr": 0.002},
    },
)


@pytest.fixture(scope="module")
def by_steps():
    return Bench(BY_STEPS)


@pytest.fixture(scope="module")
def by_noise():
    return Bench(BY_NOISE)


def test_a_step_of_several_batches_is_one_of_a_larger_batch():
    batches = [make_batch(i) for i in range(3)]
    large = jax.tree.map(lambda *x: np.concatenate(x), *batches)
    step = jaxprop.make_train_step(mean_loss, optax.sgd(0.5), accumulate=2)
    state, m = step.for_batches(3)(step.init(make_params(), key=jax.random.key(0)), large)
    whole = jaxprop.make_train_step(mean_loss, optax.sgd(0.5))
    wanted, expected = whole(whole.init(make_params(), key=jax.random.key(0)), large)
    np.testing.assert_allclose(m.loss, expected.loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(wanted.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def by_hand(bench, factors):
    """The run's parameters by a loop over its own stream, with a step for each size."""
    stream = compose.open_stream(bench.config, bench.experiment.sources["train"])
    state = jax.tree.map(lambda x: x.copy() if hasattr(x, "copy") else x, bench.experiment.init(0))
    for factor in factors:
        batches = [next(stream) for _ in range(factor)]
        batch = jax.tree.map(lambda *x: np.concatenate(x), *batches)
        state, _ = bench.experiment.step.for_batches(factor)(state, batch)
    return state


def test_the_batch_grows_at_its_steps(by_steps, tmp_path):
    trained = by_steps.train(tmp_path)
    sizes = [record["batch_size"] for record in trained.metrics if record["split"] == "train"]
    assert sizes == [60] * 4 + [120] * 5 + [180] * 5
    wanted = by_hand(by_steps, [1] * 4 + [2] * 5 + [3] * 5)
    assert bits(trained.loop.state.params) == bits(wanted.params)


@pytest.mark.parametrize("stop_at", [3, 4, 6, 9, 11])
def test_a_run_stopped_anywhere_grows_the_same(by_steps, tmp_path, stop_at):
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole = by_steps.train(tmp_path / "whole")
    by_steps.train(tmp_path / "stopped", stop_at=stop_at)
    resumed = by_steps.train(tmp_path / "stopped")
    assert bits(resumed.loop.state) == bits(whole.loop.state)
    assert resumed.metrics == whole.metrics


def test_the_batch_grows_by_the_noise_scale_and_a_stop_changes_nothing_of_it(by_noise, tmp_path):
    told = []

    def train(name, stop_at=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return by_noise.train(folder, stop_at=stop_at, sink=Sink(note=told.append))

    whole = train("whole")
    grown = [line for line in told if "the batch grows" in line]
    assert [line.split(":")[0] for line in grown] == ["step 6", "step 12"]
    assert "from 60 to 120 examples; the noise scale is " in grown[0]
    assert "from 120 to 240" in grown[1]
    sizes = [record["batch_size"] for record in whole.metrics if record["split"] == "train"]
    assert sizes == [60] * 6 + [120] * 6 + [240] * 8
    wanted = by_hand(by_noise, [1] * 6 + [2] * 6 + [4] * 8)
    assert bits(whole.loop.state.params) == bits(wanted.params)
    for stop_at in (5, 6, 7, 12, 15):
        train(f"stopped {stop_at}", stop_at)
        resumed = train(f"stopped {stop_at}")
        assert bits(resumed.loop.state) == bits(whole.loop.state)
        assert resumed.metrics == whole.metrics


def test_no_noise_does_not_grow_a_batch(tmp_path):
    bench = Bench(merged(BY_NOISE, {"run": {"grow_batch": {"name": "noise_scale", "ratio": 1e6}, "steps": 13}}))
    trained = bench.train(tmp_path)
    assert trained.loop._growth.factor(13) == 1
    assert trained.loop._growth._records >= FEWEST


def test_examples_of_a_batch_that_is_left_out_are_those_of_all_its_batches(by_steps, tmp_path):
    stream = Poisoned(by_steps, {7}, np.nan)
    stream.drawn = stream._stream.drawn
    trained = by_steps.train(tmp_path, stream=stream)
    (line,) = [line for line in trained.alerts if line["kind"] == "quarantine"]
    assert line["step"] == 6  # of batches 6 and 7
    assert line["rows"] == list(range(60, 120))
    plain = compose.open_stream(by_steps.config, by_steps.experiment.sources["train"])
    for _ in range(8):
        next(plain)
    assert line["examples"] == plain.drawn(plain.state(), 1).examples.tolist()


def test_the_length_of_a_run_in_epochs_counts_batches():
    config = build(
        merged(BASE, {"run": {"steps": None, "epochs": 3, "grow_batch": STEPS}, "data": {"batch_size": 240}})
    )
    assert compose.compose(config).total_steps == 4 + 5 + 2  # 18 batches: 4 x 1, 5 x 2 and 2 x 3, of which two are more
    assert Growth(config.run, 240).sizes(0, 11).__next__() == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["run.grow_batch.boundaries=[5]", "run.grow_batch.factors=[2,4]"], "1 boundaries and 2 factors"),
        (["run.grow_batch.boundaries=[9,5]", "run.grow_batch.factors=[2,4]"], "increasing boundaries"),
        (["run.grow_batch.boundaries=[5,9]", "run.grow_batch.factors=[4,2]"], "increasing factors"),
        (["run.grow_batch.boundaries=[5]", "run.grow_batch.factors=[1]"], "factors"),
        (["run.steps_per_call=4"], "set run.steps_per_call: 1"),
    ],
)
def test_a_growth_by_steps_that_does_not_fit_is_refused(changes, said):
    usual = ["run.grow_batch.name=steps", "run.grow_batch.boundaries=[5]", "run.grow_batch.factors=[2]"]
    with pytest.raises(ConfigError, match=said):
        load("digits_mlp", [*usual, *changes])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["run.accumulate=1"], "set run.accumulate to 2 or more"),
        (["health.rare_every=auto"], "health.rare_every to a number, such as 20"),
        (["run.steps=null", "run.epochs=2"], "give run.steps, not run.epochs"),
    ],
)
def test_a_growth_by_noise_that_cannot_be_measured_is_refused(changes, said):
    usual = ["run.grow_batch.name=noise_scale", "run.accumulate=2", "health.rare_every=20", "run.epochs=null"]
    load("digits_mlp", [*usual, "run.steps=80"])
    with pytest.raises(ConfigError, match=said):
        load("digits_mlp", [*usual, "run.steps=80", *changes])
