"""What every task is: a table of them, each bound to what the data look like."""

import typing

import numpy as np
import pytest

from jaxprop import models, tasks
from jaxprop.config.schema.task import TASK_LOSSES, TASK_METRICS, Task
from jaxprop.core.precision import policy
from jaxprop.tasks.task import nothing_derived
from jaxprop.types import Model


def test_every_task_of_a_config_is_built():
    names = set(typing.get_args(Task.model_fields["name"].annotation))
    assert names == set(tasks.TASKS) == set(TASK_LOSSES) == set(TASK_METRICS)


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
    monkeypatch.setattr(models, "make_model", lambda section, spec: three)
    zeros = np.zeros((4, 1), np.float32)
    _, sources, task = bound("regress", (zeros, zeros), task={"name": "regress", "loss": loss})
    batch = sources["train"].take(np.arange(4))
    sums = task.objective.sums({}, {}, batch, policy("float32"))
    assert float(sums["loss"][0] / sums["loss"][1]) == pytest.approx(expected)
    assert float(sums["mean_absolute_error"][0] / sums["mean_absolute_error"][1]) == 3.0


def test_nothing_derived():
    assert nothing_derived({"loss": 1.0}) == {}
