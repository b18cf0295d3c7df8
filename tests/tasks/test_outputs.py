"""What a model returns is held against its task before the first step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.cli import main
from jaxprop.config.build import build
from jaxprop.errors import ConfigError
from jaxprop.tasks import check_outputs
from jaxprop.tasks.panels import confusion, surest_mistakes
from jaxprop.tasks.task import Task
from jaxprop.types import Model, Objective, Spec


def checked(name, labels, shape, loss=None, **sizes):
    """Checks outputs of a shape, without its axis B."""
    arrays = {"name": "stdlib_text"} if name == "language" else {"name": "arrays", "train": "a.npz"}
    task = {"name": name} | ({} if loss is None else {"loss": loss})
    sections = {"task": task, "data": arrays, "model": {"class": "net.py:Few"}, "run": {"steps": 1}}
    config = build(sections | {"optimizer": {"name": "sgd", "lr": 0.1}})

    def apply(params, extras, batch, *, key, train):
        outputs = None if shape is None else jnp.zeros((batch["inputs"].shape[0], *shape)) * params
        return outputs, extras

    model = Model(lambda key, batch: (jnp.ones(()), {}), apply)
    made = Task(model, Objective(lambda *_: None, lambda *_: None), Spec({}, sizes), lambda *_: {})
    batch = {"inputs": np.zeros((2, 4), np.float32), "labels": labels}
    check_outputs(config, made, jax.ShapeDtypeStruct((), jnp.float32), {}, batch)


ONE, TOKENS = np.zeros(2, np.int32), np.zeros((2, 5), np.int32)
NUMBER, NUMBERS = np.zeros(2, np.float32), np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("name", "labels", "shape", "sizes"),
    [
        ("classify", ONE, (3,), {"classes": 3}),
        ("classify", ONE, (7,), {}),
        ("classify", NUMBERS, (3,), {"classes": 3}),
        ("classify", TOKENS, (5, 3), {"classes": 3}),
        ("multilabel", NUMBERS, (3,), {"classes": 3}),
        ("regress", NUMBERS, (3,), {"targets": 3}),
        ("regress", NUMBER, (), {"targets": 1}),
        ("regress", NUMBER, (1,), {"targets": 1}),
        ("language", TOKENS, (5, 9), {"vocabulary": 9}),
        ("language", TOKENS, (5, 16), {"vocabulary": 9}),
    ],
)
def test_what_fits(name, labels, shape, sizes):
    checked(name, labels, shape, **sizes)


@pytest.mark.parametrize(
    ("name", "labels", "shape", "sizes", "sentence"),
    [
        (
            "classify", ONE, (2,), {"classes": 3},
            "model.class: net.py:Few returns [B, 2], but the task classify has 3 classes, and so expects [B, 3]; give "
            "its last layer 3 outputs; an argument called classes is given that number",
        ),
        (
            "classify", ONE, (7,), {"classes": 3},
            "model.class: net.py:Few returns [B, 7], but the task classify has 3 classes, and so expects [B, 3]; give "
            "its last layer 3 outputs; an argument called classes is given that number; data.classes=7 says that there "
            "are classes without an example",
        ),
        (
            "classify", ONE, (5, 3), {"classes": 3},
            "model.class: net.py:Few returns [B, 5, 3], but the task classify has 3 classes, and so expects [B, 3]; "
            "return one array [B, 3]",
        ),
        (
            "classify", ONE, None, {"classes": 3},
            "model.class: net.py:Few returns a NoneType, but the task classify has 3 classes, and so expects [B, 3]; "
            "return one array [B, 3]",
        ),
        (
            "classify", ONE, (5, 3), {},
            "model.class: net.py:Few returns [B, 5, 3], but the task classify expects [B, classes]; return one array "
            "[B, classes]",
        ),
        (
            "multilabel", NUMBERS, (4,), {"classes": 3},
            "model.class: net.py:Few returns [B, 4], but the task multilabel has 3 labels, and so expects [B, 3]; give "
            "its last layer 3 outputs; an argument called classes is given that number; data.classes=4 says that there "
            "are classes without an example",
        ),
        (
            "regress", NUMBER, (2,), {"targets": 1},
            "model.class: net.py:Few returns [B, 2], but the task regress has 1 targets, and so expects [B, 1]; give "
            "its last layer 1 output; an argument called targets is given that number",
        ),
        (
            "language", TOKENS, (5, 8), {"vocabulary": 9},
            "model.class: net.py:Few returns [B, 5, 8], but the task language has 9 tokens, and so expects [B, 5, 9]; "
            "give its last layer 9 outputs; an argument called vocabulary is given that number",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(name, labels, shape, sizes, sentence):
    with pytest.raises(ConfigError) as error:
        checked(name, labels, shape, **sizes)
    assert str(error.value) == sentence


def test_a_loss_of_the_users_own_may_take_anything():
    checked("classify", ONE, (7,), loss={"class": "loss.py:ordinal"}, classes=3)
    predictions = {"class": np.array([0, 5]), "probability": np.array([0.5, 0.5])}
    found = confusion(predictions, {"labels": np.array([0, 1])}, ("cat", "dog", "owl"))
    assert found.data["names"] == ["cat", "dog", "5"]
    assert surest_mistakes(predictions, {"labels": np.array([0, 1])}, ("cat", "dog", "owl")).data["rows"][0][2] == "5"


@pytest.mark.parametrize("outputs", [2, 7])
def test_the_command_line_says_it_before_the_first_step(tmp_path, monkeypatch, capsys, outputs):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("a.npz", inputs=rng.normal(size=(30, 4)).astype(np.float32), labels=np.arange(30) % 3)
    (tmp_path / "net.py").write_text(
        "from flax import nnx\n\nclass Few(nnx.Module):\n    def __init__(self, out, *, rngs):\n"
        "        self.head = nnx.Linear(4, out, rngs=rngs)\n\n    def __call__(self, x):\n        return self.head(x)\n"
    )
    (tmp_path / "c.yaml").write_text(
        "task: {name: classify}\ndata: {name: arrays, train: a.npz, batch_size: 8}\n"
        f"model:\n  class: net.py:Few\n  out: {outputs}\noptimizer: {{name: sgd, lr: 0.1}}\nrun: {{steps: 3}}\n"
    )
    assert main(["train", "c.yaml"]) == 2
    said = capsys.readouterr().err
    assert f"c.yaml:4: model.class: net.py:Few returns [B, {outputs}], but the task classify has 3 classes" in said
    assert "step 1" not in said
