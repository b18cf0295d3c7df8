"""The sections of the data."""

import pytest
from pydantic import ValidationError

from jaxprop.config.schema import data


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (data.Digits, {"name": "digits", "batch_size": 0}),
        (data.Arrays, {"name": "arrays", "train": ""}),
        (data.Table, {"name": "table", "train": "a.csv"}),
        (data.Table, {"name": "table", "train": "a.csv", "target": 3}),
        (data.Table, {"name": "table", "train": "a.csv", "target": "y", "test": 1.0}),
        (data.Table, {"name": "table", "train": "a.csv", "target": "y", "test": 0}),
        (data.Table, {"name": "table", "train": "a.csv", "target": "y", "delimiter": ", "}),
        (data.Table, {"name": "table", "train": "a.csv", "target": "y", "max_bad_fraction": 1.0}),
    ],
)
def test_values_are_strict(section, values):
    with pytest.raises(ValidationError):
        section.model_validate(values)
