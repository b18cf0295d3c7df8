"""Losses of the user's own code: per example, with their own weight or that of the batch."""

import jax.numpy as jnp
import pytest

from jaxprop.code.load import load_code
from jaxprop.config.load import load
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.losses.own import own_loss

MINE = """\
import jax.numpy as jnp

def plain(outputs, batch, scale: float = 1.0):
    return scale * outputs

def weighed(outputs, batch):
    return outputs, 2 * outputs

def averaged(outputs, batch):
    return outputs.mean()

def fails(outputs, batch):
    return outputs @ jnp.ones(7)

class Scaled:
    def __init__(self, classes):
        self.classes = classes

    def __call__(self, outputs, batch):
        return self.classes * outputs
"""
YAML = "data: {name: digits}\nmodel: {name: mlp}\noptimizer: {name: sgd, lr: 0.1}\nrun: {steps: 1}\n"


@pytest.fixture
def made(tmp_path):
    def loss(words):
        (tmp_path / "mine.py").write_text(MINE)
        (tmp_path / "mine.yaml").write_text(f"{YAML}task: {{name: classify, loss: {{class: mine.py:{words}}}}}\n")
        section = load(tmp_path / "mine.yaml").config.task.loss
        return own_loss(load_code(section, ("task", "loss")), {"classes": 3})

    return loss


OUTPUTS, WEIGHT = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])


@pytest.mark.parametrize(
    ("words", "batch", "losses", "weights"),
    [
        ("plain", {}, [1, 2], [1, 1]),
        ("plain, scale: 3", {"weight": WEIGHT}, [3, 6], [1, 0]),
        ("plain", {"mask": jnp.array([[0, 0], [0, 1]])}, [1, 2], [0, 1]),
        ("weighed", {"weight": WEIGHT}, [1, 2], [2, 4]),
        ("Scaled", {"weight": WEIGHT}, [3, 6], [1, 0]),
    ],
)
def test_the_loss_and_the_weight_of_each_example(made, words, batch, losses, weights):
    loss, weight = made(words)(OUTPUTS, batch)
    assert (loss.tolist(), weight.tolist()) == (losses, weights)


def test_a_mean_is_refused(made):
    with pytest.raises(ShapeError, match=r"expected mine.py:averaged to return the loss of each example, \[B\]"):
        made("averaged")(OUTPUTS, {})


def test_an_error_names_the_line(made):
    with pytest.raises(ConfigError, match=r"task.loss.class: mine.py:fails raised TypeError on line 13 of mine.py"):
        made("fails")(OUTPUTS, {})
