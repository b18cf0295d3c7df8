"""The sections of how a run goes: strict values, and responses."""

import pytest
from pydantic import ValidationError

from jaxprop.config.schema import run


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (run.Run, {"seed": True}),
        (run.Run, {"seed": "7"}),
        (run.Run, {"seed": 7.0}),
        (run.Run, {"seed": -1}),
        (run.Run, {"steps": 0}),
        (run.Run, {"steps": 2**31}),
        (run.Run, {"ema_decay": 1.0}),
        (run.Run, {"ema_decay": float("nan")}),
        (run.Run, {"step": 1}),
        (run.Sinks, {"console": 1}),
        (run.Sinks, {"console": "true"}),
        (run.Checkpoint, {"mode": "MIN"}),
    ],
)
def test_values_are_strict(section, values):
    with pytest.raises(ValidationError):
        section.model_validate(values)


@pytest.mark.parametrize(
    ("on_alert", "responses"),
    [("log", ()), (["log"], ()), ("clip", ("clip",)), (["clip", "stop"], ("clip", "stop"))],
)
def test_one_response_or_a_list_of_them(on_alert, responses):
    assert run.Health(on_alert=on_alert).responses == responses
