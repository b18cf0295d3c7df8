import subprocess
import sys

import pytest
from pydantic import ValidationError

from jaxprop.config.schema import data, model, run, task
from jaxprop.config.schema.model import Mlp
from jaxprop.config.schema.run import Health
from jaxprop.config.schema.task import Task, usual_loss
from jaxprop.config.tasks import TASK_TABLE

SECTIONS = {name: found for module in (data, model, run, task) for name, found in vars(module).items()}


def test_config_never_imports_jax():
    heavy = "[name for name in ('jax', 'numpy', 'optax') if name in sys.modules]"
    code = f"import sys, jaxprop.config.load, jaxprop.config.diff; print({heavy})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("Run", {"seed": True}),
        ("Run", {"seed": "7"}),
        ("Run", {"seed": 7.0}),
        ("Run", {"seed": -1}),
        ("Run", {"steps": 0}),
        ("Run", {"steps": 2**31}),
        ("Run", {"ema_decay": 1.0}),
        ("Run", {"ema_decay": float("nan")}),
        ("Run", {"step": 1}),
        ("Sinks", {"console": 1}),
        ("Sinks", {"console": "true"}),
        ("Mlp", {"name": "mlp", "hidden": ["7"]}),
        ("Mlp", {"name": "mlp", "hidden": [1.0]}),
        ("Mlp", {"name": "mlp", "dropout": 1}),
        ("Cnn", {"name": "cnn", "channels": []}),
        ("Digits", {"name": "digits", "batch_size": 0}),
        ("Arrays", {"name": "arrays", "train": ""}),
        ("Checkpoint", {"mode": "MIN"}),
    ],
)
def test_values_are_strict(section, values):
    with pytest.raises(ValidationError):
        SECTIONS[section].model_validate(values)


def test_whole_numbers_may_stand_for_floats_and_lists_for_tuples():
    assert Mlp(name="mlp", dropout=0, hidden=[1, 2]).hidden == (1, 2)


@pytest.mark.parametrize(
    ("on_alert", "responses"),
    [("log", ()), (["log"], ()), ("clip", ("clip",)), (["clip", "stop"], ("clip", "stop"))],
)
def test_one_response_or_a_list_of_them(on_alert, responses):
    assert Health(on_alert=on_alert).responses == responses


def test_a_config_may_name_every_task_of_the_table_with_every_loss_of_its():
    for name, entry in TASK_TABLE.items():
        assert usual_loss(name).name == entry.losses[0]
        for loss in entry.losses:
            Task.model_validate({"name": name, "loss": {"name": loss}})
    with pytest.raises(ValidationError):
        Task.model_validate({"name": "dance"})
