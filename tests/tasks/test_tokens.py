"""Tasks with one answer for a padded sequence of tokens: the mask is of the inputs, and padding changes nothing."""

import jax
import numpy as np
import pytest

from jaxprop import data, tasks
from jaxprop.config.build import build
from jaxprop.config.schema.model import Mlp
from jaxprop.core.precision import policy
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.run.compose import compose
from jaxprop.run.evaluate import evaluate
from jaxprop.tasks.task import bind
from jaxprop.types import Source

MODELS = {
    "transformer": {"name": "transformer", "layers": 1, "width": 16, "heads": 2},
    "rnn": {"name": "rnn", "cell": "gru", "width": 16, "bidirectional": True},
}


def sequences(count, seed):
    """Texts of 1 to 8 tokens; the label is whether 3 is among them, which the padding must not hide."""
    rng = np.random.default_rng(seed)
    mask = np.arange(8) < rng.integers(1, 9, count)[:, None]
    tokens = rng.choice([1, 2, 4, 5], (count, 8))
    labels = np.arange(count) % 2
    tokens[np.arange(count), rng.integers(0, mask.sum(1))] = np.where(labels, 3, 1)
    return {"inputs": np.where(mask, tokens, 0).astype(np.int32), "labels": labels, "mask": mask.astype(np.float32)}


ANSWERS = {
    "classify": lambda labels: labels,
    "multilabel": lambda labels: np.stack([labels, 1 - labels], 1),
    "regress": lambda labels: labels.astype(np.float32),
}


def configured(tmp_path, task, model, steps=60):
    for split, seed in (("train", 0), ("test", 1)):
        arrays = sequences(64, seed)
        np.savez(tmp_path / f"{split}.npz", **arrays | {"labels": ANSWERS[task](arrays["labels"])})
    return build(
        {
            "task": {"name": task},
            "data": {"name": "arrays", "batch_size": 32, **{s: str(tmp_path / f"{s}.npz") for s in ("train", "test")}},
            "model": MODELS[model],
            "optimizer": {"name": "adam", "lr": 0.01},
            "parallel": {"devices": 1},
            "run": {"steps": steps},
        }
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", ANSWERS)
def test_every_task_learns_from_padded_tokens(tmp_path, task, model):
    experiment = compose(configured(tmp_path, task, model))
    state = experiment.init(0)
    before = evaluate(experiment, state)
    for _ in range(experiment.total_steps):
        state, _ = experiment.step(state, next(experiment.stream))
    after = evaluate(experiment, state)
    assert after["loss"] < 0.5 * before["loss"]
    assert task == "regress" or after["accuracy"] > 0.9


@pytest.mark.parametrize("model", MODELS)
def test_loss_and_gradient_do_not_depend_on_the_padding(tmp_path, model):
    config = configured(tmp_path, "classify", model)
    sources = data.open_sources(config.data, "classify")
    task = tasks.make_task(config, sources)
    batch = sources["train"].take(np.arange(6))
    short = int(batch["mask"].sum(1).max())
    params, extras = jax.jit(task.model.init)(jax.random.key(0), batch)
    longer = {**batch, **{key: np.pad(batch[key], ((0, 0), (0, 5))) for key in ("inputs", "mask")}}
    shorter = {**batch, **{key: batch[key][:, :short] for key in ("inputs", "mask")}}

    def loss(params, batch):
        return task.objective.mean_loss(params, extras, batch, jax.random.key(1), policy("float32"))[0]

    gradient = jax.jit(jax.value_and_grad(loss))
    found = [gradient(params, one) for one in (batch, longer, shorter)]
    for other in found[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), other, found[0])
    outputs, _ = jax.jit(lambda batch: task.model.apply(params, extras, batch, key=None, train=False))(batch)
    np.testing.assert_allclose(
        found[0][0], softmax_cross_entropy(outputs, {"labels": batch["labels"]})[0].mean(), rtol=1e-5
    )


def test_a_sequence_without_any_token_counts_for_nothing(tmp_path):
    config = configured(tmp_path, "classify", "transformer")
    sources = data.open_sources(config.data, "classify")
    task = tasks.make_task(config, sources)
    batch = sources["train"].take(np.arange(4))
    params, extras = jax.jit(task.model.init)(jax.random.key(0), batch)
    empty = {**batch, "mask": batch["mask"].copy(), "labels": np.array([0, 1, 0, 1], np.int32)}
    empty["mask"][-1] = 0
    three = {key: value[:3] for key, value in empty.items()}

    @jax.jit
    def sums(batch):
        return task.objective.sums(params, extras, batch, policy("float32"))

    @jax.jit
    @jax.grad
    def gradient(params, batch):
        return task.objective.mean_loss(params, extras, batch, jax.random.key(1), policy("float32"))[0]

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sums(empty), sums(three))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradient(params, empty),
        gradient(params, three),
    )


def test_categories_of_a_source_reach_the_model(tmp_path):
    """A label that only the category tells."""
    rng = np.random.default_rng(0)
    columns, numbers = rng.integers(0, 3, (64, 2)).astype(np.int32), rng.normal(size=(64, 1)).astype(np.float32)

    def take(indices):
        return {
            "inputs": numbers[indices],
            "categories": columns[indices],
            "labels": (columns[indices, 1] == 2).astype(np.int32),
        }

    model = Mlp(name="mlp", hidden=(8,))
    config = configured(tmp_path, "classify", "rnn").model_copy(update={"model": model})
    source = Source(64, take, {"classes": 2, "categories": [3, 3]}, "f00d")
    model, _, spec = bind(config, source)
    assert spec.sizes == {"classes": 2, "categories": [3, 3]}
    experiment = compose(config, {"train": source, "test": source})
    state = experiment.init(0)
    for _ in range(60):
        state, _ = experiment.step(state, next(experiment.stream))
    assert evaluate(experiment, state)["accuracy"] == 1.0
    assert model.init(jax.random.key(0), {})[0]["layers"][0]["dense"]["kernel"].shape == (1 + 3 + 3, 8)
