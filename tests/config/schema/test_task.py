"""The section of the task, and the tables of what each task takes."""

from jaxprop.config.schema.task import TASK_LOSSES, TASK_METRICS, Task


def test_the_tables_of_tasks_name_every_task():
    names = set(Task.model_fields["name"].annotation.__args__)
    assert set(TASK_LOSSES) == set(TASK_METRICS) == names
    for name, losses in TASK_LOSSES.items():
        for loss in losses:
            Task.model_validate({"name": name, "loss": {"name": loss}})
