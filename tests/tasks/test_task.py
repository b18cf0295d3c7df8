"""What every task is: a table of them, each bound to what the data look like."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop import models, tasks
from jaxprop.config.tasks import TASK_TABLE
from jaxprop.core.precision import policy
from jaxprop.data import READERS
from jaxprop.errors import ConfigError
from jaxprop.losses import LOSSES
from jaxprop.metrics import METRICS
from jaxprop.models import MODELS
from jaxprop.tasks.task import nothing_derived
from jaxprop.types import Model


def test_every_name_of_the_table_has_what_it_names():
    assert tasks.TASKS.keys() == TASK_TABLE.keys()
    for column, known in {"losses": LOSSES, "data": READERS, "models": MODELS}.items():
        assert {name for entry in TASK_TABLE.values() for name in getattr(entry, column)} == set(known)
    measured = [figure.metric for entry in TASK_TABLE.values() for figure in entry.figures.values()]
    assert set(measured) - {None} == set(METRICS)


def test_the_spec_is_of_one_record(bound):
    images = np.zeros((6, 4, 4, 2), np.float64), np.arange(6) % 2
    _, _, task = bound("classify", images, model={"name": "cnn", "channels": [2], "hidden": []})
    assert task.spec.sizes == {"classes": 2}
    shapes = {key: (value.shape, value.dtype) for key, value in task.spec.batch.items()}
    assert shapes == {"inputs": ((4, 4, 2), np.float32), "labels": ((), np.int32)}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(None, 0.5 * 3.0**2), ({"name": "huber", "delta": 1.0}, 3.0 - 0.5), ({"name": "huber", "delta": 2.0}, 4.0)],
)
def test_a_loss_of_the_config_goes_before_the_usual_one(bound, monkeypatch, loss, expected):
    """A model that always answers 3 where 0 is right."""
    three = Model(init=None, apply=lambda params, extras, batch, *, key, train: (batch["labels"] + 3.0, extras))
    monkeypatch.setattr(models, "make_model", lambda *_, **__: three)
    zeros = np.zeros((4, 1), np.float32)
    _, sources, task = bound("regress", (zeros, zeros), task={"name": "regress", "loss": loss})
    batch = sources["train"].take(np.arange(4))
    sums = task.objective.sums({}, {}, batch, policy("float32"))
    assert float(sums["loss"][0] / sums["loss"][1]) == pytest.approx(expected)
    assert float(sums["mean_absolute_error"][0] / sums["mean_absolute_error"][1]) == 3.0


def test_nothing_derived():
    assert nothing_derived({"loss": 1.0}) == {}


LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]], np.float32)
SHARES = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
PREDICTIONS = {
    "classify": (LOGITS, {"class": [0, 2], "probability": SHARES.max(-1), "probabilities": SHARES}),
    "multilabel": (LOGITS, {"probability": 1 / (1 + np.exp(-LOGITS))}),
    "regress": (LOGITS, {"value": LOGITS}),
    "translate": (LOGITS[:, None], {"token": [[0], [2]], "probability": SHARES.max(-1)[:, None]}),
    "language": (LOGITS[:, None], {"token": [[0], [2]], "probability": SHARES.max(-1)[:, None]}),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
# The outputs of the others are no array: test_detect.py, test_transcribe.py.
@pytest.mark.parametrize("name", [name for name in tasks.TASKS if name not in ("detect", "transcribe")])
def test_predictions(name, dtype):
    module = importlib.import_module(f"jaxprop.tasks.{name}")
    outputs, expected = PREDICTIONS[name]
    found = jax.jit(module.predict)(jnp.asarray(outputs, dtype), {})
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-6 if dtype == jnp.float32 else 1e-2)
        assert found[key].dtype == (jnp.int32 if key in ("class", "token") else jnp.float32)


def test_a_task_predicts_from_its_models_outputs(bound):
    labels = np.arange(6) % 3
    _, sources, task = bound("classify", (np.eye(3)[labels], labels))
    batch = sources["train"].take(np.arange(6))
    params, extras = task.model.init(jax.random.key(0), batch)
    outputs, _ = task.model.apply(params, extras, batch, key=None, train=False)
    found = task.predict(outputs, batch)
    np.testing.assert_array_equal(found["class"], np.argmax(outputs, -1))
    assert found["probability"].shape == (6,)


def test_only_what_a_task_computes_with_is_cast(bound):
    _, _, task = bound("regress", (np.zeros((4, 2)), np.zeros(4)))
    assert task.objective.cast == ("inputs",)


IMAGES = np.random.default_rng(0).normal(size=(12, 6, 6, 1)).astype(np.float32), np.arange(12) % 3
MIXED = {"augment": [{"name": "crop", "pad": 1}, {"name": "mixup", "alpha": 1.0}, {"name": "cutmix"}]}


def with_data(bound, split, **data):
    config, sources, _ = bound("classify", split)
    config = config.model_copy(update={"data": type(config.data).model_validate({**config.data.model_dump(), **data})})
    return tasks.make_task(config, sources), sources


def test_augmentation_is_bound_around_the_loss_in_training(bound):
    task, sources = with_data(bound, IMAGES, **MIXED)
    plain, _ = with_data(bound, IMAGES)
    batch = {**sources["train"].take(np.arange(8)), "weight": np.ones(8, np.float32)}
    params, extras = task.model.init(jax.random.key(0), batch)
    losses = {}
    for name, one in {"plain": plain, "augmented": task}.items():
        keys = [jax.random.key(seed) for seed in (1, 1, 2)]
        found = [one.objective.mean_loss(params, extras, batch, key, policy("float32"))[0] for key in keys]
        losses[name] = [float(loss) for loss in found]
    assert len(set(losses["plain"])) == 1
    assert losses["augmented"][0] == losses["augmented"][1]
    assert len({*losses["augmented"], *losses["plain"]}) == 3
    found, expected = (one.objective.sums(params, extras, batch, policy("float32")) for one in (task, plain))
    assert {name: [float(x) for x in pair] for name, pair in found.items()} == {
        name: [float(x) for x in pair] for name, pair in expected.items()
    }


def test_augmentation_that_does_not_fit_the_data_is_told_before_any_step(bound):
    vectors = np.zeros((12, 5), np.float32), np.arange(12) % 3
    with pytest.raises(ConfigError, match=r"^data.augment.0: crop needs images, inputs \[B, H, W, C\], got \[2, 5\]"):
        with_data(bound, vectors, augment=[{"name": "crop", "pad": 1}])
    tokens = np.zeros((12, 5), np.int64), np.arange(12) % 3
    with pytest.raises(ConfigError, match=r"^data.augment.0: noise needs floating-point inputs, got int32"):
        with_data(bound, tokens, augment=[{"name": "noise", "std": 1.0}])
