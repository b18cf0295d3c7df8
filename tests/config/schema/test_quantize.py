"""The key `precision.quantize`: a name, or a section."""

import pytest
from pydantic import ValidationError

from jaxprop.config.schema.quantize import Quantize
from jaxprop.config.schema.run import Precision


def test_a_name_stands_for_a_section_of_this_name():
    assert Precision(quantize="int8") == Precision(quantize={"name": "int8"})
    assert Precision(quantize="int8").quantize == Quantize(name="int8", match=".*", skip=())
    assert Precision().quantize is None
    assert Precision(quantize={"name": "fp8", "skip": ["head"]}).quantize.skip == ("head",)


@pytest.mark.parametrize(
    "values", ["int4", {"match": ".*"}, {"name": "int8", "match": "("}, {"name": "int8", "skip": "head"}, True]
)
def test_what_is_refused(values):
    with pytest.raises(ValidationError):
        Precision.model_validate({"quantize": values})
