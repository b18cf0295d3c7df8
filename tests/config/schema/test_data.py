"""The sections of the data."""

import pytest
from pydantic import ValidationError

from jaxprop.config.schema import data


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (data.Digits, {"name": "digits", "batch_size": 0}),
        (data.Arrays, {"name": "arrays", "train": ""}),
    ],
)
def test_values_are_strict(section, values):
    with pytest.raises(ValidationError):
        section.model_validate(values)
