"""A step taken apart agrees with the step that trains, and does not where either is wrong."""

import jax
import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.errors import UsageError
from jaxprop.run.compose import compose
from jaxprop.tools import explain as module
from jaxprop.tools.explain import explain
from tests.benches import merged

pytestmark = pytest.mark.timeout(400)  # the fixtures train, and compile many programs

BASE = {
    "task": {"name": "classify"},
    "data": {"name": "digits", "batch_size": 16},
    "model": {"name": "mlp", "hidden": [12, 8], "dropout": 0.2, "batch_norm": True},
    "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "grad_clip": {"norm": 0.5}},
    "run": {"steps": 20},
}
CASES = {
    "plain": {},
    "warmup, frozen head": {
        "optimizer": {
            "schedule": {"name": "warmup_cosine", "warmup_steps": 3},
            "groups": [{"match": "head/.*", "freeze": True}],
        },
        "run": {"accumulate": 2, "steps_per_call": 2, "log_every": 2, "ema_decay": 0.9},
    },
    "cnn, sgd, no clip": {
        "model": {"name": "cnn", "channels": [3], "hidden": [4], "activation": "tanh"},
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    },
    "augmentation": {
        "data": {
            "augment": [{"name": "crop", "pad": 1}, {"name": "noise", "std": 0.1}, {"name": "mixup", "alpha": 0.4}]
        },
    },
    "bfloat16": {"precision": {"policy": "bfloat16"}},
    "float16": {"precision": {"policy": "float16"}},
}


@pytest.fixture(scope="module")
def found():
    return {name: explain(build(merged(BASE, over))) for name, over in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_the_train_step(found, name):
    assert found[name].ok, [check for check in found[name].checks if not check.agrees]
    names = {check.name for check in found[name].checks}
    assert {"loss", "gradient norm", "update norm", "new parameters, entry by entry"} <= names
    assert any(name.startswith("gradient RMS at ") for name in names)
    layers = {row.path.rpartition("/")[0] for row in found[name].parameters if row.update_norm}
    assert {check.removeprefix("update norm of ") for check in names if check.startswith("update norm of ")} == layers


def test_stages(found):
    step = found["plain"]
    assert [layer.name for layer in step.layers] == ["layers/0", "layers/1", "head"]
    assert step.layers[0].shapes == ((16, 12),)
    for layer in step.layers:
        assert layer.rms**2 == pytest.approx(layer.mean**2 + layer.std**2, rel=1e-4)
    for row, later in zip(step.layers, step.layers[1:], strict=False):
        assert row.ratio == pytest.approx(row.grad_rms / later.grad_rms)
    assert step.clip.after == pytest.approx(0.5, rel=1e-5)
    assert step.learning_rate == pytest.approx(0.01)
    assert step.batch_size == step.weight == 16
    assert sum(row.grad_norm**2 for row in step.parameters) == pytest.approx(step.clip.before**2, rel=1e-5)


def test_one_weight_is_followed(found):
    w = found["plain"].followed
    assert w.after == pytest.approx(w.before + w.update, abs=1e-7)
    assert w.clipped / w.grad == pytest.approx(found["plain"].clip.after / found["plain"].clip.before, rel=1e-4)
    largest = max(row.grad_norm for row in found["plain"].parameters)
    assert 0 < abs(w.grad) <= largest


def test_losses_of_single_examples_are_those_of_batches_of_one():
    config = build(merged(BASE, {"model": {"dropout": 0.0, "batch_norm": False}, "parallel": {"devices": 1}}))
    step, experiment = explain(config), compose(config)
    batch, state = next(experiment.stream), experiment.init(config.run.seed)
    for i, example in enumerate(step.examples):
        one = {name: values[i : i + 1] for name, values in batch.items()}
        loss, _ = experiment.evaluate(state.params, state.extras, one)["loss"]
        assert example.loss == pytest.approx(float(loss), rel=1e-4)
        assert example.label == one["labels"][0]


def test_the_loss_falls_by_about_what_the_gradient_promises():
    config = build(merged(BASE, {"optimizer": {"name": "sgd", "lr": 1e-3}, "model": {"dropout": 0.0}}))
    step = explain(config)
    assert step.expected < 0
    assert step.loss_after - step.loss == pytest.approx(step.expected, rel=0.05)


def test_what_differs_from_the_run_is_said(found):
    notes = found["warmup, frozen head"].notes
    assert notes[0] == "run.accumulate is 2, but this step uses the batch as a whole"
    assert notes[1].startswith("the schedule's rate is 0 up to step 1, so this is step 2")
    assert found["warmup, frozen head"].step == 2
    assert found["cnn, sgd, no clip"].clip is None
    frozen = [row for row in found["warmup, frozen head"].parameters if row.path.startswith("head/")]
    assert all(row.update_norm == 0 < row.grad_norm for row in frozen)
    trained = [row for row in found["warmup, frozen head"].parameters if not row.path.startswith("head/")]
    clip = found["warmup, frozen head"].clip
    assert sum(row.grad_norm**2 for row in trained) == pytest.approx(clip.before**2, rel=1e-5)
    assert clip.after == pytest.approx(min(clip.before, 0.5), rel=1e-5)
    assert not [check for check in found["warmup, frozen head"].checks if check.name.endswith(" of head")]


def test_a_step_that_is_not_finite_is_told(monkeypatch):
    whole = module.compose.compose

    def broken(config):
        experiment = whole(config)
        state = experiment.init(config.run.seed)
        state = state._replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
        return experiment._replace(init=lambda seed: state)

    monkeypatch.setattr(module.compose, "compose", broken)
    with pytest.raises(UsageError, match="the loss or its gradient is not finite in this step"):
        explain(build(BASE))
