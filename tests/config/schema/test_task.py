"""The section of the task takes every task of the table, with every loss of its."""

import pytest
from pydantic import ValidationError

from jaxprop.config.schema.task import Task, usual_loss
from jaxprop.config.tasks import TASK_TABLE


def test_a_config_may_name_every_task_with_every_loss_of_its():
    for name, entry in TASK_TABLE.items():
        assert usual_loss(name).name == entry.losses[0]
        for loss in entry.losses:
            Task.model_validate({"name": name, "loss": {"name": loss}})
    with pytest.raises(ValidationError):
        Task.model_validate({"name": "dance"})
