"""The sections of the models."""

import pytest
from pydantic import ValidationError

from jaxprop.config.schema import model


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (model.Mlp, {"name": "mlp", "hidden": ["7"]}),
        (model.Mlp, {"name": "mlp", "hidden": [1.0]}),
        (model.Mlp, {"name": "mlp", "dropout": 1}),
        (model.Cnn, {"name": "cnn", "channels": []}),
    ],
)
def test_values_are_strict(section, values):
    with pytest.raises(ValidationError):
        section.model_validate(values)


def test_whole_numbers_may_stand_for_floats_and_lists_for_tuples():
    assert model.Mlp(name="mlp", dropout=0, hidden=[1, 2]).hidden == (1, 2)
